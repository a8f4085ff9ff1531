"""The whole story of one run, top to bottom."""

from __future__ import annotations

import copy
import functools
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from wmlightning.attacks.base import DetectionAttack
from wmlightning.attacks.execution import Scene, carry_out
from wmlightning.attacks.planning import Assault, Victim, intend, plan
from wmlightning.attacks.twin import Twin
from wmlightning.choices import check_sections
from wmlightning.config import at_home, from_elsewhere, plain, unmarked_config
from wmlightning.errors import UserError
from wmlightning.files import anew, check_writable, file_digest, settle, telling_full_disks
from wmlightning.job import Job, draft, prepare
from wmlightning.logged import untold
from wmlightning.loggers import check_login, log_attack, log_training, make_loggers
from wmlightning.ownership.key import keep_key, read_key, secret_for
from wmlightning.process import is_helper, keep_freed_memory, stop_asking_for_gpus
from wmlightning.rehearsal import rehearse
from wmlightning.results.card import fingerprint, read_card
from wmlightning.results.summary import show, show_attack
from wmlightning.secret import Secret
from wmlightning.store import WEIGHTS, check_data, find_start, load_weights, read_run, secret_of, with_task_of
from wmlightning.trainer import calm_lightning, check_batches, signals_told
from wmlightning.training import Training


def run(cfg: DictConfig) -> dict[str, Any]:
    """Trains what the config describes, or finds it trained, attacks it if asked to, and shows the results.

    Args:
        cfg: composed from ``conf/train.yaml``.

    Returns:
        The card of the training; of a foreign victim, the last attack's.

    Raises:
        UserError: for a mistake in the config, before anything is written; later, if the disk is full.
    """
    check_sections(cfg)
    cfg = at_home(cfg)
    calm_lightning()
    keep_freed_memory()
    stop_asking_for_gpus()
    with signals_told(), telling_full_disks("runs_dir"):
        if cfg.victim is not None:
            return attack_found(cfg)
        key = _key(cfg)
        with nullcontext() if key is None else secret_for(key, waits=is_helper()) as secret:
            return _train_and_attack(cfg, secret)


def _train_and_attack(cfg: DictConfig, secret: Secret | None) -> dict[str, Any]:
    start = find_start(cfg.start)
    drafted = draft(cfg, secret=secret, start=start)
    intents = intend(drafted.cfg, drafted.plan.source, drafted.net)
    if intents and cfg.trainer.get("fast_dev_run"):
        raise UserError("attack", "fast_dev_run keeps no model that could be attacked", "leave one of them out")
    detects = any(isinstance(intent.attack, DetectionAttack) for intent in intents)
    rehearse(drafted, compared=detects and drafted.cfg.judge.unmarked and start is None)
    if start is not None:
        load_weights(drafted.net, start.weights, "start")
    job = drafted.job()
    assaults = plan(intents, job, Victim(job.name, job.fingerprint, job.folder), may_train=True)
    card = train(job, force=cfg.force and not assaults)
    if assaults and not is_helper():
        _go_on_alone()
        load_weights(job.net, job.folder / WEIGHTS)
        carry_out_all(assaults, job, may_train=True)
    return card


def train(job: Job, force: bool) -> dict[str, Any]:
    """Trains, or finds the finished run of the same fingerprint."""
    training = Training(job)
    card = _finished(job, force)
    helper = is_helper()
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
        check_data(card, job, "victim")
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
    check_writable(victim.folder, "victim" if path.is_dir() else "runs_dir", needed_bytes=2**20)
    return carry_out_all(plan(intents, job, victim, may_train=False), job, may_train=False)


def carry_out_all(assaults: list[Assault], job: Job, may_train: bool) -> dict[str, Any]:
    """Carries out attacks one after the other, and shows what came out.

    Args:
        assaults: on one victim, whose weights ``job.net`` holds.
        job: the victim's.
        may_train: whether an unmarked model to compare with is trained if there is none.

    Returns:
        The last attack's card.
    """
    beside = assaults[0].victim.folder.parent
    scene = functools.cache(lambda: Scene(job, job.net, lambda: unmarked_twin(job, may_train, beside)))
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


def unmarked_twin(job: Job, may_train: bool, beside: Path) -> Twin | None:
    """The model before it was marked: what the training began from, or what ``watermark=none`` trains from scratch.

    Args:
        job: of the marked one.
        may_train: whether it is trained if there is none.
        beside: where to look for it, if not among the runs of this command.

    Returns:
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
    if not may_train and _finished(twin, force=False) is None:
        cfg.runs_dir = str(beside)
        twin = prepare(cfg, writes=False)
    if _finished(twin, force=False) is None:
        if not may_train:
            Console().print(f"no unmarked model to compare with: it would be {twin.name}, which watermark=none trains")
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
        settle(job.folder, done=_finished(job, force=False) is not None, begun=training.point.exists())
        if (card := _finished(job, force)) is not None:
            return card
        if (key := _key(job.cfg)) is not None:  # before the training, so that no model is without it
            keep_key(job, key)
        with anew(job.folder, training.point.exists) if force else nullcontext():
            card = training.run(data)
        settle(job.folder, done=True)
        return card


def _finished(job: Job, force: bool) -> dict[str, Any] | None:
    """The card of a finished run of this very model, unless it is to be redone."""
    card = None if force else read_card(job.folder)
    if card is None or card.get("fingerprint") != job.fingerprint or not (job.folder / WEIGHTS).exists():
        return None
    return card


def _key(cfg: DictConfig) -> Path | None:
    """Where the owner's key is, or will be. A name of digits alone arrives as a number."""
    return None if cfg.key is None else Path(str(cfg.key)).expanduser()


def _go_on_alone() -> None:
    """Leaves the group of processes that trained together: the others have ended, and waiting for them never would."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
