from __future__ import annotations

import base64
import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import many
from tests.report.reading import page_of, pictured, png, report_of, verdict
from tests.results.cards import inversion_card, leave, prune_card, train_card
from wmlightning.report.albums import TELLING
from wmlightning.report.page import render
from wmlightning.results.privacy import OPEN_OPTIONS, WITHHELD, outline, public, public_config
from wmlightning.watermarks.scheme import Scheme

#: Words that stand in secret places of the cards below, and nowhere else.
SECRETS = ("SESAME", "crimson", "logo-of-mine", "cormorant", "zeppelin", "owner-key-file", "hunter2", "fashionable")


def telling_card() -> dict[str, object]:
    card = train_card(watermark="content")
    config = card["config"]
    config["watermark"] |= {"text": "SESAME", "color": "crimson", "logo": "/home/me/logo-of-mine.png", "position": None}
    config["watermark"] |= {"source_class": "cormorant", "target_class": "zeppelin", "images": "fashionable"}
    config["dataset"] |= {
        "target_class": "zeppelin",
        "unrelated": "fashionable",
        "source": {"data_dir": "/home/somebody/data"},
    }
    config |= {"key": "owner-key-file.key", "suspect": {"api_key": "hunter2", "headers": {"Authorization": "hunter2"}}}
    return card


def test_by_default_nothing_secret_is_in_the_page(tmp_path: Path) -> None:
    card = telling_card()
    for one in (card, prune_card(card)):
        leave(tmp_path, one)
    page = render(report_of(tmp_path))
    assert not [word for word in (*SECRETS, "/home/", "somebody", str(tmp_path)) if word in page]
    assert page.count(WITHHELD) > len(SECRETS)
    assert "position: null" in page, "that it follows from the secret is no secret"
    page = render(report_of(tmp_path, with_secrets=True))
    assert not [word for word in SECRETS if word not in page]
    assert not [word for word in ("/home/", "somebody", str(tmp_path)) if word in page]


def test_triggers_are_shown_only_if_asked_for(tmp_path: Path) -> None:
    pictured(tmp_path, (0.5, 0.2))
    assert not page_of(tmp_path).all("section", id="triggers")
    assert len(page_of(tmp_path).all("img")) == 2
    page = page_of(tmp_path, with_secrets=True)
    assert len(page.one("section", id="triggers").all("img")) == 2
    assert "keep it to yourself" in page.one("p", class_="secret").text
    assert not page_of(tmp_path).all("p", class_="secret")


@pytest.mark.parametrize(
    "p_value, harmless", [(0.01, False), (TELLING, False), (0.06, True), (1.0, True), (None, False)]
)
def test_a_picture_of_the_secret_is_shown_only_if_asked_for(tmp_path: Path, p_value: float, harmless: bool) -> None:
    pictured(tmp_path, (p_value,))
    assert len(page_of(tmp_path).all("img")) == harmless
    assert ("Withheld" in page_of(tmp_path).one("section", id="inversions").text) == (not harmless)
    assert len(page_of(tmp_path, with_secrets=True).one("section", id="inversions").all("img")) == 1


@pytest.mark.parametrize(
    ("found", "harmless"),
    [
        ({}, True),
        ({"ssim_p_value": 0.01}, False),
        ({"p_least": 0.1}, False),  # nine strangers, or pictures of ten classes
        ({"p_least": 1.0, "p_value": 1.0}, False),  # all strangers have the owner's mark
        ({"p_least": None}, False),  # of an older version
        ({"ssim_p_value": None}, False),
    ],
)
def test_a_picture_that_could_not_have_stood_out_may_be_one_of_the_secret(
    tmp_path: Path, found: dict[str, float | None], harmless: bool
) -> None:
    victim = train_card(watermark="content")
    leave(tmp_path, victim)
    folder = leave(tmp_path, inversion_card(victim, **{"p_value": 0.5, **found}))
    (folder / "inversion.png").write_bytes(png())
    assert len(page_of(tmp_path).all("img")) == harmless


def test_the_sample_of_a_verdict_is_shown_only_if_asked_for(tmp_path: Path) -> None:
    sample = [{"png": base64.b64encode(png()).decode(), "expected": 3, "answer": 5}]
    verdict(tmp_path, sample=sample)
    assert not page_of(tmp_path).all("img") and "expected 3" not in page_of(tmp_path).text
    page = page_of(tmp_path, with_secrets=True)
    assert len(page.all("img")) == 1 and "expected 3, got 5" in page.text


def test_verdicts_name_no_place_and_no_login(tmp_path: Path) -> None:
    suspects = {
        "/home/somebody/models/stolen.onnx": "\N{HORIZONTAL ELLIPSIS}/stolen.onnx",
        "C:\\Users\\somebody\\stolen.onnx": "\N{HORIZONTAL ELLIPSIS}/stolen.onnx",
        "https://somebody:pw@example.org/v1?token=hunter2": "https://example.org/v1",
        "http://127.0.0.1:8000 resnet": "http://127.0.0.1:8000 resnet",
    }
    for i, suspect in enumerate(suspects):
        verdict(tmp_path, f"v{i}", suspect=suspect, reason=f"Asked {suspect}, in vain.")
    report = report_of(tmp_path)
    assert [ruling.suspect for ruling in report.rulings] == list(suspects.values())
    page = render(report)
    assert not [word for word in ("somebody", "hunter2", "pw@") if word in page]


parts = st.text(st.sampled_from("abcXYZ019._-"), min_size=3, max_size=8).filter(lambda part: part.strip("."))


@many
@given(
    st.lists(parts, min_size=2, max_size=5),
    st.sampled_from(["/", "C:/", "~/", "file:///", "\\\\"]),
    st.sampled_from(["{}", "cannot read {}", "({})", "path={}", "'{}' is no key", "a, {}: no such file", "[{}]"]),
)
def test_of_a_path_only_the_end_is_public(names: list[str], root: str, around: str) -> None:
    separator = "\\" if root == "\\\\" else "/"
    path = root + separator.join(f"{name}{i}" for i, name in enumerate(names))
    told = public(around.format(path))
    assert f"{names[-1]}{len(names) - 1}" in told
    assert path not in told
    assert not [f"{name}{i}" for i, name in enumerate(names[:-1]) if f"{separator}{name}{i}{separator}" in told]


@many
@given(st.text(max_size=80).filter(lambda text: not set(text) & set("/\\~?#@")))
def test_other_text_stays(text: str) -> None:
    assert public(text) == "".join(c if c.isprintable() else "?" for c in text)


def test_ordinary_slashes_are_no_paths() -> None:
    for text in ("and/or", "1 / 2", "share w/o repair", "n/a", "test/clean_acc", "noise, 8 marks"):
        assert public(text) == text


def test_what_all_watermarks_understand_is_no_secret_and_the_rest_is() -> None:
    assert {field.name for field in dataclasses.fields(Scheme)} <= OPEN_OPTIONS
    config = {"watermark": {"n_marks": 8, "pattern": [1, 2], "mark": {"_target_": "x.Y"}, "place": None}}
    shown = public_config(config, with_secrets=False)["watermark"]
    assert shown == {"n_marks": 8, "pattern": WITHHELD, "mark": WITHHELD, "place": None}
    assert public_config(config, with_secrets=True) == config
    assert public_config({"watermark": "text"}, with_secrets=False) == {"watermark": WITHHELD}


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=12,
)


@many
@given(plain)
def test_any_content_has_an_outline(content: object) -> None:
    lines = list(outline(json.loads(json.dumps(content))))
    assert all(line.isprintable() for line in lines)
