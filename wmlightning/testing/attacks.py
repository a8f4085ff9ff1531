"""The contract of an attack, carried out on a small victim that is watermarked for real."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from wmlightning.attacks.base import ClaimAttack, DetectionAttack, Recovered, RemovalAttack
from wmlightning.attacks.execution import Scene, carry_out
from wmlightning.attacks.judge import digest
from wmlightning.attacks.planning import Assault, Victim, intend, plan
from wmlightning.job import Job, prepare
from wmlightning.store import WEIGHTS, load_run, load_weights
from wmlightning.testing.bench import claim, composing, small_task, trained

#: The victim's training: seconds, and yet its triggers work.
VICTIM = (
    "watermark.n_triggers=60",
    "watermark.n_decoys=6",
    "trainer.max_epochs=4",
    "judge.n_strangers=9",
    "judge.unmarked=false",
)
_MEASURED = {
    "attack/clean_acc",
    "attack/source_acc",
    "attack/trigger_acc",
    "attack/trigger_new_acc",
    "attack/decoy_acc",
    "attack/decoy_acc_max",
}


@dataclass(frozen=True)
class Stage:
    """A trained victim, and what attacks on it are made of."""

    job: Job
    scene: Scene

    def assault(self, cfg: DictConfig, name: str) -> Assault:
        """The attack as the config has it, on this victim."""
        self.job.cfg.attack = cfg.attack
        victim = Victim(self.job.name, self.job.fingerprint, self.job.folder)
        intents = intend(self.job.cfg, self.job.source, self.job.net)
        return next(assault for assault in plan(intents, self.job, victim) if assault.name == name)


def staged(cfg: DictConfig) -> Stage:
    """The victim that a config describes: trained, or found trained."""
    job = prepare(cfg)
    trained(job)
    load_weights(job.net, job.folder / WEIGHTS)
    return Stage(job, Scene(job, job.net, lambda: None))


def check_attack(name: str, config_dir: str | Path | None = None, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Holds an attack to its contract, on a small watermarked network.

    The victim must stay as it was; the same attack must give the same result whatever was drawn before; a removal
    attack must yield surrogates that can be stored and loaded, with rising strengths and told costs; a detection
    attack one image or more of each class; a claim attack claims of rising effort. The victim is trained once for all
    checks of a process.

    Args:
        name: as typed after ``attack=``.
        config_dir: folder of its config, as typed after ``--config-dir``.
        overrides: what else would be typed: ``attack.mine.epochs=1`` makes the check short.

    Returns:
        The attack's card.

    Raises:
        AssertionError: saying which promise is broken.
        UserError: if it cannot be made.
    """
    with composing(config_dir) as compose:
        cfg = compose(*small_task([*VICTIM, f"attack={name}", *overrides], n_test=400))
        claim(name in cfg.attack, f"the config must begin with '# @package attack.{name}'")
        stage = staged(cfg)
        assault = stage.assault(cfg, name)
        shutil.rmtree(assault.folder, ignore_errors=True)
        card = _check_result(name, stage, assault)
        if isinstance(assault.attack, RemovalAttack):
            _check_curve(name, stage, card)
            _check_weights(name, stage, assault, card)
        elif isinstance(assault.attack, DetectionAttack):
            _check_recovered(name, stage, assault, assault.attack)
        else:
            _check_claims(name, card)
        shutil.rmtree(assault.folder)  # an edited attack of this name is not found done
    return card


def _check_result(name: str, stage: Stage, assault: Assault) -> dict[str, Any]:
    """Victim unchanged, same result each time, kept whole, and not done twice."""
    before = digest(stage.scene.network)
    card, there = carry_out(assault, lambda: stage.scene, force=False)
    claim(not there, f"{name}: found done although it was never done")
    claim(digest(stage.scene.network) == before, f"{name}: changed its victim")
    weights = _files(assault)
    torch.manual_seed(12345)  # whatever the process has drawn before
    again, _ = carry_out(assault, lambda: stage.scene, force=True)
    steady = "follow stolen.seed, not the clock, a global generator or an attribute that run() changes"
    claim(_stable(again) == _stable(card), f"{name}: another result the second time; {steady}")
    claim(_files(assault) == weights, f"{name}: other weights or images the second time; {steady}")

    def never() -> Scene:
        raise AssertionError(f"{name}: a finished attack reads nothing")

    kept, there = carry_out(assault, never, force=False)
    claim(there and _stable(kept) == _stable(card), f"{name}: its card does not survive being written and read")
    claim(kept["victim"]["fingerprint"] == stage.job.fingerprint, f"{name}: its card names another victim")
    claim(kept["seconds"].keys() == {"attack", "judge"}, f"{name}: its card tells no seconds")
    return card


def _check_curve(name: str, stage: Stage, card: dict[str, Any]) -> None:
    curve = card["curve"]
    claim(card["strength"]["name"] != RemovalAttack.strength_name, f"{name}: say what its strength_name is")
    claim(card["strength"]["scale"] in ("linear", "log"), f"{name}: strength_scale is neither linear nor log")
    strengths = [row["strength"] for row in curve]
    numbers = all(isinstance(s, (int, float)) and math.isfinite(s) for s in strengths)
    claim(numbers, f"{name}: a strength is no finite number")
    claim(strengths == sorted(strengths), f"{name}: strengths must rise from surrogate to surrogate: {strengths}")
    finals = [row["strength"] for row in curve if row["final"]]
    claim(finals == sorted(set(strengths)), f"{name}: not one final surrogate for each strength; see continued")
    for row in curve:
        claim(row["seconds"] >= 0 and row["queries"] >= 0 and row["epochs"] >= 0, f"{name}: a negative cost")
        trained = row["images"] > 0 or not row["epochs"]
        claim(trained, f"{name}: {row['epochs']} epochs on no images: tell n_images")
        most = len(stage.job.roles.attacker)
        claim(row["images"] <= most, f"{name}: trained on {row['images']} images, and the thief has {most}")
        claim(set(row["metrics"]) >= _MEASURED, f"{name}: not all accuracies could be measured")


def _check_weights(name: str, stage: Stage, assault: Assault, card: dict[str, Any]) -> None:
    """What is stored is what was measured."""
    run = load_run(stage.job.folder)
    for number in (0, len(card["curve"]) - 1):
        found = stage.scene.judge.measure(run.surrogate(assault.folder.name, number))
        claim(found == card["curve"][number]["metrics"], f"{name}: surrogate {number}, stored and loaded, is another")


def _check_recovered(name: str, stage: Stage, assault: Assault, attack: DetectionAttack) -> None:
    stolen = stage.scene.stolen(assault)
    found = attack.run(stolen)
    claim(isinstance(found, Recovered), f"{name}: run() gives a {type(found).__name__}, no Recovered")
    images, confidence = found.images, found.confidence
    shape = tuple(stolen.images.shape[1:])
    fits = images.ndim == 5 and images.shape[0] == stolen.n_classes and tuple(images.shape[2:]) == shape
    claim(fits, f"{name}: images are {tuple(images.shape)}, not ({stolen.n_classes}, restarts, *{shape})")
    claim(images.is_floating_point() and images.device.type == "cpu", f"{name}: images are no floats on the processor")
    claim(bool(((images >= 0) & (images <= 1)).all()), f"{name}: images are not within [0, 1]")
    claim(confidence.shape == images.shape[:2], f"{name}: confidence is not (n_classes, restarts)")
    claim(bool(((confidence >= 0) & (confidence <= 1)).all()), f"{name}: confidence is not within [0, 1]")


def _check_claims(name: str, card: dict[str, Any]) -> None:
    claims = card["findings"]["claims"]
    efforts = [row["effort"] for row in claims]
    claim(efforts == sorted(efforts), f"{name}: efforts must rise from claim to claim: {efforts}")
    claim(card["findings"]["effort"] != ClaimAttack.effort_name, f"{name}: say what its effort_name is")
    claim(all(row["queries"] >= 0 for row in claims), f"{name}: a negative number of queries")


def _stable(card: dict[str, Any]) -> dict[str, Any]:
    """What must be the same each time: all but times."""
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in card.get("curve", [])]
    return {"metrics": card["metrics"], "curve": rows, "findings": card.get("findings"), "identity": card["identity"]}


def _files(assault: Assault) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in assault.folder.glob("*.safetensors")}
