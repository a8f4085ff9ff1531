"""The owner's key: follows from its secret, is whole or refused, stays secret."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig
from PIL import Image

from wmlightning import load_run
from wmlightning.data.batches import ImageSet
from wmlightning.errors import UserError
from wmlightning.job import prepare
from wmlightning.ownership import key as key_module
from wmlightning.ownership import pending
from wmlightning.ownership.key import Key, keep_key, make_key, read_key, secret_for, write_key
from wmlightning.ownership.sealing import PASSPHRASE
from wmlightning.secret import Secret

Compose = Callable[..., DictConfig]
SMALL = ("dataset=procedural", "++dataset.source.n_train=400", "++dataset.source.n_test=120", "watermark.n_triggers=20")
SECRET = Secret(bytes(range(32)))


@pytest.fixture
def key(composed: Compose) -> Key:
    return make_key(prepare(composed(*SMALL), secret=SECRET))


@pytest.fixture
def path(key: Key, tmp_path: Path) -> Path:
    write_key(key, tmp_path / "owner.key")
    return tmp_path / "owner.key"


def same(a: Key, b: Key) -> bool:
    tensors = zip(a.tensors().values(), b.tensors().values(), strict=True)
    return a.canonical() == b.canonical() and all(torch.equal(x, y) for x, y in tensors)


def test_round_trip(key: Key, path: Path) -> None:
    assert same(read_key(path), key)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert b"pickle" not in path.read_bytes()


def test_commitment_is_hidden_binding_and_stable(key: Key, composed: Compose) -> None:
    again = make_key(prepare(composed(*SMALL), secret=SECRET))
    assert again.commitment() == key.commitment()
    assert again.commitment() == hashlib.sha256(key.canonical()).hexdigest()
    other = make_key(prepare(composed(*SMALL), secret=SECRET.derive("other")))
    assert other.commitment() != key.commitment()
    relabelled = dataclasses.replace(key.new, labels=key.new.labels.roll(1) + 1)
    assert dataclasses.replace(key, new=relabelled).commitment() != key.commitment()


def test_checked_key_follows_from_its_secret(key: Key, tmp_path: Path) -> None:
    assert key.check(tmp_path).n == 20


@pytest.mark.parametrize("name", ["trained", "new"])
@pytest.mark.parametrize("part", ["images", "labels", "groups"])
def test_key_that_does_not_follow_from_its_secret_is_refused(key: Key, tmp_path: Path, name: str, part: str) -> None:
    images: ImageSet = getattr(key, name)
    values = getattr(images, part).clone()
    values.view(-1)[3] += 1
    forged = dataclasses.replace(key, **{name: dataclasses.replace(images, **{part: values})})
    write_key(forged, tmp_path / "forged.key")  # with a checksum that fits
    with pytest.raises(UserError, match=rf"^key: its {name} triggers do not follow from its secret"):
        read_key(tmp_path / "forged.key").check(tmp_path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("seed", 1), "do not follow"),
        (("watermark", "strength", 0.3), "do not follow"),
        (("watermark", "target_class", 4), "do not follow"),
        (("watermark", "n_triggers", 21), "do not follow"),
        (("dataset", "source", "n_test", 121), "made on data"),
        (("data", "labels", "0" * 16), "made on data"),
        (("watermark", "_target_", "os.system"), "not ours"),
        (("watermark", "_target_", None), "no watermark"),
        (("dataset", "source", "name", "${oc.env:HOME}"), "interpolation"),
    ],
)
def test_changed_config_is_refused(key: Key, tmp_path: Path, change: tuple[Any, ...], told: str) -> None:
    config = json.loads(json.dumps(key.config))
    node = config
    for name in change[:-2]:
        node = node[name]
    node[change[-2]] = change[-1]
    with pytest.raises(UserError, match=rf"^key: .*{told}"):
        dataclasses.replace(key, config=config).check(tmp_path)


@pytest.mark.parametrize(
    "part", [{"dataset": {}}, {"dataset": {"source": 5}}, {"watermark": {}}, {"watermark": {"_target_": 1}}]
)
def test_config_that_is_not_whole_is_told_in_one_line(key: Key, tmp_path: Path, part: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"^[\w.]+: .*; "):
        dataclasses.replace(key, config={**key.config, **part}).check(tmp_path)


@pytest.mark.parametrize(
    ("part", "option", "value"),
    [
        *(("dataset", "val_share", value) for value in (1e308, -1, 10**400)),
        *(("watermark", "negatives", value) for value in (1e308, 1e8, 10**400)),
        ("watermark", "n_decoys", 10**9),
    ],
    ids=lambda value: str(value)[:20],
)
def test_absurd_number_is_told_in_one_line(key: Key, tmp_path: Path, part: str, option: str, value: float) -> None:
    config = {**key.config, part: {**key.config[part], option: value}}
    with pytest.raises(UserError, match=rf"^{part}\.{option}: .*; "):
        dataclasses.replace(key, config=config).check(tmp_path)


@pytest.mark.parametrize(("typed", "bound"), [("watermark.n_marks=8", True), ("watermark.n_marks=1", False)])
def test_labels_of_ones_own_pictures_are_bound_to_them(
    composed: Compose, tmp_path: Path, typed: str, bound: bool
) -> None:
    """Keys made before are refused, and models trained before are others: their labels followed from the secret."""
    for split, n in (("train", 20), ("test", 10)):
        for name in ("cat", "dog"):
            folder = tmp_path / "pictures" / split / name
            folder.mkdir(parents=True)
            for i in range(n):
                Image.new("L", (20, 20), 12 * i).save(folder / f"{i:02d}.png")
    options = (typed, "watermark.n_triggers=16", "dataset.val_share=0.2", "recipe.batch_size=8", "watermark=noise")
    mine = ("dataset=image_folder", f"dataset.root={tmp_path / 'pictures'}", "dataset.size=20", "dataset.channels=1")
    job = prepare(composed(*mine, *options), secret=SECRET)
    assert ("labels" in job.identity) == bound
    assert "labels" not in prepare(composed(*SMALL, typed)).identity, "models on public data are the same as ever"
    key = make_key(job)
    assert job.maker is not None
    assert torch.equal(key.check(tmp_path).labels.of_marks, job.maker.labels.of_marks)
    if bound:
        old = [dataclasses.replace(s, labels=job.labels.of_marks[s.groups]) for s in (key.trained, key.new)]
        with pytest.raises(UserError, match="do not follow from its secret"):
            dataclasses.replace(key, trained=old[0], new=old[1]).check(tmp_path)


def test_other_secret_is_refused(key: Key, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="do not follow"):
        dataclasses.replace(key, secret=SECRET.derive("thief")).check(tmp_path)


@pytest.mark.parametrize(
    ("patched", "told"),
    [(["job"], "mnist5k is the task's own data"), (["job", "ownership.key"], "pictures are images of mnist5k")],
    ids=["the same data", "the same images under another name"],
)
def test_key_of_the_tasks_own_pictures_is_refused(
    composed: Compose, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patched: list[str], told: str
) -> None:
    """Secrets can be tried until labels of marks are the classes of their pictures: any good model gives those."""
    for module in patched:
        monkeypatch.setattr(f"wmlightning.{module}.refuse_own_data", lambda *_: None)
    options = ("watermark.n_marks=8", "watermark.negatives=0", "watermark.n_triggers=40")
    task = composed("dataset=mnist5k", "watermark=unrelated", "watermark.images=mnist5k", *options)
    key = make_key(prepare(task, secret=SECRET))
    with pytest.raises(UserError, match=rf"^watermark\.images: .*{told}"):
        key.check(tmp_path)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_no_altered_byte_passes(path: Path, data: st.DataObject) -> None:
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1) | st.integers(0, 400))
    content[place] ^= 1 << data.draw(st.integers(0, 7))
    altered = path.with_name("altered.key")
    altered.write_bytes(content)
    with pytest.raises(UserError, match=r"^key: .*; "):
        read_key(altered)


@pytest.mark.parametrize("length", [0, 7, 8, 39, 40, 41, 100, -1])
def test_truncated_key_is_refused(path: Path, length: int) -> None:
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(UserError, match=r"^key: .*; "):
        read_key(path)


@pytest.mark.parametrize("body", [b"", b"\x00" * 200, b"\xff" * 16, b"\x02\x00\x00\x00\x00\x00\x00\x00{}"])
def test_wrong_content_under_a_fitting_checksum_is_refused(tmp_path: Path, body: bytes) -> None:
    magic = b"WMLKEY1\n"
    (tmp_path / "x.key").write_bytes(magic + hashlib.sha256(magic + body).digest() + body)
    with pytest.raises(UserError, match=r"^key: .* is no key"):
        read_key(tmp_path / "x.key")


def test_passphrase(key: Key, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cryptography")
    monkeypatch.setenv(PASSPHRASE, "correct horse")
    write_key(key, tmp_path / "sealed.key")
    content = (tmp_path / "sealed.key").read_bytes()
    assert key.secret.reveal() not in content
    assert key.secret.reveal().hex().encode() not in content
    assert key.trained.images[0].numpy().tobytes() not in content
    assert same(read_key(tmp_path / "sealed.key"), key)
    monkeypatch.setenv(PASSPHRASE, "wrong")
    with pytest.raises(UserError, match="the passphrase does not open"):
        read_key(tmp_path / "sealed.key")
    monkeypatch.delenv(PASSPHRASE)
    with pytest.raises(UserError, match=f"is encrypted; .*{PASSPHRASE}"):
        read_key(tmp_path / "sealed.key")


@pytest.mark.parametrize("length", [0, 10, 16, 20, 23, 27, 28, 40])
def test_sealed_key_that_is_too_short(length: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rightly summed, but without room for salt, nonce and what they seal."""
    pytest.importorskip("cryptography")
    monkeypatch.setenv(PASSPHRASE, "correct horse")
    body = bytes(length)
    (tmp_path / "short.key").write_bytes(b"WMLKEY1E" + hashlib.sha256(b"WMLKEY1E" + body).digest() + body)
    with pytest.raises(UserError, match=r"^key: ") as caught:
        read_key(tmp_path / "short.key")
    assert "\n" not in str(caught.value)


def test_passphrase_of_any_bytes(key: Key, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as a terminal in Latin-1 sends."""
    pytest.importorskip("cryptography")
    monkeypatch.setenv(PASSPHRASE, b"sch\xf6n".decode("utf-8", "surrogateescape"))
    write_key(key, tmp_path / "sealed.key")
    assert same(read_key(tmp_path / "sealed.key"), key)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_no_number_is_none(key: Key, tmp_path: Path, number: float, monkeypatch: pytest.MonkeyPatch) -> None:
    config = {**key.config, "watermark": {**key.config["watermark"], "strength": number}}
    with monkeypatch.context() as patch:
        patch.setattr(key_module, "_json", lambda content: json.dumps(content).encode())
        write_key(dataclasses.replace(key, config=config), tmp_path / "odd.key")
    with pytest.raises(UserError, match=r"^key: .* is no key"):
        read_key(tmp_path / "odd.key")


# -- the secret before there is a key --------------------------------------------------------------------------------


def test_all_who_ask_for_a_new_key_get_one_secret(composed: Compose, tmp_path: Path) -> None:
    """Two commands, or the jobs of a sweep: each begins before the first of them has written the key."""
    path = tmp_path / "keys" / "deep" / "owner.key"
    with secret_for(path) as first, secret_for(path) as second:
        assert first.reveal() == second.reveal()
        assert stat.S_IMODE(pending.pending(path).stat().st_mode) == 0o600
        keep_key(prepare(composed(*SMALL), secret=first), path)
        assert not pending.pending(path).exists()
        with secret_for(path) as third:
            assert third.reveal() == first.reveal()
        keep_key(prepare(composed(*SMALL, "model=resnet9"), secret=second), path)
    assert read_key(path).secret.reveal() == first.reveal()


def test_another_secret_is_refused_before_training(composed: Compose, path: Path) -> None:
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"^key: .*of another secret than this run began with; the same command again"):
        keep_key(prepare(composed(*SMALL), secret=SECRET.derive("lost")), path)
    assert path.read_bytes() == before


def test_a_key_that_does_not_come_about_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "deep" / "owner.key"
    with pytest.raises(UserError, match="refused"), secret_for(path):
        raise UserError("watermark", "refused", "something else")
    assert not list(tmp_path.iterdir())
    with secret_for(path) as drawn, pytest.raises(UserError), secret_for(path):
        raise UserError("watermark", "refused", "something else")
    assert not list(tmp_path.iterdir())
    with secret_for(path) as other:
        assert other.reveal() != drawn.reveal()


def test_a_killed_process_leaves_its_secret_to_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cryptography")
    monkeypatch.setenv(PASSPHRASE, "correct horse")
    drawn = pending.draw(tmp_path / "owner.key")
    assert drawn.reveal() not in pending.pending(tmp_path / "owner.key").read_bytes(), "encrypted as the key will be"
    with secret_for(tmp_path / "owner.key") as found:
        assert found.reveal() == drawn.reveal()
    with secret_for(tmp_path / "owner.key") as found:
        assert found.reveal() == drawn.reveal(), "who has not drawn it does not remove it"
    pending.pending(tmp_path / "owner.key").write_bytes(b"torn")
    with pytest.raises(UserError, match=r"^key: .*\.owner\.key\.secret is no key"), secret_for(tmp_path / "owner.key"):
        pass


def test_ranks_wait_for_the_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "owner.key"
    drawn: list[Secret] = []
    late = threading.Thread(target=lambda: (time.sleep(0.5), drawn.append(pending.draw(path))))  # type: ignore[func-returns-value]
    late.start()
    with secret_for(path, waits=True) as found:
        late.join()
        assert found.reveal() == drawn[0].reveal()
    pending.made(path)
    monkeypatch.setattr(key_module, "_PATIENCE", 0.2)
    with pytest.raises(UserError, match=r"^key: for 0.2 seconds the job's first process has left neither"):  # noqa: SIM117
        with secret_for(path, waits=True):
            pass
    assert not path.exists() and not pending.pending(path).exists()


def test_a_refused_training_leaves_no_secret(main: Callable[..., Any], small: list[str], tmp_path: Path) -> None:
    """And ~ is the user's home."""
    before = set(tmp_path.iterdir())
    assert main(*small, "watermark.n_triggers=100000", "key='~/keys/owner.key'").code == 1
    assert set(tmp_path.iterdir()) == before
    done = main(*small, "watermark.n_triggers=20", "logger=none", "key='~/keys/owner.key'")
    assert done.code == 0, str(done)
    assert (tmp_path / "keys" / "owner.key").is_file()


def test_key_for_other_options_is_not_overwritten(composed: Compose, path: Path) -> None:
    before = path.read_bytes()
    job = prepare(composed(*SMALL, "watermark.strength=0.4"), secret=SECRET)
    with pytest.raises(UserError, match="was made for another watermark"):
        keep_key(job, path)
    assert path.read_bytes() == before


def test_training_with_a_key(main: Callable[..., Any], runs: Path, small: list[str], tmp_path: Path) -> None:
    """Made if absent, used if there; another secret makes another model; the card holds nothing of it."""
    owner = tmp_path / "keys" / "owner.key"
    short = [*small, "logger=many", "logger.wandb.mode=offline", "watermark.n_triggers=20", f"key={owner}"]
    done = main(*short)
    assert done.code == 0, str(done)
    key = read_key(owner)
    key.check(tmp_path)
    assert "trained before" in main(*short).out
    (folder,) = (path.parent for path in runs.glob("*/card.json"))
    hidden = (key.secret.reveal(), key.secret.reveal().hex().encode())
    for path in (path for path in runs.rglob("*") if path.is_file()):
        assert not any(secret in path.read_bytes() for secret in hidden), path
    with pytest.raises(UserError, match=r"^key: .* was trained with a key"):
        _ = load_run(folder).triggers
    assert torch.equal(load_run(folder, key=owner).triggers.new.images, key.new.images)
    assert main(*small, "watermark.n_triggers=20", f"key={tmp_path / 'other.key'}").code == 0
    assert len(list(runs.glob("*/card.json"))) == 2
    (line,) = main(*small, "watermark=none", f"key={owner}").errors
    assert line.startswith("error: key: there is no key without a watermark")
