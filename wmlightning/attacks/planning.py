"""Attacks, settled: what the config asks for before data are read, then on which victim and with whose images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from torch import nn

from wmlightning.attacks.base import Attack, ClaimAttack, DetectionAttack, Prospect, RemovalAttack
from wmlightning.attacks.belongings import OtherImages, other_source
from wmlightning.attacks.exposure import EXPOSURE_VERSION
from wmlightning.config import make, option_names, plain, setting, switch
from wmlightning.data.source import Source
from wmlightning.errors import UserError, listed
from wmlightning.identity import portable
from wmlightning.job import Job
from wmlightning.results.card import fingerprint, read_card

#: Raise it when the same attack no longer gives the same result.
_ATTACK_VERSION = 1
#: Raise it when the same claim is no longer worth the same.
_CLAIM_VERSION = 3


@dataclass(frozen=True)
class Victim:
    """A trained network that is to be attacked.

    Attributes:
        name: of its run.
        fingerprint: names the trained model.
        folder: where the results of attacks on it are kept.
    """

    name: str
    fingerprint: str
    folder: Path


@dataclass(frozen=True)
class Intent:
    """An attack as the config has it, made and checked.

    Attributes:
        name: what the user calls it.
        attack: what is done.
        options: its config, in plain values that say nothing about places.
        other: the data whose images the thief has, if not the attacker's half of the test split.
    """

    name: str
    attack: Attack
    options: dict[str, Any]
    other: Source | None


@dataclass(frozen=True)
class Assault:
    """A settled attack.

    Attributes:
        name: what the user calls it.
        attack: what is done.
        victim: to whom.
        others: the thief's images, if not the attacker's half of the test split.
        identity: what determines the result.
        keeps: whether the weights of surrogates are to be there.
        compares: whether an unmarked model is to have been looked at too.
    """

    name: str
    attack: Attack
    victim: Victim
    others: OtherImages | None
    identity: dict[str, Any]
    keeps: bool = False
    compares: bool = False

    @property
    def fingerprint(self) -> str:
        """Names the result."""
        return fingerprint(self.identity)

    @property
    def folder(self) -> Path:
        """Where the result is kept."""
        return self.victim.folder / "attacks" / f"{self.name}-{self.fingerprint}"

    def finished(self) -> dict[str, Any] | None:
        """The card of this very attack, if it was carried out before, with all that is wanted now."""
        card = read_card(self.folder)
        if card is None or card.get("fingerprint") != self.fingerprint:
            return None
        curve, findings = card.get("curve"), card.get("findings")
        if self.keeps and not (
            isinstance(curve, list) and all(isinstance(row, dict) and row.get("weights") for row in curve)
        ):
            return None
        if self.compares and not (isinstance(findings, dict) and findings.get("twin")):
            return None
        return card


def intend(cfg: DictConfig, source: Source, network: nn.Module) -> list[Intent]:
    """Settles the attacks that a config asks for, as far as it can be done without data.

    Args:
        cfg: composed from ``conf/train.yaml``.
        source: the task's data. Nothing is read.
        network: of the victim's architecture; its weights do not matter.

    Raises:
        UserError: for a mistake in ``attack``, ``attacker`` or ``judge``.
    """
    setting(cfg.attacker.seed, "attacker.seed", int, 0, 2**63 - 1)
    setting(cfg.judge.n_strangers, "judge.n_strangers", int, 1, 9_999)  # all are drawn and held at once
    if cfg.attacker.n is not None:
        setting(cfg.attacker.n, "attacker.n", int, 2)
    for name in ("unmarked", "keep_surrogates"):
        switch(cfg.judge[name], f"judge.{name}")
    other = other_source(cfg, source.shape)
    labelled = other is None or other.classes == source.classes
    prospect = Prospect(network, source.shape, len(source.classes), labelled)
    return [_intent(str(name), node, other, prospect) for name, node in cfg.attack.items() if _is_meant(name, node)]


def _is_meant(name: Any, node: Any) -> bool:
    """Whether an attack is asked for, or ``++attack.NAME.option=`` was said for other jobs of a sweep.

    Raises:
        UserError: if there is no attack of this name.
    """
    if isinstance(node, DictConfig) and node.get("_target_") is not None:
        return True
    if name in (names := option_names("attack")):
        return False
    raise UserError(f"attack.{name}", "there is no such attack", f"one of {listed(names)}, or a config with a _target_")


def _intent(name: str, node: DictConfig, other: Source | None, prospect: Prospect) -> Intent:
    key = f"attack.{name}"
    attack = make(node, key)
    if not isinstance(attack, (RemovalAttack, DetectionAttack, ClaimAttack)):
        right = "a class derived from RemovalAttack, DetectionAttack or ClaimAttack"
        raise UserError(f"{key}._target_", f"{node.get('_target_')} is no attack", right)
    attack.check(prospect)
    options = portable(plain(node))
    try:
        fingerprint(options)
    except ValueError as error:  # infinite, or no number
        raise UserError(key, f"an option is no finite number ({error})", "finite numbers") from error
    return Intent(name, attack, options, other)


def plan(intents: Sequence[Intent], job: Job, victim: Victim, may_train: bool = False) -> list[Assault]:
    """Settles attacks on a victim. Where the thief has other data, they are read and compared with the task's.

    Args:
        intents: what the config asks for.
        job: the victim's.
        victim: to be attacked.
        may_train: whether an unmarked model to compare with is trained if there is none.

    Raises:
        UserError: if the thief would have nothing but images of the task.
    """
    if not intents:
        return []
    other = intents[0].other  # all of one config have the same
    others = OtherImages.of(other, job) if other is not None else None
    return [_assault(intent, job, victim, others, may_train) for intent in intents]


def _assault(intent: Intent, job: Job, victim: Victim, others: OtherImages | None, may_train: bool) -> Assault:
    cfg = job.cfg
    attacker = {"seed": cfg.attacker.seed, "n": cfg.attacker.n, "data": others.identity() if others else None}
    # Whole numbers at the top are versions, and only they: of cards that differ in nothing else, the newest counts.
    identity: dict[str, Any] = {
        "version": _ATTACK_VERSION,
        "victim": victim.fingerprint,
        "attack": intent.options,
        "attacker": attacker,
        "precision": job.precision,
    }
    if isinstance(intent.attack, ClaimAttack):
        identity["claims"] = _CLAIM_VERSION
    if detects := isinstance(intent.attack, DetectionAttack):
        identity["judge"] = {"n_strangers": cfg.judge.n_strangers, "unmarked": cfg.judge.unmarked}
        identity["exposure"] = EXPOSURE_VERSION
    compares = detects and may_train and cfg.judge.unmarked and job.maker is not None
    keeps = isinstance(intent.attack, RemovalAttack) and cfg.judge.keep_surrogates
    return Assault(intent.name, intent.attack, victim, others, identity, keeps, compares)
