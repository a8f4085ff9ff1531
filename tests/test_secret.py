from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtri
from scipy.stats import chi2, kstest

from tests.helpers import SECRET, few
from wmlightning.secret import Secret, Stream, _normal_quantiles
from wmlightning.watermarks.base import Mark

KEYS = st.binary(min_size=32, max_size=32)


@pytest.mark.parametrize("length", [0, 16, 31, 33, 64])
def test_a_secret_has_32_bytes(length: int) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        Secret(bytes(length))


def test_secret_does_not_show_its_bytes() -> None:
    key = b"0123456789abcdefFEDCBA9876543210"
    secret = Secret(key)
    stream = Stream(key)
    shown = [repr(secret), str(secret), f"{secret}", repr(Mark(secret, "key", 0, 0)), repr(stream), f"{[secret]}"]
    for text in shown:
        assert key.decode() not in text
        assert key.hex() not in text
    with pytest.raises(TypeError):
        vars(secret)  # nothing that a logger of attributes would find


@few
@given(key=KEYS, label=st.text(max_size=20))
def test_streams_follow_from_key_and_label_alone(key: bytes, label: str) -> None:
    first, second = (Secret(key).stream(label) for _ in range(2))
    assert (first.integers(20, 1000) == second.integers(20, 1000)).all()
    assert (first.normal((3, 4)) == second.normal((3, 4))).all()
    assert (first.sample(50, 10) == second.sample(50, 10)).all()


@few
@given(key=KEYS, one=st.text(max_size=20), other=st.text(max_size=20))
def test_other_labels_and_keys_give_other_numbers(key: bytes, one: str, other: str) -> None:
    secret = Secret(key)
    changed = Secret(bytes([key[0] ^ 1]) + key[1:])
    numbers = secret.stream(one).integers(8, 2**32).tolist()
    assert numbers != changed.stream(one).integers(8, 2**32).tolist()
    assert numbers != secret.derive(one).stream(one).integers(8, 2**32).tolist()
    if one != other:
        assert numbers != secret.stream(other).integers(8, 2**32).tolist()


def test_a_stream_goes_on_instead_of_repeating() -> None:
    stream = SECRET.stream("goes on")
    draws = [tuple(stream.integers(4, 2**40).tolist()) for _ in range(100)]
    assert len(set(draws)) == 100


@few
@given(key=KEYS, n=st.integers(0, 60), bound=st.sampled_from([1, 2, 3, 7, 255, 2**31, 2**62 + 1, 2**63]))
def test_integers_are_in_range(key: bytes, n: int, bound: int) -> None:
    numbers = Secret(key).stream("x").integers(n, bound)
    assert numbers.shape == (n,)
    assert numbers.dtype == np.int64
    assert ((numbers >= 0) & (numbers < bound)).all()


@pytest.mark.parametrize("bound", [0, -1])
def test_no_integer_below_a_bound_that_is_not_positive(bound: int) -> None:
    with pytest.raises(ValueError, match="bound"):
        SECRET.stream("x").integers(1, bound)


@pytest.mark.parametrize("bound", [2, 3, 10, 256])
def test_integers_are_uniform(bound: int) -> None:
    counts = np.bincount(SECRET.stream("uniform").integers(20_000, bound), minlength=bound)
    expected = 20_000 / bound
    assert ((counts - expected) ** 2 / expected).sum() < chi2.ppf(1 - 1e-6, bound - 1)


class _Scripted(Stream):
    """A stream whose random words are given."""

    def __init__(self, *words: int) -> None:
        super().__init__(bytes(32))
        self.left = list(words)

    def _words(self, n: int) -> np.ndarray:
        words, self.left = self.left[:n], self.left[n:]
        assert len(words) == n
        return np.array(words, np.uint64)


@pytest.mark.parametrize("bound", [3, 10, 2**62 + 1, 2**63 - 1])
def test_words_beyond_the_last_whole_multiple_are_drawn_again(bound: int) -> None:
    limit = 2**64 - 2**64 % bound  # the first word that would favour small numbers
    stream = _Scripted(limit - 1, limit, 0, 2**64 - 1, limit, 5)
    # The second word is drawn again (2**64 - 1: still beyond; limit: again; then 5).
    assert stream.integers(3, bound).tolist() == [(limit - 1) % bound, 5 % bound, 0]
    assert not stream.left


@pytest.mark.parametrize("bound", [1, 2, 2**16, 2**63])
def test_powers_of_two_reject_nothing(bound: int) -> None:
    stream = _Scripted(2**64 - 1, 0)
    assert stream.integers(2, bound).tolist() == [bound - 1, 0]


def test_rejection_removes_the_bias_of_the_modulo() -> None:
    bound = 2**63 + 2**62  # a bare modulo would give numbers below 2**62 half of the time, not a third
    numbers = SECRET.stream("bias").integers(6000, bound).astype(np.uint64)
    below = int((numbers < 2**62).sum())
    assert abs(below - 2000) < 5 * (6000 * 2 / 9) ** 0.5


@few
@given(key=KEYS, n=st.integers(0, 60), data=st.data())
def test_samples_are_different_numbers(key: bytes, n: int, data: st.DataObject) -> None:
    k = data.draw(st.integers(0, n))
    drawn = Secret(key).stream("sample").sample(n, k).tolist()
    assert len(drawn) == len(set(drawn)) == k
    assert all(0 <= number < n for number in drawn)


@pytest.mark.parametrize(("n", "k"), [(3, 4), (0, 1), (3, -1)])
def test_no_sample_of_more_than_there_are(n: int, k: int) -> None:
    with pytest.raises(ValueError, match="cannot draw"):
        SECRET.stream("x").sample(n, k)


def test_every_number_comes_first_in_a_sample_equally_often() -> None:
    firsts = [SECRET.stream(f"order/{i}").sample(6, 6)[0] for i in range(3000)]
    counts = np.bincount(firsts, minlength=6)
    assert ((counts - 500) ** 2 / 500).sum() < chi2.ppf(1 - 1e-6, 5)


def test_normal_numbers_are_normal_and_on_the_grid() -> None:
    numbers = SECRET.stream("normal").normal((100, 200))
    assert numbers.shape == (100, 200)
    assert kstest(numbers.ravel(), "norm").pvalue > 1e-4
    steps = numbers * 2**20
    assert (steps == np.rint(steps)).all()
    assert SECRET.stream("normal").normal((0, 3)).shape == (0, 3)


def test_no_quantile_is_so_near_to_a_tie_that_platforms_could_round_it_apart() -> None:
    exact = ndtri((np.arange(2**16) + 0.5) / 2**16) * 2**20
    distance = np.abs(exact - np.floor(exact) - 0.5)
    assert distance.min() > 1e-6
    table = _normal_quantiles()
    assert (np.abs(table - exact) < 0.5).all()
    assert (table == -table[::-1]).all()


def test_seeds_make_different_study_secrets() -> None:
    first = [Secret.from_seed(seed).stream("x").integer(2**62) for seed in range(50)]
    assert len(set(first)) == 50
    assert first[3] == Secret.from_seed(3).stream("x").integer(2**62)


@few
@given(key=KEYS)
def test_secrets_survive_copies_between_processes(key: bytes) -> None:
    secret = pickle.loads(pickle.dumps(Secret(key)))
    assert secret.stream("x").integer(2**62) == Secret(key).stream("x").integer(2**62)
