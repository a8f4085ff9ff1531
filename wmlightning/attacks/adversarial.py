"""Adversarial triggers: images made to be answered as the accuser wants, shown as if they followed from a secret."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from wmlightning.attacks.base import Claim, ClaimAttack, Prospect, Stolen
from wmlightning.attacks.marking import claimed_marks
from wmlightning.attacks.tuning import Tuning, check_redrawn, own_network
from wmlightning.config import setting
from wmlightning.data.batches import ImageSet
from wmlightning.errors import UserError
from wmlightning.secret import Secret
from wmlightning.seeds import role_seed


class Adversarial(ClaimAttack):
    """Changes honest triggers, step by step and within bounds, until a network gives them the labels of the key.

    Projected gradient descent (Madry et al., ICLR 2018) towards the labels. On the suspect itself the images can only
    come after it. On a network of the accuser's own they may be older: they carry over to models trained later by
    others, so that a commitment alone does not help ("False Claims against Model Ownership Resolution", USENIX
    Security 2024). What helps is that triggers must follow from the secret.

    Args:
        watermark: the accuser's, as in ``conf/watermark``; of several marks.
        steps: numbers of steps; a claim is made after each. After 0 the triggers are honest.
        step_size: most that a pixel changes in a step, as a share of the pixel range.
        epsilon: most that it changes in all.
        surrogate_epochs: epochs that a network of the accuser's own is trained for, from new weights, to compute the
            images on; 0: on the suspect itself.
        lr: learning rate of that training.
        batch_size: images a step of it.
        queries: triggers that are shown.
    """

    effort_name = "gradient steps"

    def __init__(
        self,
        watermark: Mapping[str, Any],
        steps: Sequence[int] = (0, 1, 10, 40),
        step_size: float = 0.02,
        epsilon: float = 0.1,
        surrogate_epochs: int = 0,
        lr: float = 0.05,
        batch_size: int = 128,
        queries: int = 40,
    ) -> None:
        key = "attack.adversarial"
        self.marks = claimed_marks(watermark, f"{key}.watermark")
        if not isinstance(steps, Sequence) or not steps:
            raise UserError(f"{key}.steps", f"{steps!r} is no list", "[0,10,40]")
        self.steps = sorted({setting(number, f"{key}.steps", int, 0) for number in steps})
        self.step_size = setting(step_size, f"{key}.step_size", float, 1e-6, 1)
        self.epsilon = setting(epsilon, f"{key}.epsilon", float, 1e-6, 1)
        self.surrogate_epochs = setting(surrogate_epochs, f"{key}.surrogate_epochs", int, 0)
        self.lr = setting(lr, f"{key}.lr", float, 1e-12, 1e3)
        self.training = Tuning(max(1, surrogate_epochs), batch_size)
        self.training.check(key)
        self.queries = setting(queries, f"{key}.queries", int, self.marks.scheme.n_marks)

    def check(self, prospect: Prospect) -> None:
        """See :meth:`ClaimAttack.check`."""
        super().check(prospect)
        if self.surrogate_epochs:
            check_redrawn(prospect.network, "attack.adversarial.surrogate_epochs")

    def run(self, stolen: Stolen) -> Iterator[Claim]:
        """See :meth:`ClaimAttack.run`. The effort is the number of steps."""
        labels, asked = stolen.true_labels()
        secret = Secret.from_seed(role_seed(stolen.seed, "accuser/secret"))
        honest = self.key_maker(stolen, labels, secret).make().trained
        network = own_network(stolen, labels, self.training, self.lr) if self.surrogate_epochs else stolen.copy()
        network.requires_grad_(False)
        start = stolen.arithmetic.floats(honest.images)
        wanted = honest.labels.to(start.device)
        images, done = start, 0
        for steps in self.steps:
            while done < steps:
                images = self._step(network, stolen, images, wanted)
                images = (start + (images - start).clamp(-self.epsilon, self.epsilon)).clamp(0, 1)
                done += 1
            if not done:
                yield Claim(secret, 0, asked, before=asked == 0)
                continue
            pixels = images.mul(255).round().to(torch.uint8).cpu().contiguous()
            queries = asked + (0 if self.surrogate_epochs else done * len(wanted))
            forged = ImageSet(pixels, honest.labels, honest.groups)
            yield Claim(secret, done, queries, before=queries == 0, forged=forged)

    def _step(self, network: nn.Module, stolen: Stolen, images: Tensor, wanted: Tensor) -> Tensor:
        images = images.detach().requires_grad_(True)
        with stolen.arithmetic.scope():
            loss = cross_entropy(network(images), wanted)
        (gradient,) = torch.autograd.grad(loss, images)
        changed: Tensor = images.detach() - self.step_size * gradient.sign()
        return changed
