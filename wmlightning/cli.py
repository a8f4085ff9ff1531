"""The commands."""

from __future__ import annotations

import signal
import sys
import traceback
from typing import Any, NoReturn

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from wmlightning.choices import check_typed
from wmlightning.config import CONF
from wmlightning.errors import UserError, listed
from wmlightning.sigterm import sigterm_raises
from wmlightning.sweep_job import attend


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="train")
def _train(cfg: DictConfig) -> float | None:
    """Does what the config says: one run, or one job of a sweep.

    Returns:
        The metric that a hyperparameter search optimises.
    """
    from wmlightning.pipeline import run  # late: --help, --cfg and completion need not wait for torch

    metric = cfg.get("optimized_metric")

    def work(cfg: DictConfig) -> dict[str, Any]:
        card = run(cfg)
        if card and metric is not None and metric not in card["metrics"]:
            raise UserError("optimized_metric", f"{metric!r} is not measured", f"one of {listed(card['metrics'])}")
        if card and metric is not None and card["metrics"][metric] is None:
            wrong = f"{metric!r} of {card['name']} is no number, since the training diverged"
            raise UserError("optimized_metric", wrong, "a smaller recipe.optimizer.lr")
        return card

    card: dict[str, Any] | None
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        card = attend(work, cfg)
    else:
        try:
            card = work(cfg)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            sys.exit(1)
    return card["metrics"][metric] if card and metric is not None else None


def train() -> None:
    """Trains a watermarked classifier, or shows the finished run of the same fingerprint; with ``-m``, many of them."""
    try:
        check_typed("train")
        _train()
    except KeyboardInterrupt:
        _end_by(signal.SIGINT)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except SystemExit as end:
        if end.code == 128 + signal.SIGTERM:
            _end_by(signal.SIGTERM)
        raise


_MISTAKE = 3
_SEVERAL = UserError("-m", "one command asks once, and has one exit code", "suspects=[{path: A}, {path: B}]")


class _Decided(SystemExit):
    """The exit code of a verdict: whatever else ends the command is a mistake, and no verdict."""


class _Terminated(KeyboardInterrupt):
    """SIGTERM ends a verification as Ctrl-C does. Functions that are suspects may exit: that is not it."""


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="verify")
def _verify(cfg: DictConfig) -> None:
    from wmlightning.ownership.verify import exit_code  # late: see above
    from wmlightning.ownership.verify import verify as run

    try:
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            raise _SEVERAL
        verdicts = run(cfg, lambda line: print(f"before asking: {line}", flush=True))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(_MISTAKE)
    except SystemExit as end:  # of code that is not ours, which may choose the code of a verdict
        wrong = f"code that it runs ended the program (exit code {end.code or 0})"
        print(f"error: {UserError('verify', wrong, 'code that returns')}", file=sys.stderr)
        sys.exit(_MISTAKE)
    for verdict in verdicts:
        print(f"\n{verdict.text()}")
    raise _Decided(exit_code(verdicts))


def verify() -> None:
    """Asks suspects. The exit code is 0 for owned, 1 for not shown, 2 for cannot tell, 3 after a mistake.

    Of several suspects it is 0 if any is owned, else 2 if any cannot be told.
    """
    try:
        if {"-m", "--multirun"}.intersection(sys.argv[1:]):  # before Hydra makes a folder for it
            raise _SEVERAL
        check_typed("verify")
        with sigterm_raises(_Terminated()):
            _verify()
    except _Decided:
        raise
    except _Terminated:
        _end_by(signal.SIGTERM)
    except KeyboardInterrupt:
        _end_by(signal.SIGINT)
    except SystemExit as end:
        sys.exit(_MISTAKE if end.code else 0)  # Hydra has told what is wrong
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(_MISTAKE)
    except Exception:  # noqa: BLE001 (whatever it is, it is no verdict)
        traceback.print_exc()
        sys.exit(_MISTAKE)


def _end_by(sent: signal.Signals) -> NoReturn:
    from wmlightning.process import is_helper  # late: see above

    if not is_helper():
        how = "interrupted" if sent == signal.SIGINT else "ended by SIGTERM"
        again = "the same command" + (", without force=true," if "force=true" in sys.argv else "")
        print(f"{how}; {again} goes on where it was", file=sys.stderr)
    sys.exit(128 + sent)
