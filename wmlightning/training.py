"""One training: module, trainer and loggers; fitted, tested, and written down."""

from __future__ import annotations

import math
import traceback
from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.exceptions import SIGTERMException
from rich.console import Console
from safetensors.torch import save

from wmlightning.attacks.execution import plain_weights
from wmlightning.callbacks import resume
from wmlightning.callbacks.accuracy import Accuracies
from wmlightning.callbacks.guard import AccuracyGuard
from wmlightning.config import plain
from wmlightning.data.datamodule import WatermarkData
from wmlightning.errors import UserError, reason_of
from wmlightning.files import write_bytes
from wmlightning.job import Job
from wmlightning.logged import note
from wmlightning.loggers import begin, finish, make_loggers, tells_source, told, with_names
from wmlightning.models.classifier import Classifier
from wmlightning.rehearsal import callbacks_of
from wmlightning.results.card import environment, write_card
from wmlightning.seeds import role_seed
from wmlightning.store import WEIGHTS, load_weights
from wmlightning.trainer import make_trainer


class Training:
    """Module, trainer and loggers of a job. Making one writes nothing; :meth:`run` fits, tests, and writes the results.

    Raises:
        UserError: if the Trainer, a callback or a logger refuses its options.
    """

    def __init__(self, job: Job) -> None:
        cfg = job.cfg
        self.job = job
        self.module = Classifier(
            job.net,
            job.optimisation,
            seed=role_seed(job.seed, "train"),
            channels_last=cfg.recipe.channels_last,
            compile=cfg.recipe.compile,
        )
        self.point = resume.ResumePoint(job.folder)
        self.dry = bool(cfg.trainer.get("fast_dev_run"))
        watched = cfg.guard.max_drop is not None and not self.dry
        self.guard = AccuracyGuard(cfg.guard.max_drop, "val/clean_acc") if watched else None
        self.callbacks = callbacks_of(cfg)
        self.loggers = [] if self.dry else make_loggers(cfg, job.folder, job.name, "train")
        self.trainer = self._trainer()

    def _trainer(self) -> L.Trainer:
        job = self.job
        tells = tells_source(plain(job.cfg), owned=job.cfg.key is not None)
        measures = Accuracies(job.labels.measured, job.n_groups, tells)
        callbacks: list[L.Callback] = [measures, *self.callbacks.values()]
        if self.guard is not None:
            callbacks.append(self.guard)
        if not self.dry:
            callbacks.append(self.point)
        return make_trainer(job.cfg.trainer, job.precision, job.folder, callbacks, self.loggers)

    def run(self, data: WatermarkData) -> dict[str, Any]:
        """Fits, or goes on where a killed training was, and tests.

        Returns:
            The card, written with the weights unless it is a ``fast_dev_run``.
        """
        job, trainer, point = self.job, self.trainer, self.point
        done = None if self.dry else point.read_fitted(trainer)
        going_on = None if self.dry or done is not None else point.load_whole()
        status = "failed"
        try:
            if trainer.is_global_zero:
                with told("logger.wandb", "W&B does not take the run"):
                    for logger in self.loggers:
                        begin(logger, with_names(_hyperparameters(job), owned=job.cfg.key is not None))
            if done is None:
                done = self._fit(data, going_on)
                if done is None:
                    return {}
                if not self.dry:
                    point.write_fitted(trainer, plain_weights(job.net), done)
            else:
                load_weights(job.net, job.folder / resume.FITTED, "force")
                point.tell(trainer)
            trainer.test(self.module, datamodule=data, verbose=False)
            tested = {name: float(value) for name, value in trainer.callback_metrics.items()}
            status = "success"
        finally:
            finish(self.loggers, status)
        metrics = {name: value for name, value in {**done["metrics"], **tested}.items() if "/" in name}
        card = _card(job, data, point, metrics)
        if self.guard is not None:
            card["guard"] = done["guard"]
        if not trainer.is_global_zero:
            return card
        if self.dry:
            Console().print("fast_dev_run: it all went through; nothing is kept")
        else:
            note(self.loggers, job.folder)  # before there is a card: what has one is logged by it alone
            write_bytes(job.folder / WEIGHTS, save(plain_weights(job.net)))
            write_card(job.folder, card)
            point.clear()
        return card

    def _fit(self, data: WatermarkData, going_on: str | None) -> dict[str, Any] | None:
        """Trains; gives ``metrics`` of the epoch whose weights the network holds in the end, and a ``guard``'s outcome.

        ``None`` where a guard let no weights pass and another process tells so.
        """
        trainer, point, guard = self.trainer, self.point, self.guard
        try:
            trainer.fit(self.module, datamodule=data, ckpt_path=going_on, weights_only=True)
        except UserError as error:
            if guard is None or error.key != "max_drop":
                raise
            if not trainer.is_global_zero:  # all processes decide alike
                return None
            raise UserError("guard.max_drop", *error.args[1:]) from error
        except MisconfigurationException as error:
            raise self._refused(error) from error
        except RuntimeError as error:
            if trainer.received_sigterm:  # another process of this training has ended, and was to speak to this one
                raise SIGTERMException from error
            if type(error).__module__.startswith(("torch._dynamo", "torch._inductor")):
                raise UserError("recipe.compile", reason_of(error), "false, or another network") from error
            if "conditioned on metric" in str(error):  # EarlyStopping's
                raise self._refused(error) from error
            if "does not have a deterministic implementation" not in str(error):
                raise
            wrong = str(error).split(", but you set")[0]
            raise UserError("trainer.deterministic", wrong, "trainer.deterministic=warn, or another network") from error
        if not point.history and not self.dry:
            right = "a longer trainer.max_time, or no callback that ends the training so early"
            raise UserError("trainer.max_epochs", "the training ended before its first epoch did", right)
        if guard is None:
            return {"metrics": point.history[-1] if point.history else {}}
        judged = {name: value for name, value in guard.metrics.items() if name.startswith("val/")}
        return {"metrics": {**point.history[guard.epochs_kept - 1], **judged}, "guard": guard.outcome()}

    def _refused(self, error: Exception) -> UserError:
        """What Lightning found wrong only in the training, told by the callback that it was in."""
        selves = [frame.f_locals.get("self") for frame, _ in traceback.walk_tb(error.__traceback__)]
        names = [f"callbacks.{key}" for key, callback in self.callbacks.items() if any(callback is me for me in selves)]
        wrong = str(error).split("HINT")[0].rstrip(". ")
        return UserError(names[0] if names else "trainer", wrong, f"~{names[0]}" if names else "other options")


def _numbers(metrics: dict[str, float]) -> dict[str, float | None]:
    """As JSON can say them: what a training that diverged gives is no number."""
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}


def _card(job: Job, data: WatermarkData, point: resume.ResumePoint, metrics: dict[str, float]) -> dict[str, Any]:
    roles = job.roles
    return {
        "kind": "train",
        "name": job.name,
        "fingerprint": job.fingerprint,
        "identity": job.identity,
        "metrics": _numbers(metrics),
        "history": [_numbers(epoch) for epoch in point.history],
        "epochs": len(point.history),
        "seconds": {"train": round(point.seconds, 2)},
        "precision": job.precision,
        "device": job.device,
        "threads": torch.get_num_threads(),
        "seed": job.seed,
        "group": job.cfg.auto.group,
        "data": {
            **job.source.identity(),
            "train": len(roles.train),
            "val": len(roles.val),
            "test": len(roles.attacker) + len(roles.judge),
            "triggers": len(data.watched["test"].get("trigger", ())),
            "marked": len(data.merged),
            **_skipped(job),
        },
        **_began(job),
        "parameters": sum(p.numel() for p in job.net.parameters()),
        "config": _hyperparameters(job),
        "environment": environment(),
    }


def _skipped(job: Job) -> dict[str, Any]:
    """How many pictures were left out, and the first of them."""
    names = job.source.skipped
    return {"skipped": {"count": len(names), "files": list(names[:20])}} if names else {}


def _hyperparameters(job: Job) -> dict[str, Any]:
    cfg = plain(job.cfg)
    names = ("seed", "dataset", "watermark", "model", "recipe", "trainer", "tags")
    more = {"precision": job.precision, "fingerprint": job.fingerprint, **_began(job)}
    return {**{name: cfg[name] for name in names}, **more}


def _began(job: Job) -> dict[str, Any]:
    """What the card says of the model that the training began from."""
    return {} if job.start is None else {"start": {"run": job.start.run, "weights": job.start.digest}}
