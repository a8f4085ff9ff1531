from __future__ import annotations

import functools
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tests.helpers import ArraySource, random_images, random_source, some_images, tiny_data, tiny_net, tiny_trainer
from wmlightning.data.batches import Batch
from wmlightning.data.datamodule import Batching, WatermarkData
from wmlightning.data.splits import Roles
from wmlightning.models.classifier import Classifier, Optimisation
from wmlightning.models.networks import Normalized, SmallCNN

SGD = functools.partial(torch.optim.SGD, lr=0.1)


def easy_data(batch_size: int = 20) -> WatermarkData:
    """Two classes told apart by their brightness, and triggers of one mark: bright images that are to be dark ones."""
    labels = torch.arange(120) % 2
    images = random_images(120, (1, 12, 12)) // 4 + (labels * 160).to(torch.uint8)[:, None, None, None]
    source = ArraySource((images, labels), (images[:40], labels[:40]), 2)
    return tiny_data(source, batching=Batching(batch_size))


class Kept(L.Callback):
    """Keeps the metrics of each training epoch."""

    def __init__(self) -> None:
        self.epochs: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.epochs.append({name: float(value) for name, value in trainer.callback_metrics.items()})


class Rates(L.Callback):
    """Keeps the learning rate of each step."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])


def _fit(module: Classifier, data: WatermarkData, epochs: int = 1, **options: Any) -> list[dict[str, float]]:
    kept = Kept()
    callbacks = [kept, *options.pop("callbacks", [])]
    # The metrics of an epoch are complete when all callbacks and the module were asked.
    trainer = tiny_trainer(max_epochs=epochs, callbacks=callbacks, **options)
    trainer.fit(module, datamodule=data)
    if kept.epochs:
        kept.epochs[-1].update({name: float(value) for name, value in trainer.callback_metrics.items()})
    return kept.epochs


def _loss(net: nn.Module, source: ArraySource, roles: Roles) -> float:
    net.eval()
    with torch.no_grad():
        images = source.images("train", roles.train) / 255
        loss = float(cross_entropy(net(images), source.labels("train")[roles.train]))
    net.train()
    return loss


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_training_lowers_the_loss_and_learns_clean_images_and_triggers(channels_last: bool, precision: Any) -> None:
    torch.manual_seed(0)
    net = Normalized(SmallCNN(1, 12, 2, width=4, hidden=16), [0.5], [0.3])
    data = easy_data()
    before = _loss(net, data.source, data.roles)  # type: ignore[arg-type]
    optimisation = Optimisation(functools.partial(torch.optim.Adam, lr=5e-3))
    module = Classifier(net, optimisation, channels_last=channels_last)
    _fit(module, data, epochs=6, precision=precision)
    assert _loss(net, data.source, data.roles) < before / 2  # type: ignore[arg-type]
    with torch.no_grad():
        triggers = net.eval()(data.merged.images / 255).argmax(1)
        clean = net(data.source.images("test", torch.arange(40)) / 255).argmax(1)
    assert torch.equal(triggers, data.merged.labels)
    assert (clean == data.source.labels("test")).float().mean() > 0.9


def test_the_module_takes_images_from_0_to_1_and_predicts_labels() -> None:
    torch.manual_seed(0)
    net = Normalized(tiny_net(1, 12, 4), [0.3], [0.2])
    module = Classifier(net, Optimisation(SGD))
    images = random_images(6, (1, 12, 12)) / 255
    assert torch.equal(module(images), net(images))
    labels = torch.zeros(6, dtype=torch.int64)
    for step in (module.validation_step, module.test_step):
        predicted = step(Batch(images, labels, labels, 0), 0)
        assert torch.equal(predicted, net(images).argmax(1))


class _Fixed(nn.Module):
    """Always answers class 0; ``weight`` is there for the optimizer."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, images: Tensor) -> Tensor:
        logits = torch.tensor([2.0, 0.0, 0.0, 0.0]).expand(len(images), 4)
        return logits + self.weight * 0


# Batches of unequal size, since a mean of means would be wrong; and so many that they are not counted all at once.
@pytest.mark.parametrize(("n", "batch_size"), [(63, 8), (320, 2)])
def test_the_epochs_numbers_count_every_image_once_and_clean_ones_apart(n: int, batch_size: int) -> None:
    source = random_source(n_train=n)
    data = tiny_data(source, batching=Batching(batch_size))
    data.merged = replace(data.merged, labels=torch.tensor([0, 0, 0, 1, 1]))  # some marked images are answered right
    (metrics,) = _fit(Classifier(_Fixed(), Optimisation(SGD)), data)
    clean = source.labels("train")[data.roles.train]
    assert metrics["train/clean_acc"] == pytest.approx(float((clean == 0).float().mean()))
    every = torch.cat([clean, data.merged.labels])
    logits = torch.tensor([2.0, 0.0, 0.0, 0.0]).expand(len(every), 4)
    assert metrics["train/loss"] == pytest.approx(float(cross_entropy(logits, every)), rel=1e-5)
    assert set(metrics) == {"train/loss", "train/clean_acc"}


def test_label_smoothing_reaches_the_loss() -> None:
    data = tiny_data(random_source())
    optimisation = Optimisation(SGD, label_smoothing=0.2)
    (metrics,) = _fit(Classifier(_Fixed(), optimisation), data)
    every = torch.cat([data.source.labels("train")[data.roles.train], data.merged.labels])
    logits = torch.tensor([2.0, 0.0, 0.0, 0.0]).expand(len(every), 4)
    expected = float(cross_entropy(logits, every, label_smoothing=0.2))
    assert metrics["train/loss"] == pytest.approx(expected, rel=1e-5)


def _groups(decay_all: bool, frozen: bool = False) -> tuple[nn.Module, list[dict[str, Any]]]:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 2))
    if frozen:
        net[0].requires_grad_(False)
    optimizer = functools.partial(torch.optim.SGD, lr=0.1, weight_decay=0.01)
    module = Classifier(net, Optimisation(optimizer, decay_all=decay_all))
    module.trainer = tiny_trainer()
    made = module.configure_optimizers()
    return net, made.param_groups


def test_weights_decay_and_norms_and_biases_do_not() -> None:
    net, groups = _groups(decay_all=False)
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    assert len(decays) == len(list(net.parameters())) == sum(len(group["params"]) for group in groups)
    for name, parameter in net.named_parameters():
        weight = name in ("0.weight", "3.weight")
        assert decays[id(parameter)] == (0.01 if weight else 0.0), name


def test_everything_decays_on_request_and_frozen_weights_are_left_alone() -> None:
    net, groups = _groups(decay_all=True)
    assert {group["weight_decay"] for group in groups} == {0.01}
    assert sum(len(group["params"]) for group in groups) == len(list(net.parameters()))
    net, groups = _groups(decay_all=False, frozen=True)
    trained = {id(p) for group in groups for p in group["params"]}
    assert trained == {id(p) for p in net.parameters() if p.requires_grad}


def test_a_schedule_runs_over_all_steps_of_the_training() -> None:
    rates = Rates()
    schedule = functools.partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=0.5, anneal_strategy="linear")
    module = Classifier(tiny_net(1, 12, 4), Optimisation(functools.partial(torch.optim.SGD, lr=0.5), schedule))
    data = tiny_data(random_source(), batching=Batching(10))
    _fit(module, data, epochs=4, callbacks=[rates])
    n = len(data.train_dataloader()) * 4
    assert len(rates.seen) == n == 24
    assert max(rates.seen) == pytest.approx(0.5, rel=0.1)
    assert rates.seen[0] == pytest.approx(0.5 / 25)
    assert rates.seen[-1] == pytest.approx(0.5 / 25e4)  # the very last step has the very last rate
    assert len(set(rates.seen)) > 20  # every step, not every epoch


def test_a_schedule_that_takes_no_number_of_steps_is_left_alone() -> None:
    rates = Rates()
    schedule = functools.partial(torch.optim.lr_scheduler.StepLR, step_size=2, gamma=0.5)
    module = Classifier(tiny_net(1, 12, 4), Optimisation(SGD, schedule))
    _fit(module, tiny_data(random_source(), batching=Batching(10)), callbacks=[rates])
    assert rates.seen == pytest.approx([0.1, 0.1, 0.05, 0.05, 0.025, 0.025])


def _weights(draws: int, seed: int) -> Tensor:
    torch.manual_seed(0)
    net = SmallCNN(1, 12, 4, width=2, hidden=8)  # it has dropout
    torch.rand(draws)
    _fit(Classifier(net, Optimisation(SGD), seed=seed), tiny_data(random_source()), epochs=2)
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def test_dropout_draws_from_the_modules_seed_and_not_from_what_was_drawn_before() -> None:
    first = _weights(0, 3)
    assert torch.equal(first, _weights(5, 3))
    assert not torch.equal(first, _weights(0, 4))


class _Rolled(nn.Module):
    """Draws as code of a user's may: from the generators of Python and NumPy."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        shift = random.randint(-3, 3) + int(np.random.randint(-3, 4)) if self.training else 0  # noqa: NPY002
        found: Tensor = self.net(images.roll(shift, -1))
        return found


def _rolled(drawn: int, seed: int) -> Tensor:
    torch.manual_seed(0)
    net = _Rolled(tiny_net(1, 12, 4))
    random.seed(drawn)
    np.random.seed(drawn)  # noqa: NPY002
    _fit(Classifier(net, Optimisation(SGD), seed=seed), tiny_data(random_source()), epochs=2)
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def test_python_and_numpy_draw_from_the_modules_seed_too() -> None:
    assert torch.equal(_rolled(1, 3), _rolled(2, 3))
    assert not torch.equal(_rolled(1, 3), _rolled(1, 4))


def test_the_module_writes_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _fit(Classifier(tiny_net(1, 12, 4), Optimisation(SGD)), tiny_data())
    assert not list(tmp_path.iterdir())


def test_marked_images_pull_as_hard_as_clean_ones() -> None:
    # One step on one batch: the gradient is that of the plain mean over all images.
    source = random_source(n_train=24)
    data = tiny_data(source, batching=Batching(100))
    net = tiny_net(1, 12, 4)
    reference = tiny_net(1, 12, 4)
    reference.load_state_dict(net.state_dict())
    _fit(Classifier(net, Optimisation(SGD)), data)
    images = torch.cat([source.images("train", data.roles.train), some_images(5, (1, 12, 12), 1).images]) / 255
    labels = torch.cat([source.labels("train")[data.roles.train], torch.ones(5, dtype=torch.int64)])
    cross_entropy(reference(images), labels).backward()
    for ours, theirs in zip(net.parameters(), reference.parameters(), strict=True):
        assert theirs.grad is not None
        assert torch.allclose(ours, theirs - 0.1 * theirs.grad, atol=1e-5)


def test_a_batch_without_images_still_goes_through_the_network() -> None:
    """Processes wait for one another in each forward pass: one that has no image left must not be missing."""
    seen: list[int] = []
    net = nn.Sequential(nn.Flatten(), nn.Linear(144, 4))
    net.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    nothing = torch.zeros(0, dtype=torch.int64)
    found = Classifier(net, Optimisation(SGD)).validation_step(Batch(torch.zeros(0, 1, 12, 12), nothing, nothing, 0), 0)
    assert len(found) == 0
    assert seen == [1]


@pytest.mark.parametrize(("wanted", "mode"), [(True, None), ("reduce-overhead", "reduce-overhead")])
def test_steps_take_the_compiled_network_and_evaluation_the_plain_one(
    monkeypatch: pytest.MonkeyPatch, wanted: bool | str, mode: str | None
) -> None:
    modes: list[str | None] = []
    stages: list[bool] = []

    def compiled(net: nn.Module, **options: Any) -> Callable[[torch.Tensor], torch.Tensor]:
        assert options["dynamic"] is False
        modes.append(options["mode"])

        def call(images: torch.Tensor) -> torch.Tensor:
            stages.append(net.training)
            logits: torch.Tensor = net(images)
            return logits

        return call

    monkeypatch.setattr(torch, "compile", compiled)
    net = tiny_net(1, 12, 4)
    module = Classifier(net, Optimisation(SGD), compile=wanted)
    data = tiny_data(random_source())
    tiny_trainer().fit(module, datamodule=data)
    assert modes == [mode]
    assert stages == [True] * len(data.train_dataloader())
    assert list(module.state_dict()) == [f"net.{name}" for name in net.state_dict()]


class Own(torch.optim.SGD):
    """An optimizer of the user's: nobody knows how it steps."""


@pytest.mark.parametrize(
    ("optimizer", "options", "fused"),
    [
        (SGD, {}, True),
        (functools.partial(torch.optim.Adam, lr=0.01), {"precision": "bf16-mixed"}, True),
        (functools.partial(torch.optim.AdamW, lr=0.01), {"gradient_clip_val": 1.0}, True),
        (functools.partial(torch.optim.AdamW, lr=0.01), {"gradient_clip_val": 1.0, "precision": "bf16-mixed"}, False),
        (functools.partial(torch.optim.Adam, fused=False), {}, False),
        (functools.partial(torch.optim.Adam, foreach=True), {}, False),
        (functools.partial(torch.optim.RMSprop, lr=0.01), {}, False),
        (functools.partial(Own, lr=0.01), {}, False),
        (lambda groups: torch.optim.Adam(groups), {}, False),
    ],
)
def test_updates_are_fused_where_that_is_safe(optimizer: Any, options: dict[str, Any], fused: bool) -> None:
    trainer = tiny_trainer(**options)
    trainer.fit(Classifier(tiny_net(1, 12, 2), Optimisation(optimizer)), datamodule=easy_data())
    assert all(bool(group.get("fused")) == fused for group in trainer.optimizers[0].param_groups)


@pytest.mark.parametrize(
    "optimizer", [functools.partial(SGD, momentum=0.9, nesterov=True, weight_decay=1e-3), torch.optim.AdamW]
)
def test_fused_updates_are_the_same_up_to_rounding(optimizer: Any) -> None:
    trained = []
    for how in ({}, {"fused": False}):
        torch.manual_seed(0)
        net = tiny_net(1, 12, 2)
        _fit(Classifier(net, Optimisation(functools.partial(optimizer, **how))), easy_data(), epochs=3)
        trained.append(torch.cat([weight.flatten() for weight in net.parameters()]))
    assert torch.allclose(*trained, atol=1e-4)
