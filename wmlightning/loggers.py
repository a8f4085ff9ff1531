"""Loggers: W&B without prompts, one run for each training, attack and suspect."""

from __future__ import annotations

import hashlib
import json
import netrc
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlparse
from urllib.request import getproxies, proxy_bypass

import wandb
from lightning.pytorch.loggers import Logger, WandbLogger
from omegaconf import DictConfig
from wandb import Settings
from wandb.errors import Error as WandbError
from wandb.errors import UsageError
from wandb.sdk import wandb_setup

from wmlightning.config import make
from wmlightning.errors import UserError
from wmlightning.files import check_writable
from wmlightning.grouping import label_of
from wmlightning.logged import ALL, noted, untold
from wmlightning.results.fields import Fields
from wmlightning.results.privacy import public, public_config
from wmlightning.results.rows import judged_by, names_of

_MODES = ("online", "offline", "disabled", "shared")
_LOGIN = "a key that W&B takes and a network to reach it by, or mode=offline"

#: What a verdict says in numbers and in words, as ``verify/`` in summaries and as columns of the table of verdicts.
_NUMBERS = ("p_value", "p_adjusted", "e_value", "alpha", "queries", "triggers", "matches", "missing")
_WORDS = ("decision", "test", "commitment")

#: Columns of the table of surrogates that hold no metric of the judge's: what the thief pays, how many of the triggers
#: that count still work, and which curve a surrogate is of.
_ADDED = ("clean_lost", "kept", "attack", "label")


def wandb_logger(mode: str | None = None, **options: Any) -> Logger:
    """A WandbLogger that never asks for a login and never adopts the run of another job.

    Args:
        mode: ``online``, ``offline``, ``disabled`` or ``shared``; ``None``: ``WANDB_MODE``, else ``online`` if this
            machine has an API key, else ``offline``.
        **options: passed on.
    """
    chosen = mode or os.environ.get("WANDB_MODE") or ("online" if has_api_key() else "offline")
    if chosen not in _MODES:
        raise UserError("logger.wandb.mode", f"{chosen!r} is no mode", f"one of {', '.join(_MODES)}")
    if chosen == "online" and not has_api_key():
        raise UserError("logger.wandb.mode", "online, but there is no API key", "WANDB_API_KEY, or mode=offline")
    # W&B would send the whole command line along, in which key files, addresses and tokens of suspects stand, and
    # whatever is printed.
    options.setdefault("settings", Settings(quiet=True, x_disable_meta=True, console="off"))
    return WandbLogger(mode=chosen, reinit="create_new", **options)


def check_login(loggers: list[Logger]) -> None:
    """Logs in to W&B if a logger is to be online, before anything is written.

    Args:
        loggers: all loggers of a piece of work.

    Raises:
        UserError: if W&B does not take the key, or cannot be reached.
    """
    for logger in loggers:
        if isinstance(logger, WandbLogger) and logger._wandb_init.get("mode") == "online":
            with told("logger.wandb.mode", "online, but cannot log in"):
                _check_network(_base_url())
                wandb.login(verify=True)


def _base_url() -> str:
    """Where W&B is: from the environment, or from what ``wandb login --host`` wrote."""
    return os.environ.get("WANDB_BASE_URL") or str(wandb_setup.singleton().settings.base_url)


def _check_network(url: str) -> None:
    """Refuses a W&B that nobody answers for: W&B's own process tries for many minutes, and this one waits for its end.

    Raises:
        WandbError: if neither the host nor a proxy that leads to it takes a connection.
    """
    try:
        there = urlparse(url)
        proxy = os.environ.get(f"WANDB_{there.scheme.upper()}_PROXY")
        if proxy is None and not proxy_bypass(there.hostname or ""):
            proxy = getproxies().get(there.scheme)
        if proxy:
            there = urlparse(proxy if "//" in proxy else f"http://{proxy}")
        host, port = there.hostname or "", there.port or (443 if there.scheme == "https" else 80)
    except ValueError:  # whose words may show a proxy's password
        raise WandbError("its address, or that of the proxy, is none") from None
    try:
        socket.create_connection((host, port), timeout=10).close()
    except (OSError, UnicodeError) as error:
        raise WandbError(f"{host}: {getattr(error, 'strerror', None) or error}") from error


@contextmanager
def told(key: str, wrong: str, right: str = _LOGIN) -> Iterator[None]:
    """Tells in one line what W&B refuses.

    Args:
        key: config key that the line names.
        wrong: what W&B does not do; its reason is added.
        right: what would be right.

    Raises:
        UserError: naming ``key``.
    """
    try:
        yield
    except WandbError as error:
        raise UserError(key, f"{wrong} ({_in_one_line(error)})", right) from error


def has_api_key() -> bool:
    """Whether W&B would find a key in the environment or in the netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    try:
        host = urlparse(_base_url()).hostname
        return host is not None and netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, ValueError, netrc.NetrcParseError):
        return False


def make_loggers(cfg: DictConfig, folder: Path, name: str, job_type: str) -> list[Logger]:
    """The loggers that the config asks for, for one piece of work.

    Args:
        cfg: the settled config.
        folder: where they may write.
        name: of the piece of work.
        job_type: ``train``, ``attack`` or ``verify``.

    Raises:
        UserError: if a logger refuses its options.
    """
    cfg = cfg.copy()
    cfg.auto.update(run_dir=str(folder), name=name, job_type=job_type)
    made = []
    for key, node in (cfg.logger or {}).items():
        logger = make(node, f"logger.{key}")
        if not isinstance(logger, Logger):
            wrong = f"{type(logger).__name__} is no logger of Lightning's"
            raise UserError(f"logger.{key}", wrong, f"a class derived from Logger, or ~logger.{key}")
        if logger.save_dir:
            check_writable(Path(logger.save_dir), f"logger.{key}.save_dir", 2**20)
        made.append(logger)
    return made


def begin(logger: Logger, config: dict[str, Any]) -> None:
    """Has a logger open its files or its run, and log a config. For what else W&B refuses see :func:`told`.

    Raises:
        UserError: if its options turn out to be wrong.
    """
    try:
        logger.log_hyperparams(config)
    except (OSError, ValueError, TypeError, UsageError) as error:
        key = "logger.wandb" if isinstance(logger, WandbLogger) else "logger"
        wrong = f"{type(logger).__name__} cannot begin ({_in_one_line(error)})"
        raise UserError(key, wrong, "options that it takes, or logger=none") from error


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def with_names(config: dict[str, Any], owned: bool, **more: str) -> dict[str, Any]:
    """A config for loggers, with what results are told apart and grouped by, as ``about``.

    Args:
        config: of a card.
        owned: whether the secret is an owner's, and not a study's, which follows from the seed: then what tells of
            marks and labels is withheld.
        **more: further names.
    """
    names = names_of(Fields(config))
    told = public_config(config, with_secrets=not owned)
    return {**told, "about": {**names, "label": label_of(names, told, more.get("attack")), **more}}


def open_metrics(metrics: dict[str, Any], config: dict[str, Any], owned: bool) -> dict[str, Any]:
    """Metrics by name for loggers; for ``config`` and ``owned`` see :func:`with_names`."""
    if tells_source(config, owned):
        return metrics
    return {name: value for name, value in metrics.items() if not name.endswith("/source_acc")}


def tells_source(config: dict[str, Any], owned: bool) -> bool:
    """Whether loggers may know the accuracy on the source class: whoever has the model finds the class by it."""
    marks = config.get("watermark") or {}
    return not owned or marks.get("source_class", "auto") in ("auto", "any")


def log_training(loggers: list[Logger], card: dict[str, Any], owned: bool, folder: Path) -> None:
    """Hands a finished training to loggers that were not there: its epochs and its test, as the card tells them.

    For ``owned`` see :func:`with_names`. A logger that was told before is not told again.

    Raises:
        UserError: if W&B does not take it.
    """
    loggers = untold(loggers, folder)
    history = card.get("history") or [{}]
    tested = {name: value for name, value in card["metrics"].items() if name.startswith("test/")}
    tested |= {name: history[-1].get(name) for name in ("epoch", "step")}
    wrong = "the training is done and its card written, but W&B does not take it"
    with _telling(loggers, folder, wrong):
        for logger in loggers:
            begin(logger, with_names(card["config"], owned))
            for metrics in (*history, tested):
                known = {name: value for name, value in metrics.items() if value is not None and name != "step"}
                logger.log_metrics(open_metrics(known, card["config"], owned), step=int(metrics.get("step") or 0))


@contextmanager
def _telling(loggers: list[Logger], folder: Path, wrong: str, right: str = _LOGIN, what: str = ALL) -> Iterator[None]:
    """Notes that they are told, says in one line what W&B refuses, and ends their runs."""
    try:
        with noted(loggers, folder, what), told("logger.wandb", wrong, right):
            yield
    finally:
        finish(loggers, "success")


def log_attack(loggers: list[Logger], card: dict[str, Any], owned: bool, folder: Path) -> None:
    """Hands an attack's result to loggers: the curve over strength step by step, the best bargain as the summary.

    W&B gets the curve as ``attack/NAME/*`` over ``attack/NAME/strength``, since its panels draw whatever has a metric
    and the strengths of two attacks share no axis; and one table with every surrogate. Recovered images and
    surrogates stay at home. For ``owned`` see :func:`with_names`. A logger that was told before is not told again.

    Raises:
        UserError: if W&B does not take it.
    """
    loggers = untold(loggers, folder)
    config = with_names(card["config"], owned, attack=card["attack"])
    about = config["about"]
    card = {**card, "metrics": open_metrics(card["metrics"], card["config"], owned)}
    if "curve" in card:
        rows = card["curve"]
        card["curve"] = [{**row, "metrics": open_metrics(row["metrics"], card["config"], owned)} for row in rows]
    points = [
        {"attack/strength": row["strength"], "attack/seconds": row["seconds"], **row["metrics"]}
        for row in card.get("curve", [])
        if row["final"]
    ]
    with _telling(loggers, folder, "the attack is done and its card written, but W&B does not take it"):
        for logger in loggers:
            begin(logger, {**config, "victim": card["victim"]["fingerprint"]})
            if isinstance(logger, WandbLogger):
                _log_to_wandb(logger, card, points, about["label"], judged_by(about["key"]))
            else:
                for step, metrics in enumerate(points or [card["metrics"]]):
                    logger.log_metrics(metrics, step=step)


def _log_to_wandb(
    logger: WandbLogger, card: dict[str, Any], points: list[dict[str, Any]], label: str, judged: str
) -> None:
    own = f"attack/{card['attack']}"
    logger.experiment.define_metric(f"{own}/*", step_metric=f"{own}/strength")
    for step, metrics in enumerate(points):
        named = {f"{own}/{name.removeprefix('attack/')}": value for name, value in metrics.items()}
        logger.log_metrics(named, step=step)
    if rows := card.get("curve"):
        names = sorted(rows[0]["metrics"])
        columns = ["strength", "epochs", "seconds", *(name.removeprefix("attack/") for name in names), *_ADDED]
        before = card["victim"]["metrics"]["attack/clean_acc"]
        data = [
            [
                *(row[name] for name in ("strength", "epochs", "seconds")),
                *(row["metrics"].get(name) for name in names),
                *(before - row["metrics"]["attack/clean_acc"], row["metrics"].get(judged), card["attack"], label),
            ]
            for row in rows
        ]
        logger.log_table("attack/surrogates", columns=columns, data=data)
    kept = {"attack/kept": card["metrics"][judged]} if judged in card["metrics"] else {}
    logger.experiment.summary.update({**card["metrics"], **kept})


def log_verdict(loggers: list[Logger], verdict: dict[str, Any], folder: Path) -> None:
    """Hands a verdict to loggers: its numbers to all, to W&B its words too, and the table ``verify/verdicts``.

    Neither triggers nor places on this machine are among them.

    Args:
        loggers: made for this suspect.
        verdict: its fields by name.
        folder: of the verdict. Who was told this very verdict before is not told again.

    Raises:
        UserError: if W&B does not take it.
    """
    numbers = {f"verify/{name}": verdict[name] for name in _NUMBERS if verdict[name] is not None}
    words = {name: public(verdict[name]) for name in ("suspect", *_WORDS)}
    rests_on = {name: verdict[name] for name in ("test", "assumption", "alpha", "commitment", "committed")}
    about = verdict["about"]
    columns = ["suspect", *about, "decision", *_NUMBERS, "test", "commitment"]
    row = [{**verdict, **words, **about}[name] for name in columns]
    what = hashlib.sha256(json.dumps([rests_on, row]).encode()).hexdigest()
    loggers = untold(loggers, folder, what)
    wrong = "the verdict is written, but W&B does not take it"
    right = "mode=offline; asked again, the suspect gets no query twice"
    with _telling(loggers, folder, wrong, right, what), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*logs directory .* exists and is not empty.*")  # asked again
        for logger in loggers:
            config = {"suspect": words["suspect"], **rests_on, "about": {**about, "label": label_of(about)}}
            begin(logger, config)
            logger.log_metrics(numbers, step=0)
            if isinstance(logger, WandbLogger):
                logger.log_table("verify/verdicts", columns=columns, data=[row])
                logger.experiment.summary.update({f"verify/{name}": words[name] for name in _WORDS})


def finish(loggers: list[Logger], status: str) -> None:
    """Ends W&B runs, so that the next job of a sweep gets one of its own.

    Args:
        loggers: all loggers of a run.
        status: ``success`` or ``failed``.
    """
    for logger in loggers:
        logger.finalize(status)
        if isinstance(logger, WandbLogger) and getattr(logger, "_experiment", None) is not None:
            logger.experiment.finish(exit_code=int(status != "success"))
