"""Asks a suspect whether it knows the owner's triggers: from key and suspect to verdict, top to bottom."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from PIL import Image
from torch import Tensor

from wmlightning.config import make, plain, setting
from wmlightning.data.batches import ImageSet
from wmlightning.errors import UserError
from wmlightning.files import write_bytes
from wmlightning.ownership.commitment import read_commitment
from wmlightning.ownership.key import Key, read_key
from wmlightning.ownership.questions import Question, ask, needs_decoys
from wmlightning.ownership.suspects.base import Answer, Suspect
from wmlightning.ownership.transcript import Recorded, image_digest
from wmlightning.ownership.verdict import Decision, Verdict
from wmlightning.secret import Secret
from wmlightning.watermarks.triggers import TriggerMaker

_SHOWN_AS_SAMPLE = 8
#: With fewer answers than this share of what was asked, silence explains too much.
_ANSWERED = 0.5


def verify(cfg: DictConfig, decoys: list[Secret] | None = None) -> Verdict:
    """Verifies what the config says.

    Args:
        cfg: composed from ``conf/verify.yaml``.
        decoys: other secrets for the test with decoy keys; ``None``: drawn now from the system's generator.

    Raises:
        UserError: for a mistake in the config, a key that does not follow from its secret, a suspect that is not there.
    """
    options: dict[str, Any] = plain(cfg)
    alpha = setting(options["alpha"], "alpha", float, 1e-12, 0.5)
    budget = setting(options["budget"], "budget", int, 1)
    n = setting(options["queries"], "queries", int, 1)
    if options["triggers"] not in ("new", "trained"):
        raise UserError("triggers", f"{options['triggers']!r} is unknown", "new or trained")
    path = Path(options["key"])
    key = read_key(path)
    committed = read_commitment(Path(options["commitment"]), key)["made"] if options["commitment"] else None
    suspect = make(cfg.suspect, "suspect")
    if not isinstance(suspect, Suspect):
        raise UserError("suspect._target_", "it makes no suspect", "a class derived from Suspect")
    maker = key.check(options["data_dir"], options["trust"])
    spent = Spent(path)
    out = Path(options["out"] or path.with_suffix(f".{_short(suspect)}"))
    transcript = out / "transcript.jsonl"
    triggers = _triggers(key, maker, options["triggers"])
    question = ask(maker, triggers, spent.fresh(triggers, transcript), alpha, n, budget, decoys)
    classes = len(maker.source.classes)
    out.mkdir(parents=True, exist_ok=True)
    with Recorded(suspect, transcript, budget, maker.source.shape, classes) as asked:
        try:
            answers = asked.ask(question.images)
        finally:  # what left this machine has been seen, whatever came back
            spent.add(question.triggers.images, asked.shown)
    verdict = _verdict(question, answers, alpha, suspect.name, key, committed, options["show_triggers"])
    verdict.write(out)
    return verdict


def _triggers(key: Key, maker: TriggerMaker, which: str) -> ImageSet:
    """Triggers with random labels are learned one by one: only those that were trained on are known to the model.

    Decoys are made of the new triggers' images: a key that needs them shows new triggers.
    """
    if key.config["watermark"].get("label") == "random":
        return key.trained
    return key.trained if which == "trained" and not needs_decoys(maker) else key.new


def _verdict(
    question: Question,
    answers: list[Answer],
    alpha: float,
    suspect: str,
    key: Key,
    committed: str | None,
    show: bool,
) -> Verdict:
    labels = torch.tensor([-1 if answer.label is None else answer.label for answer in answers])
    evidence = question.judge(labels)
    silent = sum(answer.label is None for answer in answers) / len(answers)
    decision, reason = _decision(question, evidence.p_value, alpha, silent)
    notes = ["The suspect has seen the triggers it was asked about: they are spent, and the next dispute takes others."]
    if committed is None:
        notes.append("No published commitment was given: the key may be younger than the suspect.")
    return Verdict(
        decision,
        reason,
        suspect,
        key.commitment(),
        committed,
        question.test,
        question.assumption,
        alpha,
        evidence.p_value,
        None,
        queries=sum(answer.asked for answer in answers),
        triggers=evidence.n,
        matches=evidence.matches,
        missing=evidence.missing,
        interval=evidence.interval,
        expected_queries=len(question.images),
        stopped="all that the test needs" if all(answer.asked for answer in answers) else "the budget was spent",
        notes=notes,
        sample=_sample(question.triggers, labels) if show else [],
    )


def _decision(question: Question, p: float, alpha: float, silent: float) -> tuple[Decision, str]:
    if p <= alpha:
        return "owned", f"A model made without this key would answer so with a probability of {p:.2g} at the most."
    if question.smallest_p > alpha:
        best = f"{question.smallest_p:.2g}"
        return (
            "cannot tell",
            f"Even if every trigger had matched, p would be {best}: ask for more, or use a larger alpha.",
        )
    if silent > 1 - _ANSWERED:
        return "cannot tell", f"{100 * silent:.0f} % of the images had no usable answer."
    return "not shown", "The suspect answers to the triggers as a model made without the key may."


def _sample(triggers: ImageSet, answers: Tensor) -> list[dict[str, Any]]:
    rows = []
    for image, label, answer in list(zip(triggers.images, triggers.labels, answers, strict=False))[:_SHOWN_AS_SAMPLE]:
        buffer = io.BytesIO()
        pixels = image.permute(1, 2, 0).squeeze(-1).numpy()
        Image.fromarray(pixels).save(buffer, format="png")
        png = base64.b64encode(buffer.getvalue()).decode()
        rows.append({"png": png, "expected": int(label), "answer": int(answer) if answer >= 0 else "none"})
    return rows


def _short(suspect: Suspect) -> str:
    kept = "".join(letter if letter.isalnum() else "-" for letter in suspect.name)
    return kept.strip("-")[-60:] or "suspect"


class Spent:
    """Triggers that a suspect has seen, in a file beside the key: their hashes, not the images.

    Args:
        key: path of the key.
    """

    def __init__(self, key: Path) -> None:
        self.path = key.with_suffix(".spent.json")
        self.digests: set[str] = set()
        if self.path.exists():
            try:
                self.digests = set(map(str, json.loads(self.path.read_text())))
            except (ValueError, TypeError) as error:
                raise UserError("key", f"{self.path} is damaged", "a copy that is whole, or remove it") from error

    def fresh(self, triggers: ImageSet, transcript: Path) -> Tensor:
        """Which triggers no other suspect has seen: int64. This one may be asked again: it knows them already.

        Raises:
            UserError: if none is left.
        """
        ours = transcript.read_text() if transcript.exists() else ""
        fresh = [
            i for i, image in enumerate(triggers.images) if (d := image_digest(image)) not in self.digests or d in ours
        ]
        if not fresh:
            raise UserError("triggers", f"all {len(triggers)} are spent, see {self.path}", "the other kind of triggers")
        return torch.tensor(fresh, dtype=torch.int64)

    def add(self, images: Tensor, shown: set[str]) -> None:
        """Notes which of the key's triggers were shown, by the hashes of all images that were."""
        self.digests |= {image_digest(image) for image in images} & shown
        write_bytes(self.path, (json.dumps(sorted(self.digests)) + "\n").encode(), private=True)
