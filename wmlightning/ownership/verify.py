"""Asks suspects whether they know the owner's triggers: from key and suspects to verdicts, top to bottom."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from itertools import count
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from wmlightning.choices import check_declared
from wmlightning.config import at_home, plain, setting
from wmlightning.data.source import Source
from wmlightning.errors import UserError
from wmlightning.files import beside, check_writable, telling_full_disks
from wmlightning.loggers import check_login, log_verdict, make_loggers
from wmlightning.ownership.age import age_of
from wmlightning.ownership.asking import Claim, ask
from wmlightning.ownership.choice import triggers_of
from wmlightning.ownership.decision import verdict_of
from wmlightning.ownership.key import read_key
from wmlightning.ownership.questions import Terms
from wmlightning.ownership.shares import Dealer, Share
from wmlightning.ownership.spent import Spent, suspect_named
from wmlightning.ownership.statistics.result import bonferroni
from wmlightning.ownership.suspects.base import Suspect
from wmlightning.ownership.suspects.network import Network
from wmlightning.ownership.suspects.several import suspects_of
from wmlightning.ownership.verdict import Verdict
from wmlightning.process import keep_freed_memory
from wmlightning.results.card import folder_name
from wmlightning.results.privacy import public
from wmlightning.secret import Secret


@telling_full_disks("out")
def verify(cfg: DictConfig, tell: Callable[[str], None] = lambda _: None) -> list[Verdict]:
    """Verifies what the config says.

    Args:
        cfg: composed from ``conf/verify.yaml``.
        tell: is told, before the first query to a suspect, how many queries will decide.

    Returns:
        A verdict for each suspect, written to its folder.

    Raises:
        UserError: for a mistake in the config, a key that does not follow from its secret, a suspect that is not there;
            when a disk is full.
    """
    check_declared(cfg, "verify", "paths/default")
    cfg = at_home(cfg)
    keep_freed_memory()
    names = [str(name) for name in cfg if name != "suspect"]  # whose options may be secret, and are its own matter
    options: dict[str, Any] = plain(OmegaConf.masked_copy(cfg, names))
    _check_kinds(options)
    suspects, path = suspects_of(cfg), Path(options["key"]).expanduser()
    folders = _folders(suspects, path, options["out"])
    check_writable(path.resolve().parent, "key", needed_bytes=2**20)
    for out in folders:
        check_writable(out, "out", needed_bytes=2**20)
    loggers = [make_loggers(cfg, out, public(s.name), "verify") for s, out in zip(suspects, folders, strict=True)]
    terms = _terms(options, len(suspects))
    key = read_key(path)
    age = age_of(options, key)
    maker = key.check(options["data_dir"], options["trust"])
    innocents = _null_models(options, maker.source)
    several, spent = len(suspects) > 1, Spent(path)
    claim = Claim(key, maker, age, terms, options["alpha"], innocents, several, options["show_triggers"], spent)
    triggers, true = triggers_of(key, maker, options["triggers"])
    dealer = Dealer(key.commitment(), maker, triggers, true, terms, spent)
    check_login([logger for ours in loggers for logger in ours])
    shares = dealer.deal(folders, _names(suspects, key.secret))
    verdicts = []
    for suspect, share, out in zip(suspects, shares, folders, strict=True):
        if isinstance(share, Share):
            tell(share.estimate)
        finding = ask(claim, suspect, share, out)
        verdicts.append(verdict_of(claim, finding, bonferroni(finding.p_value, len(suspects))).write(out))
    for ours, verdict, out in zip(loggers, verdicts, folders, strict=True):  # last: one that fails costs no verdict
        log_verdict(ours, asdict(verdict), out)
    return verdicts


def exit_code(verdicts: list[Verdict]) -> int:
    """0 if any suspect is owned, else 2 if any cannot be told, else 1."""
    codes = {verdict.exit_code for verdict in verdicts}
    return next(code for code in (0, 2, 1) if code in codes)


def _check_kinds(options: dict[str, Any]) -> None:
    """What YAML lets a user type, and nobody means."""
    if isinstance(options["timestamp_ca"], str):
        options["timestamp_ca"] = [options["timestamp_ca"]]
    kinds: dict[str, tuple[tuple[Any, ...], str]] = {
        **dict.fromkeys(("key", "data_dir"), ((str,), "the name of a file or folder")),
        **dict.fromkeys(("commitment", "timestamp", "out"), ((str, type(None)), "a name, in quotes if it is a number")),
        "suspect_since": ((str, type(None)), "a date, such as 2025-12-31"),
        **dict.fromkeys(("suspects", "null_models", "timestamp_ca", "trust"), ((list,), "a list: [A, B]")),
        **dict.fromkeys(("sequential", "show_triggers"), ((bool,), "true or false")),
        "expect": ((dict,), "{survival: 0.8, decoys: 0.05}"),
    }
    for name, (kind, right) in kinds.items():
        if not isinstance(options[name], kind):
            raise UserError(name, f"{options[name]!r} is something else", right)
    for name in ("null_models", "timestamp_ca", "trust"):
        if not all(isinstance(value, str) for value in options[name]):
            raise UserError(name, f"{options[name]!r} is something else", "a list of names: [A, B]")
    if options["triggers"] not in ("new", "trained"):
        raise UserError("triggers", f"{options['triggers']!r} is unknown", "new or trained")


def _null_models(options: dict[str, Any], source: Source) -> list[Network]:
    """Opened and tried, so that a mistake shows before a trigger is spent."""
    found = [Network(str(folder), trust=options["trust"]) for folder in options["null_models"]]
    for network in found:
        try:
            network.open(source.shape, len(source.classes))
            network.ask(torch.zeros((1, *source.shape), dtype=torch.uint8))
        except UserError as error:
            raise UserError("null_models", *map(str, error.args[1:])) from error
    return found


def _terms(options: dict[str, Any], n_suspects: int) -> Terms:
    alpha = setting(options["alpha"], "alpha", float, 1e-12, 0.5)
    for name in ("survival", "decoys"):
        setting(options["expect"].get(name), f"expect.{name}", float, 0, 1)
    return Terms(
        alpha=alpha / n_suspects,  # so that one's look costs what is noted of it, whatever comes of the others
        queries=setting(options["queries"], "queries", int, 1),
        budget=setting(options["budget"], "budget", int, 1),
        sequential=options["sequential"],
        survival=options["expect"]["survival"],
        decoys=options["expect"]["decoys"],
    )


def _folders(suspects: list[Suspect], key: Path, out: str | None) -> list[Path]:
    """A folder for each suspect: beside the key, or ``out``, below which several have one each."""
    plain = [folder_name(suspect.name) for suspect in suspects]
    names: list[str] = []
    for i, name in enumerate(plain):
        numbered = (f"{name}-{number}" for number in count(i))
        taken = {*names, *(plain if name in plain[:i] else ())}  # another's plain name stays that one's
        names.append(name if name not in taken else next(other for other in numbered if other not in taken))
    if out is None:
        return [beside(key, ".key", f".{name}") for name in names]
    own = Path(out).expanduser()
    return [own] if len(names) == 1 else [own / name for name in names]


def _names(suspects: list[Suspect], secret: Secret) -> list[str | None]:
    """What the suspects are, however they are called; ``None`` where opening it will tell what is wrong."""
    names: list[str | None] = []
    for suspect in suspects:
        try:
            names.append(suspect_named(suspect, secret))
        except UserError:
            names.append(None)
    for i, name in enumerate(names):
        if name is not None and name in names[:i]:
            wrong = f"{suspects[names.index(name)].name} and {suspects[i].name} are the same"
            raise UserError("suspects", wrong, "each suspect once")
    return names
