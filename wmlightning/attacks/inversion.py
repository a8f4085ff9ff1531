"""Model inversion: what does the network think that each class looks like?"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torchvision.transforms.functional import gaussian_blur

from wmlightning.attacks.base import DetectionAttack, Recovered, Stolen, choice
from wmlightning.config import setting
from wmlightning.seeds import generator


class Inversion(DetectionAttack):
    """Gradient descent on the input, from several random starts for each class at once.

    From Fredrikson, Jha and Ristenpart (CCS 2015). There the cost is one minus the class's confidence and descent
    starts from one image; here it is the cross entropy, whose gradient does not vanish where confidence is low, Adam
    takes the steps, and a prior keeps images smooth: total variation in the cost, or a blur now and then (their
    "process").

    Args:
        steps: gradient steps for each start.
        restarts: random starts for each class.
        lr: Adam's step, in units of the pixel range.
        smoothness: ``tv``, ``blur`` or ``none``.
        tv: weight of the mean absolute difference between neighbouring pixels, for ``tv``.
        blur_every: steps from one blur to the next, for ``blur``.
        blur_sigma: width of the blur in pixels.
        batch_size: images that are worked on at once.
    """

    def __init__(
        self,
        steps: int = 200,
        restarts: int = 8,
        lr: float = 0.05,
        smoothness: Literal["tv", "blur", "none"] = "tv",
        tv: float = 0.3,
        blur_every: int = 20,
        blur_sigma: float = 0.7,
        batch_size: int = 128,
    ) -> None:
        self.steps = setting(steps, "attack.inversion.steps", int, 1)
        self.restarts = setting(restarts, "attack.inversion.restarts", int, 1)
        self.lr = setting(lr, "attack.inversion.lr", float, 1e-6, 10)
        self.smoothness = choice(smoothness, "attack.inversion.smoothness", "tv", "blur", "none")
        self.tv = setting(tv, "attack.inversion.tv", float, 0)
        self.blur_every = setting(blur_every, "attack.inversion.blur_every", int, 1)
        self.blur_sigma = setting(blur_sigma, "attack.inversion.blur_sigma", float, 0.1, 10)
        self.batch_size = setting(batch_size, "attack.inversion.batch_size", int, 1)

    def run(self, stolen: Stolen) -> Recovered:
        """See :meth:`DetectionAttack.run`."""
        network = stolen.copy().requires_grad_(False)
        shape = stolen.images.shape[1:]
        draw = generator(stolen.seed, "thief/inversion")
        wanted = torch.arange(stolen.n_classes).repeat_interleave(self.restarts)
        starts = (0.5 + 0.1 * torch.randn(len(wanted), *shape, generator=draw)).clamp_(0, 1)
        images, confidence = [], []
        for start, classes in zip(*(torch.split(x, self.batch_size) for x in (starts, wanted)), strict=True):
            found, sure = self._descend(network, stolen, start, classes)
            images.append(found.cpu())
            confidence.append(sure.cpu())
        k = (stolen.n_classes, self.restarts)
        return Recovered(torch.cat(images).view(*k, *shape), torch.cat(confidence).view(k), self.steps)

    def _descend(self, network: nn.Module, stolen: Stolen, start: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        device = stolen.arithmetic.device
        images = start.to(device).requires_grad_()
        classes = classes.to(device)
        optimizer = torch.optim.Adam([images], lr=self.lr)
        for step in range(self.steps):
            with stolen.arithmetic.scope():
                loss = cross_entropy(network(images), classes, reduction="sum")
            if self.smoothness == "tv":
                loss = loss + self.tv * _total_variation(images)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            with torch.no_grad():
                if self.smoothness == "blur" and (step + 1) % self.blur_every == 0:
                    images.copy_(gaussian_blur(images, 5, self.blur_sigma))
                images.clamp_(0, 1)
        with torch.no_grad(), stolen.arithmetic.scope():
            sure = network(images).float().softmax(1).gather(1, classes[:, None]).flatten()
        return images.detach(), sure


def _total_variation(images: Tensor) -> Tensor:
    """Mean absolute difference of neighbours, summed over images."""
    down = (images[:, :, 1:] - images[:, :, :-1]).abs().mean(dim=(1, 2, 3))
    right = (images[:, :, :, 1:] - images[:, :, :, :-1]).abs().mean(dim=(1, 2, 3))
    return (down + right).sum()
