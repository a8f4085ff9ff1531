"""The whole story of one run, top to bottom."""

from __future__ import annotations

import copy
import functools
import logging
import math
import os
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning as L
import torch
from filelock import FileLock
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from safetensors.torch import save

from wmlightning.allocator import keep_freed_memory
from wmlightning.attacks.execution import Scene, carry_out, plain_weights
from wmlightning.attacks.planning import Assault, Victim, intend, plan
from wmlightning.attacks.twin import Twin
from wmlightning.callbacks import resume
from wmlightning.callbacks.accuracy import Accuracies
from wmlightning.callbacks.guard import AccuracyGuard
from wmlightning.config import check_sections, from_elsewhere, make, plain, unmarked_config
from wmlightning.data.datamodule import WatermarkData
from wmlightning.errors import UserError
from wmlightning.files import clear, file_digest, write_bytes
from wmlightning.job import Draft, Job, draft, prepare
from wmlightning.logged import note, untold
from wmlightning.loggers import (
    check_login,
    finish,
    log_attack,
    log_training,
    make_loggers,
    tells_source,
    told,
    with_names,
)
from wmlightning.models.classifier import Classifier
from wmlightning.ownership.key import keep_key, read_key, secret_for
from wmlightning.results.card import environment, fingerprint, read_card, write_card
from wmlightning.results.summary import show, show_attack
from wmlightning.secret import Secret
from wmlightning.seeds import role_seed
from wmlightning.store import WEIGHTS, find_start, load_weights, read_run, secret_of, with_task_of
from wmlightning.trainer import check_batches, make_trainer


def run(cfg: DictConfig) -> dict[str, Any]:
    """Trains what the config describes, or finds it trained, attacks it if asked to, and shows the results.

    Args:
        cfg: composed from ``conf/train.yaml``.

    Returns:
        The card of the training; of a foreign victim, the last attack's.

    Raises:
        UserError: for a mistake in the config, before anything is written.
    """
    check_sections(cfg)
    calm_lightning()
    keep_freed_memory()
    if cfg.victim is not None:
        return attack_found(cfg)
    key = _key(cfg)
    with nullcontext() if key is None else secret_for(key, waits=_is_helper_process()) as secret:
        return _train_and_attack(cfg, secret)


def _train_and_attack(cfg: DictConfig, secret: Secret | None) -> dict[str, Any]:
    start = find_start(cfg.start)
    drafted = draft(cfg, secret=secret, start=start)
    intents = intend(drafted.cfg, drafted.plan.source, drafted.net)
    if intents and cfg.trainer.get("fast_dev_run"):
        raise UserError("attack", "fast_dev_run keeps no model that could be attacked", "leave one of them out")
    rehearse(drafted)
    if start is not None:
        load_weights(drafted.net, start.weights, "start")
    job = drafted.job()
    assaults = plan(intents, job, Victim(job.name, job.fingerprint, job.folder))
    card = train(job, force=cfg.force and not assaults)
    if assaults and not _is_helper_process():
        _go_on_alone()
        load_weights(job.net, job.folder / WEIGHTS)
        carry_out_all(assaults, job, may_train=True)
    return card


def rehearse(drafted: Draft) -> None:
    """Makes what a training needs besides data, and lets it go: what is refused is told before data are read.

    Raises:
        UserError: if the Trainer, a callback or a logger refuses its options.
    """
    cfg, folder = drafted.cfg.copy(), Path(drafted.cfg.runs_dir).absolute()
    cfg.auto.update(run_dir=str(folder), name="", group="", tags=[])  # they follow from the data
    make_trainer(cfg.trainer, drafted.precision, folder, _callbacks(cfg), make_loggers(cfg, folder, "", "train"))


def train(job: Job, force: bool) -> dict[str, Any]:
    """Trains, or finds the finished run of the same fingerprint."""
    training = Training(job)
    card = _finished(job, force)
    helper = _is_helper_process()
    if job.cfg.trainer.get("fast_dev_run") or (helper and card is None):  # nothing to keep, or another process keeps it
        return training.run(job.data_module())
    if helper and card is not None:
        return card
    if card is not None:
        Console().print("trained before; force=true trains anew")
    else:
        card = _train_alone(job, training, force)
    check_login(untold(training.loggers, job.folder))
    log_training(training.loggers, card, job.cfg.key is not None, job.folder)
    show(card, job.folder)
    return card


def attack_found(cfg: DictConfig) -> dict[str, Any]:
    """Attacks a finished run or a file of weights, which ``victim`` names, without training it."""
    if cfg.start is not None:
        raise UserError("start", "a victim is attacked as it is", "victim or start, one of them")
    path = Path(str(cfg.victim)).expanduser().absolute()
    if path.is_dir():
        card = read_run(path, trust=plain(cfg.trust))
        secret = secret_of(card, _key(cfg))
        with from_elsewhere("victim"):
            job = prepare(with_task_of(cfg, card), secret=secret)
        job.cfg.auto.update(name=card["name"])
        victim = Victim(str(card["name"]), str(card["fingerprint"]), path)
        load_weights(job.net, path / WEIGHTS)
    else:
        job = prepare(cfg, secret=read_key(key).secret if (key := _key(cfg)) is not None else None)
        load_weights(job.net, path)
        parts = {part: job.identity[part] for part in ("seed", "dataset", "watermark", "model", "data", "other_data")}
        parts["key"] = job.identity.get("key")
        name = f"{job.name.rsplit('-', 1)[0]}-file-{fingerprint({**parts, 'weights': file_digest(path)})}"
        victim = Victim(name, name.rsplit("-", 1)[1], Path(cfg.runs_dir).absolute() / name)
    intents = intend(job.cfg, job.source, job.net)
    if not intents:
        raise UserError("victim", "there is nothing to do to it", "say which attack=")
    return carry_out_all(plan(intents, job, victim), job, may_train=False)


def carry_out_all(assaults: list[Assault], job: Job, may_train: bool) -> dict[str, Any]:
    """Carries out attacks one after the other, and shows what came out.

    Args:
        assaults: on one victim, whose weights ``job.net`` holds.
        job: the victim's.
        may_train: whether an unmarked model to compare with is trained if there is none.

    Returns:
        The last attack's card.
    """
    scene = functools.cache(lambda: Scene(job, job.net, lambda: unmarked_twin(job, may_train)))
    cards = []
    for assault in assaults:
        loggers = make_loggers(job.cfg, assault.folder, f"{assault.victim.name}/{assault.name}", "attack")
        anew = job.cfg.force or assault.finished() is None
        check_login(loggers if anew else untold(loggers, assault.folder))
        card, before = carry_out(assault, scene, job.cfg.force)
        log_attack(loggers, card, job.cfg.key is not None, assault.folder)
        show_attack(card, assault.folder, before)
        cards.append(card)
    return cards[-1]


def unmarked_twin(job: Job, may_train: bool) -> Twin | None:
    """The model before it was marked: what the training began from, or what ``watermark=none`` trains from scratch.

    ``None`` where there is none.
    """
    if job.maker is None or not job.cfg.judge.unmarked:
        return None
    if job.start is not None:
        before = copy.deepcopy(job.net)
        load_weights(before, job.start.weights, "start")
        return Twin(before, None)
    cfg = job.cfg.copy()
    OmegaConf.set_struct(cfg, False)
    cfg.watermark, cfg.key = unmarked_config(), None
    cfg.trainer.update(devices=1, num_nodes=1, strategy="auto")  # this process is alone; the model is the same
    OmegaConf.set_struct(cfg, True)
    twin = prepare(cfg, writes=may_train)
    if _finished(twin, force=False) is None:
        if not may_train:
            return None
        Console().print(f"the unmarked model to compare with: {twin.name}")
        _train_alone(twin, Training(twin), force=False)
    load_weights(twin.net, twin.folder / WEIGHTS)
    return Twin(twin.net, twin.folder if may_train else None)


def _train_alone(job: Job, training: Training, force: bool) -> dict[str, Any]:
    """Trains unless another process that is at the same model gets there first."""
    check_login(training.loggers)
    data = job.data_module()  # what is wrong with the data shows before anything is written
    check_batches(training.trainer, data)
    job.folder.mkdir(parents=True, exist_ok=True)
    with FileLock(job.folder / ".lock"):
        if (card := _finished(job, force)) is not None:
            return card
        if (key := _key(job.cfg)) is not None:  # before the training, so that no model is without it
            keep_key(job, key)
        if force:
            clear(job.folder)
        return training.run(data)


def _finished(job: Job, force: bool) -> dict[str, Any] | None:
    """The card of a finished run of this very model, unless it is to be redone."""
    card = None if force else read_card(job.folder)
    if card is None or card.get("fingerprint") != job.fingerprint or not (job.folder / WEIGHTS).exists():
        return None
    return card


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
        watched = cfg.guard.max_drop is not None and not cfg.trainer.get("fast_dev_run")
        self.guard = AccuracyGuard(cfg.guard.max_drop, "val/clean_acc") if watched else None
        self.loggers = make_loggers(cfg, job.folder, job.name, "train")
        self.trainer = self._trainer()

    def _trainer(self) -> L.Trainer:
        job = self.job
        tells = tells_source(plain(job.cfg), owned=job.cfg.key is not None)
        callbacks: list[L.Callback] = [Accuracies(job.labels.measured, job.n_groups, tells), *_callbacks(job.cfg)]
        if self.guard is not None:
            callbacks.append(self.guard)
        if not job.cfg.trainer.get("fast_dev_run"):
            callbacks.append(self.point)
        return make_trainer(job.cfg.trainer, job.precision, job.folder, callbacks, self.loggers)

    def run(self, data: WatermarkData) -> dict[str, Any]:
        """Fits, or goes on where a killed training was, and tests.

        Returns:
            The card, written with the weights unless it is a ``fast_dev_run``.
        """
        job, trainer, point = self.job, self.trainer, self.point
        dry = job.cfg.trainer.get("fast_dev_run")
        done = None if dry else point.read_fitted(trainer)
        going_on = point.load_whole() if done is None else None
        status = "failed"
        try:
            if trainer.is_global_zero:
                with told("logger.wandb", "W&B does not take the run"):
                    for logger in self.loggers:
                        logger.log_hyperparams(with_names(_hyperparameters(job), owned=job.cfg.key is not None))
            if done is None:
                done = self._fit(data, going_on)
                if done is None:
                    return {}
                if not dry:
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
        if dry:
            Console().print("fast_dev_run: one batch of everything went through; nothing is kept")
        elif trainer.is_global_zero:
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
        except RuntimeError as error:
            if "does not have a deterministic implementation" not in str(error):
                raise
            wrong = str(error).split(", but you set")[0]
            raise UserError("trainer.deterministic", wrong, "trainer.deterministic=warn, or another network") from error
        if trainer.interrupted:
            raise KeyboardInterrupt
        if not point.history and not self.job.cfg.trainer.get("fast_dev_run"):
            right = "a longer trainer.max_time, or no callback that ends the training so early"
            raise UserError("trainer.max_epochs", "the training ended before its first epoch did", right)
        if guard is None:
            return {"metrics": point.history[-1] if point.history else {}}
        judged = {name: value for name, value in guard.metrics.items() if name.startswith("val/")}
        return {"metrics": {**point.history[guard.epochs_kept - 1], **judged}, "guard": guard.outcome()}


def _key(cfg: DictConfig) -> Path | None:
    """Where the owner's key is, or will be. A name of digits alone arrives as a number."""
    return None if cfg.key is None else Path(str(cfg.key)).expanduser()


def _callbacks(cfg: DictConfig) -> list[L.Callback]:
    """The callbacks that the config asks for."""
    found = []
    for key, node in (cfg.callbacks or {}).items():
        callback = make(node, f"callbacks.{key}")
        if not isinstance(callback, L.Callback):
            wrong = f"{type(callback).__name__} is no callback of Lightning's"
            raise UserError(f"callbacks.{key}", wrong, f"a class derived from lightning.Callback, or ~callbacks.{key}")
        found.append(callback)
    return found


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


def _is_helper_process() -> bool:
    """Whether another process of the same distributed job writes, and this one only computes.

    On several machines ``LOCAL_RANK`` is 0 on each of them; torchrun tells the number among all processes too.
    """
    if (rank := os.environ.get("RANK")) is not None:
        return int(rank) > 0
    return any(int(os.environ.get(name) or 0) > 0 for name in ("LOCAL_RANK", "SLURM_PROCID", "NODE_RANK"))


def _go_on_alone() -> None:
    """Leaves the group of processes that trained together: the others have ended, and waiting for them never would."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def calm_lightning() -> None:
    """Keeps what a user can do nothing about off the screen."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    logging.getLogger("lightning.pytorch.profilers").setLevel(logging.INFO)  # trainer.profiler=simple asks for it
    for message in (
        ".*does not have many workers.*",
        ".*Checkpoint directory .* exists.*",
        ".*smaller than the logging interval.*",
        ".*logs directory .* exists and is not empty.*",  # resumed: the epochs before are logged again
        ".*LeafSpec.*",
        ".*GPU available but not used.*",  # trainer=cpu was asked for
    ):
        warnings.filterwarnings("ignore", message)
