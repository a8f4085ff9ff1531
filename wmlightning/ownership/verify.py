"""Asks suspects whether they know the owner's triggers: from key and suspects to verdicts, top to bottom."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from wmlightning.config import plain, setting
from wmlightning.errors import UserError
from wmlightning.files import write_bytes
from wmlightning.loggers import log_verdict, make_loggers
from wmlightning.ownership.choice import choose, triggers_of
from wmlightning.ownership.commitment import read_commitment
from wmlightning.ownership.interview import Interview
from wmlightning.ownership.key import Key, read_key
from wmlightning.ownership.questions import Question, Terms
from wmlightning.ownership.spent import Spent
from wmlightning.ownership.statistics.result import TestResult, holm
from wmlightning.ownership.suspects.base import Suspect, Unreachable
from wmlightning.ownership.suspects.network import Network
from wmlightning.ownership.suspects.several import suspects_of
from wmlightning.ownership.timestamp import verified_time
from wmlightning.ownership.transcript import Recorded
from wmlightning.ownership.verdict import Decision, Verdict, estimated, trigger_sample
from wmlightning.results.privacy import public
from wmlightning.secret import Secret
from wmlightning.watermarks.triggers import TriggerMaker

#: With fewer answers than this share of what was asked, silence explains too much.
_ANSWERED = 0.5
_SHOWN = "The suspect has seen the triggers it was asked about: they are spent, and the next dispute takes others."
_UNCOMMITTED = "No published commitment was given: the key may be younger than the suspect."
_UNSTAMPED = "When the commitment was made is its owner's word: no time stamp was given."


@dataclass(frozen=True)
class _Claim:
    """What the verifier goes by: the same for all suspects.

    Attributes:
        key: that was checked.
        maker: what made its triggers.
        committed: when its commitment was made, by the owner's word, or ``None``.
        stamped: the time that an authority vouches for, and which one, or ``None``.
        terms: level and limits for each suspect.
        alpha: level for all of them together.
        innocents: null models.
        several: whether there are other suspects, which are asked although this one cannot be.
        show: whether triggers may stand in the report.
    """

    key: Key
    maker: TriggerMaker
    committed: str | None
    stamped: str | None
    terms: Terms
    alpha: float
    innocents: list[Network]
    several: bool
    show: bool

    def opened(self, suspect: Suspect, transcript: Path | None) -> Recorded:
        source = self.maker.source
        return Recorded(suspect, transcript, self.terms.budget, source.shape, len(source.classes))


@dataclass(frozen=True)
class _Finding:
    """One suspect's answers, and what they are worth.

    Attributes:
        out: folder of the suspect.
        asked: the suspect.
        question: what it was asked.
        interview: how that went.
        result: of the test.
        null_p: p-values of the null models in the same test.
    """

    out: Path
    asked: Recorded
    question: Question
    interview: Interview
    result: TestResult
    null_p: list[float]


def verify(cfg: DictConfig, tell: Callable[[str], None] = lambda _: None) -> list[Verdict]:
    """Verifies what the config says.

    Args:
        cfg: composed from ``conf/verify.yaml``.
        tell: is told, before the first query to a suspect, how many queries will decide.

    Returns:
        A verdict for each suspect, written to its folder.

    Raises:
        UserError: for a mistake in the config, a key that does not follow from its secret, a suspect that is not there.
    """
    names = [str(name) for name in cfg if name != "suspect"]  # whose options may be secret, and are its own matter
    options: dict[str, Any] = plain(OmegaConf.masked_copy(cfg, names))
    _check_kinds(options)
    suspects, path = suspects_of(cfg), Path(options["key"]).expanduser()
    folders = _folders(suspects, path, options["out"])
    loggers = [make_loggers(cfg, out, public(s.name), "verify") for s, out in zip(suspects, folders, strict=True)]
    terms = _terms(options, len(suspects))
    key = read_key(path)
    committed, stamped = _published(options, key)
    maker = key.check(options["data_dir"], options["trust"])
    innocents = _null_models(options["null_models"], options["trust"])
    several, show = len(suspects) > 1, options["show_triggers"]
    claim = _Claim(key, maker, committed, stamped, terms, options["alpha"], innocents, several, show)
    triggers, true = triggers_of(key, maker, options["triggers"])
    spent, found = Spent(path), []
    for suspect, out in zip(suspects, folders, strict=True):
        fresh = spent.fresh(triggers, _transcript(out))
        question = choose(maker, triggers, true, fresh, terms, _strangers(out))
        tell(estimated(question.estimate(), terms.alpha, terms.survival))
        found.append(_put(claim, suspect, question, out, spent))
    adjusted = holm([finding.result.p_value for finding in found])
    verdicts = [_verdict(claim, finding, p) for finding, p in zip(found, adjusted, strict=True)]
    for finding, verdict in zip(found, verdicts, strict=True):
        verdict.write(finding.out)
    for ours, verdict in zip(loggers, verdicts, strict=True):  # last: a logger that fails costs no verdict
        log_verdict(ours, asdict(verdict))
    return verdicts


def exit_code(verdicts: list[Verdict]) -> int:
    """0 if any suspect is owned, else 2 if any cannot be told, else 1."""
    codes = {verdict.exit_code for verdict in verdicts}
    return next(code for code in (0, 2, 1) if code in codes)


def _published(options: dict[str, Any], key: Key) -> tuple[str | None, str | None]:
    """When the commitment was made, and when it is proven to have existed."""
    if not options["commitment"]:
        if options["timestamp"]:
            raise UserError("timestamp", "there is no commitment that it could be of", "commitment=FILE")
        return None, None
    commitment = Path(options["commitment"]).expanduser()
    made = str(read_commitment(commitment, key)["made"])
    if not options["timestamp"]:
        return made, None
    roots = [Path(root).expanduser() for root in options["timestamp_ca"]]
    return made, str(verified_time(commitment, Path(options["timestamp"]).expanduser(), roots))


def _check_kinds(options: dict[str, Any]) -> None:
    """What YAML lets a user type, and nobody means."""
    if isinstance(options["timestamp_ca"], str):
        options["timestamp_ca"] = [options["timestamp_ca"]]
    kinds: dict[str, tuple[tuple[Any, ...], str]] = {
        **dict.fromkeys(("key", "data_dir"), ((str,), "the name of a file or folder")),
        **dict.fromkeys(("commitment", "timestamp", "out"), ((str, type(None)), "a name, in quotes if it is a number")),
        **dict.fromkeys(("suspects", "null_models", "timestamp_ca", "trust"), ((list,), "a list: [A, B]")),
        **dict.fromkeys(("sequential", "show_triggers"), ((bool,), "true or false")),
        "expect": ((dict,), "{survival: 0.8, decoys: 0.05}"),
    }
    for name, (kind, right) in kinds.items():
        if not isinstance(options[name], kind):
            raise UserError(name, f"{options[name]!r} is something else", right)
    if options["triggers"] not in ("new", "trained"):
        raise UserError("triggers", f"{options['triggers']!r} is unknown", "new or trained")


def _null_models(folders: list[Any], trust: list[str]) -> list[Network]:
    """Opened once, so that a mistake shows before a trigger is spent."""
    found = [Network(str(folder), trust=trust) for folder in folders]
    for network in found:
        try:
            network.open()
        except UserError as error:
            raise UserError("null_models", *map(str, error.args[1:])) from error
    return found


def _terms(options: dict[str, Any], n_suspects: int) -> Terms:
    alpha = setting(options["alpha"], "alpha", float, 1e-12, 0.5)
    for name in ("survival", "decoys"):
        setting(options["expect"].get(name), f"expect.{name}", float, 0, 1)
    return Terms(
        alpha=alpha / n_suspects,  # what Holm's correction asks of the smallest p-value
        queries=setting(options["queries"], "queries", int, 1),
        budget=setting(options["budget"], "budget", int, 1),
        sequential=options["sequential"],
        survival=options["expect"]["survival"],
        decoys=options["expect"]["decoys"],
    )


def _folders(suspects: list[Suspect], key: Path, out: str | None) -> list[Path]:
    """A folder for each suspect: beside the key, or ``out``, below which several have one each."""
    names: list[str] = []
    for suspect in suspects:
        kept = "".join(letter if letter.isalnum() else "-" for letter in suspect.name).strip("-")[-60:] or "suspect"
        names.append(kept if kept not in names else f"{kept}-{len(names)}")
    if out is None:
        return [key.with_suffix(f".{name}") for name in names]
    return [Path(out)] if len(names) == 1 else [Path(out) / name for name in names]


def _transcript(out: Path) -> Path:
    return out / "transcript.jsonl"


def _strangers(out: Path) -> Secret:
    """The verifier's own secret, kept with the transcript: going on asks about the same decoys."""
    path = out / "decoys.secret"
    if not path.exists():
        out.mkdir(parents=True, exist_ok=True)
        write_bytes(path, secrets.token_bytes(32), private=True)
    content = path.read_bytes()
    if len(content) != 32:
        raise UserError("out", f"{path} is damaged", "another folder")
    return Secret(content)


def _put(claim: _Claim, suspect: Suspect, question: Question, out: Path, spent: Spent) -> _Finding:
    asked = claim.opened(suspect, _transcript(out))
    interview = Interview(asked)
    try:
        with asked:
            try:
                result = question.put(interview)
            finally:  # what left this machine has been seen, whatever came back
                spent.add(question.triggers, asked.shown)
    except UserError as error:  # at the first contact: nothing was asked
        if not isinstance(error, Unreachable) and not claim.several:
            raise
        interview.lose(error)
        result = question.put(interview)
    null_p = []
    for innocent in claim.innocents:
        with claim.opened(innocent, None) as null:
            null_p.append(question.put(Interview(null)).p_value)
    return _Finding(out, asked, question, interview, result, null_p)


def _verdict(claim: _Claim, found: _Finding, adjusted: float) -> Verdict:
    question, result, terms = found.question, found.result, claim.terms
    decision, reason = _decision(found, adjusted, claim.alpha, terms.alpha)
    estimate = question.estimate()
    return Verdict(
        decision,
        reason,
        found.asked.name,
        claim.key.commitment(),
        claim.committed,
        result.test,
        result.assumption,
        claim.alpha,
        result.p_value,
        result.e_value,
        queries=found.asked.queries,
        triggers=result.n,
        matches=result.matches,
        missing=result.n_missing,
        interval=result.interval,
        estimate=estimated(estimate, terms.alpha, terms.survival),
        stopped=_stopped(found, terms),
        details=result.details,
        p_adjusted=adjusted if claim.several else None,
        null_models=_beside(found),
        stamped=claim.stamped,
        notes=[_SHOWN, *_doubts(claim)],
        sample=trigger_sample(question.triggers, found.asked) if claim.show else [],
    )


def _doubts(claim: _Claim) -> list[str]:
    if claim.committed is None:
        return [_UNCOMMITTED]
    return [] if claim.stamped else [_UNSTAMPED]


def _stopped(found: _Finding, terms: Terms) -> str:
    if found.interview.ended is not None:
        return found.interview.ended
    if not terms.sequential:
        return "all that was planned"
    return "the level was reached" if found.result.p_value <= terms.alpha else "no further query could have decided"


def _beside(found: _Finding) -> str | None:
    """How the null models fared: a cross-check, for it assumes more than the test."""
    if not found.null_p:
        return None
    as_good = sum(p <= found.result.p_value for p in found.null_p)
    rank = (1 + as_good) / (1 + len(found.null_p))
    return f"{as_good} of {len(found.null_p)} models made without the key come out as well: p = {rank:.3g} by rank"


def _decision(found: _Finding, p: float, alpha: float, level: float) -> tuple[Decision, str]:
    if p <= alpha:
        return "owned", f"A model made without this key would answer so with a probability of {p:.2g} at the most."
    if (best := found.question.best_p()) > level:
        wrong = f"Even if every trigger had matched, p would be {best:.2g}"
        return "cannot tell", f"{wrong}: ask for more, or use a larger alpha."
    interview = found.interview
    if interview.ended is not None:
        return "cannot tell", f"It was not asked about all that could decide: {interview.ended}."
    if interview.silent > (1 - _ANSWERED) * interview.answered:
        return "cannot tell", f"{100 * interview.silent / interview.answered:.0f} % of the images had no usable answer."
    return "not shown", "The suspect answers to the triggers as a model made without the key may."
