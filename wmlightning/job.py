"""One job, settled: everything a run needs, checked before an image is read or a byte is written."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from torch import nn

from wmlightning.config import check_finite, make, per_channel, plain, setting, switch
from wmlightning.data.datamodule import Augment, Batching, WatermarkData
from wmlightning.data.loading import Loading
from wmlightning.data.source import Source
from wmlightning.data.splits import Roles
from wmlightning.errors import UserError, listed, reason_of
from wmlightning.files import check_writable
from wmlightning.identity import identity_of
from wmlightning.models.classifier import Optimisation
from wmlightning.models.networks import Normalized
from wmlightning.precision import check_devices, device_type, resolve_precision
from wmlightning.results.card import fingerprint
from wmlightning.secret import Secret
from wmlightning.seeds import drawing_from, role_seed
from wmlightning.task import MOST_HELD_OUT, Plan, check_memory, own_copy, settle
from wmlightning.trainer import check_options
from wmlightning.watermarks.scheme import Labels, Scheme
from wmlightning.watermarks.triggers import TriggerMaker, no_triggers
from wmlightning.watermarks.unrelated import refuse_own_data, refuse_own_images

#: Modes of torch.compile's. ``true`` is its default.
_COMPILED = ("reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs")


@dataclass(frozen=True)
class Start:
    """A trained model that a training begins from.

    Attributes:
        weights: file of its weights.
        digest: SHA-256 of that file.
        run: name of the finished run that it is, if it is one of ours.
    """

    weights: Path
    digest: str
    run: str | None = None


@dataclass(frozen=True)
class Job:
    """A settled job.

    Attributes:
        cfg: the config, with ``auto`` filled in.
        seed: the user's seed.
        source: the task's data.
        roles: who may see which image.
        labels: source classes and labels of marks.
        maker: makes the triggers; ``None`` without a watermark.
        scheme: the watermark's common options.
        start: what it begins from; ``None``: from random weights.
        net: the network with its initial weights (random; whoever trains loads those of ``start``), taking images in
            [0, 1].
        optimisation: how it is trained.
        augment: augments batches; ``None``: as they are.
        precision: the arithmetic chosen.
        device: ``cpu``, ``cuda`` or ``mps``.
        identity: what determines the trained model.
        name: name of the run.
        folder: where the run's files are.
    """

    cfg: DictConfig
    seed: int
    source: Source
    roles: Roles
    labels: Labels
    maker: TriggerMaker | None
    scheme: Scheme
    start: Start | None
    net: nn.Module
    optimisation: Optimisation
    augment: Augment | None
    precision: str
    device: str
    identity: dict[str, Any]
    name: str
    folder: Path

    @property
    def fingerprint(self) -> str:
        """Names the trained model."""
        return fingerprint(self.identity)

    @property
    def n_groups(self) -> int:
        """Upper bound of the numbers that accuracies are told apart by."""
        return max(len(self.source.classes), self.scheme.n_marks, self.scheme.n_decoys)

    def data_module(self) -> WatermarkData:
        """Reads the data and makes the triggers."""
        triggers = self.maker.make() if self.maker else no_triggers(self.source.shape)
        val, test = {}, {}
        if self.maker:
            triggers.check()
            refuse_own_images(triggers, self.source)
            val = {"trigger": triggers.trained}
            test = {"trigger": triggers.trained, "trigger_new": triggers.new, "decoy": triggers.decoys}
        recipe = self.cfg.recipe
        batching = Batching(
            batch_size=recipe.batch_size,
            mix=self.scheme.mix,
            per_batch=self.scheme.per_batch,
            negatives_per_batch=self.scheme.negatives_per_batch,
            augment_marked=self.scheme.augment,
            seed=self.seed,
            frozen=bool(self.cfg.trainer.get("overfit_batches")),
        )
        loading = Loading(num_workers=recipe.num_workers, eval_batch_size=recipe.eval_batch_size)
        watched = {"val": val, "test": test}
        return WatermarkData(
            self.source,
            self.roles,
            triggers.merged(),
            watched,
            batching,
            self.augment,
            loading,
            triggers.originals,
            len(triggers.negatives),
        )


@dataclass(frozen=True)
class Draft:
    """A job as far as it can be settled without data. For attributes see :class:`Job`; :meth:`job` settles the rest."""

    cfg: DictConfig
    seed: int
    plan: Plan
    secret: Secret | None
    start: Start | None
    net: nn.Module
    optimisation: Optimisation
    augment: Augment | None
    precision: str
    device: str

    def job(self) -> Job:
        """Reads the labels and settles what depends on them.

        Raises:
            UserError: if the data cannot be read, or are too few for what is asked for.
        """
        cfg, plan = self.cfg, self.plan
        roles = plan.roles()
        refuse_own_data(plan.watermark, plan.source)
        maker = plan.maker(roles)
        n_images = len(roles.train) + (maker.n + maker.n_negatives if maker else 0)
        if cfg.recipe.batch_size > n_images:
            raise UserError("recipe.batch_size", f"{cfg.recipe.batch_size} of {n_images} images", "a smaller batch")
        check_memory(plan, maker)

        identity = identity_of(cfg, plan.source, plan.watermark, self.precision)
        if self.secret is not None:  # that of a study follows from the seed
            identity["key"] = self.secret.name()
        if maker is not None and maker.bound:  # before, labels followed from the secret alone: such runs are others
            identity["labels"] = "drawn for these images"
        if maker is not None and maker.mark_bound:
            identity["mark"] = "drawn for these images"
        if self.start is not None:
            identity["start"] = self.start.digest
        if cfg.guard.max_drop is not None:
            identity["guard"] = float(cfg.guard.max_drop)
        what = f"{cfg.dataset.name}-{_last(cfg.watermark)}-{_last(cfg.model)}"
        name = f"{what}-s{self.seed}-{fingerprint(identity)}"
        folder = Path(cfg.runs_dir).absolute() / name
        cfg.auto.update(run_dir=str(folder), name=name, group=_group(cfg), tags=_tags(cfg))
        return Job(
            cfg,
            self.seed,
            plan.source,
            roles,
            plan.labels,
            maker,
            plan.scheme,
            self.start,
            self.net,
            self.optimisation,
            self.augment,
            self.precision,
            self.device,
            identity,
            name,
            folder,
        )


def prepare(cfg: DictConfig, writes: bool = True, secret: Secret | None = None, start: Start | None = None) -> Job:
    """Settles a job: cheap checks first, then labels, nothing written. See :func:`draft`."""
    return draft(cfg, writes, secret, start).job()


def draft(cfg: DictConfig, writes: bool = True, secret: Secret | None = None, start: Start | None = None) -> Draft:
    """Settles of a job what needs no data.

    Args:
        cfg: composed from ``conf/train.yaml``.
        writes: whether something is going to be written to ``runs_dir``.
        secret: the owner's; ``None``: that of a study, which follows from the seed.
        start: what training begins from; ``None``: random weights, which follow from the seed.

    Raises:
        UserError: for every mistake of the user's that can be seen before data are read.
    """
    cfg = own_copy(cfg)
    check_finite(plain(cfg))  # and a mandatory value that is missing, an interpolation that leads nowhere
    seed = setting(cfg.seed, "seed", int, 0, 2**63 - 1)
    device = device_type(cfg.trainer.get("accelerator", "auto"))
    precision = resolve_precision(cfg.trainer.get("precision", "auto"), device)
    _check_numbers(cfg)
    check_options(cfg.trainer)
    check_devices(plain(cfg.trainer).get("devices", "auto"), device)
    if cfg.guard.max_drop is not None:
        setting(cfg.guard.max_drop, "guard.max_drop", float, 0, 1)
        if start is None:
            right = "start=RUN, a finished run or a file of weights; or guard.max_drop=null"
            raise UserError(
                "guard.max_drop", "there is no accuracy to keep: training begins from random weights", right
            )
    optimisation = _optimisation(cfg)
    augment = make(cfg.recipe.augment, "recipe.augment") if cfg.recipe.augment else None
    if secret is not None and cfg.watermark.get("_target_") is None:
        raise UserError("key", "there is no key without a watermark", "watermark=noise, or no key")
    plan = settle(cfg, secret or Secret.from_seed(role_seed(seed, "secret")))
    scheme = plan.scheme
    in_each = scheme.per_batch + scheme.negatives_per_batch
    if scheme.mix == "per_batch" and in_each >= cfg.recipe.batch_size:
        wrong = f"{in_each} marked images in batches of {cfg.recipe.batch_size}"
        raise UserError("watermark.per_batch", wrong, "fewer, so that clean ones have room")
    net = network_of(cfg, plan.source, seed)
    if cfg.recipe.channels_last and any(weight.ndim == 5 for weight in net.state_dict().values()):
        raise UserError("recipe.channels_last", f"{_last(cfg.model)} has weights of five dimensions", "false")
    _check_optimisation(optimisation, net)
    if writes:
        check_writable(Path(cfg.runs_dir), "runs_dir", _bytes_needed(net))
    return Draft(cfg, seed, plan, secret, start, net, optimisation, augment, precision, device)


def network_of(cfg: DictConfig, source: Source, seed: int) -> nn.Module:
    """The network that the config describes, with its initial weights, taking images in [0, 1].

    Raises:
        UserError: if it cannot be made or does not fit the data.
    """
    c, h, w = source.shape
    cfg.auto.update(channels=c, height=h, width=w, n_classes=len(source.classes))
    mean, std = (per_channel(plain(cfg.dataset[key]), f"dataset.{key}", c) for key in ("mean", "std"))
    if min(std) <= 0:
        raise UserError("dataset.std", f"{std} is no spread", "numbers above 0")
    with drawing_from(role_seed(seed, "init")):
        inner = make(cfg.model, "model")
        if not isinstance(inner, nn.Module):
            raise UserError("model._target_", f"{cfg.model._target_} makes no torch module", "a network class")
        net = Normalized(inner, mean, std)
        for name, value in net.state_dict().items():
            if not isinstance(value, torch.Tensor):
                wrong = f"{_last(cfg.model)} keeps a state that is no tensor ({name.removeprefix('net.')})"
                raise UserError("model", wrong, "a network whose state_dict holds tensors alone")
        if any(torch.nn.parameter.is_lazy(tensor) for tensor in net.state_dict().values()):
            _answer(net.eval(), cfg, source)  # makes the weights of lazy layers, which cannot be copied before
        _check_logits(net, cfg, source)
    return net.train()


def _check_logits(net: nn.Module, cfg: DictConfig, source: Source) -> None:
    """Tries two images in evaluation and in training, on copies: what a network remembers of images is left alone."""
    wanted = (2, len(source.classes))
    for training in (False, True):
        try:
            trial = copy.deepcopy(net).train(training)
        except Exception as error:  # a network of the user's may raise anything
            wrong = f"{_last(cfg.model)} cannot be copied ({reason_of(error)})"
            raise UserError("model", wrong, "a network that copy.deepcopy takes, as attacks on it need") from error
        logits = _answer(trial, cfg, source)
        if not isinstance(logits, torch.Tensor) or tuple(logits.shape) != wanted:
            found = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
            when = "training" if training else "evaluation"
            wrong = f"{_last(cfg.model)} gives {found} for two images in {when}"
            raise UserError("model", wrong, f"(n, {wanted[1]}) logits and nothing else")


def _answer(net: nn.Module, cfg: DictConfig, source: Source) -> Any:
    """What a network makes of two images."""
    c, h, w = source.shape
    try:
        with torch.no_grad():
            return net(torch.zeros(2, c, h, w))
    except Exception as error:  # as above
        wrong = f"{_last(cfg.model)} does not take {c}x{h}x{w} images ({reason_of(error)})"
        raise UserError("model", wrong, "another network, or another image size") from error


def _optimisation(cfg: DictConfig) -> Optimisation:
    recipe = cfg.recipe
    optimizer = make(recipe.optimizer, "recipe.optimizer")
    schedule = make(recipe.schedule, "recipe.schedule") if recipe.schedule else None
    smoothing = setting(recipe.label_smoothing, "recipe.label_smoothing", float, 0, 0.99)
    return Optimisation(optimizer, schedule, smoothing, recipe.decay_all)


def _check_optimisation(optimisation: Optimisation, net: nn.Module) -> None:
    """Builds optimizer and schedule for the groups of these weights, which either may refuse."""
    with _built("recipe.optimizer"):
        built = optimisation.optimizer(optimisation.groups_of(net))
    with _built("recipe.schedule"):
        rates = optimisation.schedule_of(built, total_steps=100)
    if isinstance(rates, torch.optim.lr_scheduler.ReduceLROnPlateau):
        wrong = "ReduceLROnPlateau waits for a metric, and there is none of a step"
        raise UserError("recipe.schedule", wrong, "a schedule that goes by steps")


@contextmanager
def _built(key: str) -> Iterator[None]:
    """Optimizers and schedules refuse their options only when they are built."""
    try:
        yield
    except (TypeError, ValueError, LookupError) as error:
        raise UserError(key, reason_of(error), "see its documentation") from error


def _check_numbers(cfg: DictConfig) -> None:
    switch(cfg.force, "force")
    for name in ("channels_last", "decay_all"):
        switch(cfg.recipe[name], f"recipe.{name}")
    if not isinstance(cfg.recipe.compile, bool) and cfg.recipe.compile not in _COMPILED:
        raise UserError("recipe.compile", f"{cfg.recipe.compile!r} is no mode", listed(["true", "false", *_COMPILED]))
    if not OmegaConf.is_list(cfg.tags):
        raise UserError("tags", f"{cfg.tags!r} is no list", "[first,second]")
    name = cfg.dataset.name  # begins that of the run's folder
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", name):
        raise UserError("dataset.name", f"{name!r} is no name", "letters, digits, '.', '_' and '-'")
    if not isinstance(cfg.runs_dir, str) or not cfg.runs_dir:
        raise UserError("runs_dir", f"{cfg.runs_dir!r} is no folder", "name a folder")
    setting(cfg.recipe.batch_size, "recipe.batch_size", int, 2)
    setting(cfg.recipe.eval_batch_size, "recipe.eval_batch_size", int, 1)
    setting(cfg.recipe.num_workers, "recipe.num_workers", int, 0)
    setting(cfg.dataset.val_share, "dataset.val_share", float, 0.001, MOST_HELD_OUT)


def _bytes_needed(net: nn.Module) -> int:
    weights: int = sum(tensor.numel() * tensor.element_size() for tensor in net.state_dict().values())
    # Weights; old and new resume point, each with up to two moments and the weights that a guard keeps; logs, pictures.
    return 10 * weights + 2**24


def _last(node: DictConfig) -> str:
    return str(node.get("_target_") or "none").rsplit(".", 1)[-1].lower()


def _group(cfg: DictConfig) -> str:
    if cfg.group:
        return str(cfg.group)
    if HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN:
        return f"sweep-{Path(HydraConfig.get().sweep.dir).name}"
    return str(cfg.dataset.name)


def _tags(cfg: DictConfig) -> list[str]:
    tags = [cfg.dataset.name, _last(cfg.watermark), _last(cfg.model)]
    if cfg.watermark.get("_target_"):
        tags += [f"marks={cfg.watermark.n_marks}", f"negatives={cfg.watermark.negatives:g}"]
    return [*tags, *map(str, cfg.tags)]
