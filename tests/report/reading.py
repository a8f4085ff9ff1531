"""The page taken apart, and folders of runs to make it from."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from tests.results.cards import finetune_card, inversion_card, leave, prune_card, train_card
from wmlightning.report.page import Report, gather, render

VOID = {"meta", "img", "input", "br", "hr", "link"}


@dataclass
class Node:
    """An element."""

    tag: str
    attributes: dict[str, str]
    parent: Node | None
    children: list[Node | str] = field(default_factory=list)

    def all(self, tag: str, **wanted: str) -> list[Node]:
        """All elements below with this tag and these attributes, in their order."""
        found = []
        for child in self.children:
            if isinstance(child, Node):
                if child.tag == tag and all(child.attributes.get(k.rstrip("_")) == v for k, v in wanted.items()):
                    found.append(child)
                found += child.all(tag, **wanted)
        return found

    def one(self, tag: str, **wanted: str) -> Node:
        (found,) = self.all(tag, **wanted)
        return found

    def everything(self) -> list[Node]:
        below = [child for child in self.children if isinstance(child, Node)]
        return [self, *(node for child in below for node in child.everything())]

    @property
    def text(self) -> str:
        return " ".join("".join(c if isinstance(c, str) else f" {c.text} " for c in self.children).split())


class _Builder(HTMLParser):
    """Refuses what a browser would have to guess at: elements that are not closed, or closed in another order."""

    def __init__(self) -> None:
        super().__init__()
        self.root = self.here = Node("", {}, None)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), (tag, names)
        node = Node(tag, {name: value or "" for name, value in attrs}, self.here)
        self.here.children.append(node)
        if tag not in VOID:
            self.here = node

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.here.tag == tag, (self.here.tag, tag)
        assert self.here.parent is not None
        self.here = self.here.parent

    def handle_data(self, data: str) -> None:
        self.here.children.append(data)


def parsed(page: str) -> Node:
    builder = _Builder()
    builder.feed(page)
    builder.close()
    assert builder.here is builder.root, builder.here.tag
    return builder.root


def report_of(runs: Path, *only: str, with_secrets: bool = False, complaints: int = 0) -> Report:
    heard: list[str] = []
    report = gather(runs, only, with_secrets, heard.append)
    assert len(heard) == complaints, heard
    return report


def page_of(runs: Path, *only: str, with_secrets: bool = False, complaints: int = 0) -> Node:
    return parsed(render(report_of(runs, *only, with_secrets=with_secrets, complaints=complaints)))


def picture(path: Path, seed: int = 0, comment: str = "") -> Path:
    """A PNG of random blocks, so that no two are alike."""
    blocks = np.random.default_rng(seed).integers(0, 256, (6, 20, 3), dtype=np.uint8)
    notes = PngImagePlugin.PngInfo()
    notes.add_text("Comment", comment)
    Image.fromarray(blocks).resize((200, 60), Image.Resampling.NEAREST).save(path, pnginfo=notes)
    return path


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(buffer, format="png")
    return buffer.getvalue()


def pictured(runs: Path, p_values: tuple[float, ...]) -> list[Path]:
    """A model for each p-value, with a gallery of triggers and what an inversion recovered."""
    folders = []
    for seed, p_value in enumerate(p_values):
        victim = train_card(watermark="content", seed=seed)
        picture(leave(runs, victim) / "triggers.png", 100 + seed)
        folders.append(leave(runs, inversion_card(victim, p_value=p_value)))
        picture(folders[-1] / "inversion.png", seed)
    return folders


VERDICT: dict[str, Any] = {
    "kind": "verify",
    "schema": 1,
    "decision": "owned",
    "reason": "A model made without this key would answer so with a probability of 3.2e-18 at the most.",
    "suspect": "stolen.onnx",
    "commitment": "9f" * 32,
    "committed": "2026-03-01T10:00:00+00:00",
    "test": "labels of several marks, exact",
    "assumption": "the labels of the marks were drawn at random",
    "alpha": 1e-6,
    "p_value": 3.2e-18,
    "p_adjusted": 9.6e-18,
    "e_value": None,
    "queries": 40,
    "triggers": 39,
    "matches": 38,
    "missing": 1,
    "interval": [0.871, 0.996],
    "estimate": "about 40 queries decide",
    "details": "8 of 8 marks answer",
    "null_models": "none of 3 models made without the key was called owned",
    "stopped": "all that the test needs",
    "notes": ["The triggers are spent."],
    "sample": [],
}


def verdict(runs: Path, folder: str = "owner.stolen", **more: Any) -> Path:
    place = runs / folder
    place.mkdir(parents=True, exist_ok=True)
    (place / "verdict.json").write_text(json.dumps({**VERDICT, **more}))
    return place / "verdict.json"


def one_of_each(runs: Path, **names: str) -> None:
    """A model and three attacks; ``names`` stand wherever a card has room for words."""
    victim = train_card()
    victim["config"]["dataset"]["name"] = names.get("dataset", "mnist")
    victim["config"]["watermark"]["_target_"] = "some.where." + names.get("watermark", "Noise")
    victim["config"][names.get("option", "tags")] = names.get("value", "study")
    victim["data"] = {"stored_as": names.get("stored_as", "files")}
    victim["environment"] = {names.get("package", "torch"): names.get("version", "2")}
    leave(runs, victim, "victim")
    cards = [prune_card(victim), finetune_card(victim), inversion_card(victim, p_value=0.5)]
    cards[0] |= {"strength": {"name": names.get("strength", "rate"), "scale": "linear"}}
    cards[0]["curve"][0]["settings"] = {names.get("setting", "scope"): names.get("choice", "global")}
    for i, card in enumerate(cards):
        picture(leave(runs, {**card, "attack": f"{i} {names.get('attack', 'attack')}"}, f"a{i}") / "inversion.png")
    text = names.get("sentence", "A sentence.")
    verdict(runs, suspect=text, reason=text, test=text, assumption=text, stopped=text, notes=[text])
