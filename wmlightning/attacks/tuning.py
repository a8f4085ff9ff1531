"""How a thief trains: plain epochs over their own images, shared by every attack that trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from wmlightning.attacks.base import Stolen
from wmlightning.config import setting
from wmlightning.data.datamodule import Augment
from wmlightning.errors import UserError
from wmlightning.seeds import generator, role_seed


@dataclass(frozen=True)
class Tuning:
    """Stochastic gradient descent with a constant learning rate.

    Attributes:
        epochs: passes over the thief's images.
        batch_size: images a step.
        momentum: Nesterov momentum.
        weight_decay: on all parameters.
        augment: see :class:`wmlightning.data.datamodule.WatermarkData`.
    """

    epochs: int = 5
    batch_size: int = 128
    momentum: float = 0.9
    weight_decay: float = 5e-4
    augment: Augment | None = None

    def check(self, key: str) -> None:
        """Refuses numbers out of range.

        Args:
            key: config key that the options stand under.

        Raises:
            UserError: naming the option.
        """
        setting(self.epochs, f"{key}.epochs", int, 1)
        setting(self.batch_size, f"{key}.batch_size", int, 2)
        setting(self.momentum, f"{key}.momentum", float, 0, 0.999)
        setting(self.weight_decay, f"{key}.weight_decay", float, 0)

    def run(
        self,
        network: nn.Module,
        stolen: Stolen,
        labels: Tensor,
        lr: float,
        after_step: Callable[[], None] | None = None,
    ) -> Iterator[int]:
        """Trains ``network`` in place, and yields the number of epochs done after each.

        Layers without trainable parameters stay in evaluation mode, so that frozen normalisation keeps its statistics.

        Args:
            network: parameters with ``requires_grad`` are trained.
            stolen: images, seed and arithmetic.
            labels: int64 ``(n,)``, what the images are to get.
            lr: learning rate.
            after_step: called after each step.
        """
        parameters = [p for p in network.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(
            parameters, lr, self.momentum, weight_decay=self.weight_decay, nesterov=self.momentum > 0
        )
        # Half precision needs scaled losses; for other numbers the scaler does nothing.
        half = stolen.arithmetic.autocast is torch.float16
        scaler = torch.amp.GradScaler(stolen.arithmetic.device.type, enabled=half)
        held, labels = stolen.images.to(stolen.arithmetic.device), labels.to(stolen.arithmetic.device)
        for epoch in range(self.epochs):
            # Dropout draws from the global generator: each epoch from numbers of its own, whatever came before.
            torch.manual_seed(role_seed(stolen.seed, "thief/train", epoch))
            _training_mode(network)
            order = torch.randperm(len(labels), generator=generator(stolen.seed, "thief/batches", epoch))
            n_batches = -(-len(order) // self.batch_size)
            for step, index in enumerate(torch.tensor_split(order, n_batches)):
                index = index.to(held.device)
                images = held[index]
                if self.augment is not None:
                    draw = torch.Generator(images.device)
                    draw.manual_seed(role_seed(stolen.seed, "thief/augment", epoch, step))
                    images = self.augment(images, torch.zeros(len(index), dtype=torch.bool, device=images.device), draw)
                with stolen.arithmetic.scope():
                    loss = cross_entropy(network(stolen.arithmetic.floats(images)), labels[index])
                optimizer.zero_grad()
                torch.autograd.backward(scaler.scale(loss))
                scaler.step(optimizer)
                scaler.update()
                if after_step is not None:
                    after_step()
            network.eval()
            yield epoch + 1


def _training_mode(network: nn.Module) -> None:
    network.eval()
    for module in network.modules():
        own = list(module.parameters(recurse=False))
        if any(p.requires_grad for p in own):
            module.training = True
    if all(p.requires_grad for p in network.parameters()):
        network.train()


def check_redrawn(network: nn.Module, key: str) -> None:
    """Refuses a network of which :func:`own_network` would keep some weights.

    Raises:
        UserError: naming ``key``, and the first that no layer draws anew.
    """
    for name, module in network.named_modules():
        own = [*module.named_parameters(recurse=False)]
        if own and not callable(getattr(module, "reset_parameters", None)):
            wrong = f"{name}.{own[0][0]} of the network cannot be drawn anew"
            raise UserError(key, wrong, "0, on the suspect itself; or another model")


def own_network(stolen: Stolen, labels: Tensor, training: Tuning, lr: float) -> nn.Module:
    """A network of an accuser's own, of the same kind as the suspect: no weight of that goes into it.

    Args:
        stolen: the accuser's images, and the suspect as a pattern.
        labels: what the images show, int64 ``(n,)``.
        training: from new weights.
        lr: its learning rate.
    """
    network = stolen.copy().requires_grad_(True)
    torch.manual_seed(role_seed(stolen.seed, "accuser/init"))
    for module in network.modules():
        if callable(reset := getattr(module, "reset_parameters", None)):
            reset()
    for _ in training.run(network, stolen, labels, lr):
        pass
    return network


def rates_of(learning_rates: Sequence[float], key: str) -> list[float]:
    """Checks a list of learning rates, and sorts it.

    Raises:
        UserError: naming ``key``.
    """
    if not isinstance(learning_rates, Sequence) or not learning_rates:
        raise UserError(key, f"{learning_rates!r} is no list", "[0.001,0.01]")
    return sorted({setting(lr, key, float, 1e-12, 1e3) for lr in learning_rates})


def head(network: nn.Module, key: str) -> nn.Module:
    """The last layer that has weights: the one that tells classes apart.

    Raises:
        UserError: naming ``key``, if no layer has weights.
    """
    layers = [module for module in network.modules() if isinstance(module, (nn.Linear, nn.Conv2d))]
    if not layers:
        raise UserError(key, "the network has no dense or convolutional layer", "layers=all")
    return layers[-1]
