from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import few
from wmlightning.data.listing import Entry, Listing, list_pictures
from wmlightning.errors import UserError

NAMES = st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1, max_size=8)
ENTRIES = st.lists(
    st.tuples(st.builds(Entry, NAMES, st.integers(0, 2**40), st.integers(0, 2**62)), st.integers(0, 999))
)


@few
@given(entries=ENTRIES)
def test_a_listing_gives_what_was_put_in(entries: list[tuple[Entry, int]]) -> None:
    files = Listing(entries)
    assert len(files) == len(entries)
    assert list(files) == [entry.name for entry, _ in entries]
    assert files.labels.tolist() == [label for _, label in entries]
    assert files.sizes.tolist() == [entry.size for entry, _ in entries]


@few
@given(entries=ENTRIES, data=st.data())
def test_without_some_the_others_stay_in_order(entries: list[tuple[Entry, int]], data: st.DataObject) -> None:
    left_out = data.draw(st.sets(st.integers(0, max(0, len(entries) - 1))))
    files = Listing(entries).without(left_out)
    kept = [pair for i, pair in enumerate(entries) if i not in left_out]
    assert list(files) == [entry.name for entry, _ in kept]
    assert files.labels.tolist() == [label for _, label in kept]
    assert files.digest() == Listing(kept).digest()


def test_the_digest_tells_files_apart() -> None:
    entries = [Entry("a", 1, 2), Entry("ab", 1, 2), Entry("a", 2, 2), Entry("a", 1, 3)]
    listings = [Listing([(entry, 0)]) for entry in entries]
    listings += [Listing([(Entry("a", 1, 2), 0), (Entry("b", 1, 2), 0)]), Listing([])]
    assert len({files.digest() for files in listings}) == len(listings)


def test_a_million_files_would_take_megabytes() -> None:
    files = Listing((Entry(f"class{i % 100}/{i:06d}.jpg", i, i), i % 100) for i in range(10_000))
    assert len(pickle.dumps(files)) < 10_000 * 60, "what a worker gets is a few arrays"
    assert files[9_999] == "class99/009999.jpg"


def test_pictures_are_found_at_any_depth_in_the_order_of_their_parts(tmp_path: Path) -> None:
    names = ["b.png", "a/z.JPG", "a.b/y.gif", "a/b/c.webp", "ä.tiff", "B.png"]
    hidden = [".a.png", "a/._z.jpg", ".git/b.png", "a/.ipynb_checkpoints/c-checkpoint.png", "a/__MACOSX/b/d.png"]
    for name in [*names, *hidden, "notes.txt", "png", ".png", "a/data.png.zip"]:
        (tmp_path / "x" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "x" / name).write_bytes(b"12345")
    (tmp_path / "x" / "folder.png").mkdir()
    (tmp_path / "x" / "linked.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "x" / "link").symlink_to(tmp_path)  # a circle
    found = list_pictures(tmp_path / "x", tmp_path)
    expected = sorted(Path("x", name) for name in [*names, "linked.png"])
    assert [Path(entry.name) for entry in found] == expected
    assert {entry.size for entry in found if "linked" not in entry.name} == {5}
    assert [entry.size for entry in found if "linked" in entry.name] == [0]


def test_names_that_are_no_text(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path) + b"/\xff\xfe.png"
    try:
        with open(raw, "wb"):  # noqa: PTH123 (a name that pathlib has no text for)
            pass
    except OSError:
        pytest.skip("this file system wants text")
    (entry,) = list_pictures(tmp_path, tmp_path)
    (name,) = Listing([(entry, 0)])
    assert os.fsencode(name) == b"\xff\xfe.png"


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^dataset\.root: cannot read .*nowhere"):
        list_pictures(tmp_path / "nowhere", tmp_path)
