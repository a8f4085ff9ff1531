"""Measures surrogates on the half of the test split that no thief has seen."""

from __future__ import annotations

import hashlib

import torch
from torch import nn

from wmlightning.attacks.base import Arithmetic
from wmlightning.callbacks.accuracy import GroupAccuracy, shares
from wmlightning.data.batches import CleanImages, EvalPlan, HeldImages, ImageSet
from wmlightning.data.loading import Loading
from wmlightning.data.source import Source


class Judge:
    """Clean accuracy, trigger accuracies and decoy accuracy of any network, each counted apart.

    Args:
        source: the task's data.
        index: images of the test split on which clean accuracy is judged.
        watched: ``trigger``, ``trigger_new`` and ``decoy``, as far as there is a watermark.
        source_classes: classes of ``attack/source_acc``.
        n_groups: upper bound of the group numbers.
        arithmetic: where and how networks are computed.
        loading: batch size and worker processes.
    """

    def __init__(
        self,
        source: Source,
        index: torch.Tensor,
        watched: dict[str, ImageSet],
        source_classes: list[int],
        n_groups: int,
        arithmetic: Arithmetic,
        loading: Loading,
    ) -> None:
        self.source_classes = source_classes
        self.n_groups = n_groups
        self.arithmetic = arithmetic
        clean = CleanImages(source, "test", index)
        plan = EvalPlan(len(clean), loading.eval_batch_size)
        self.loaders = {"clean": loading.loader(clean, plan, workers=not source.in_memory)}
        for name, images in watched.items():
            plan = EvalPlan(len(images), loading.eval_batch_size)
            self.loaders[name] = loading.loader(HeldImages(images), plan, workers=False)
        self.n_images = len(clean) + sum(map(len, watched.values()))

    @torch.no_grad()
    def measure(self, network: nn.Module) -> dict[str, float]:
        """Accuracies of a network, under ``attack/``. The network is left as it was."""
        modes = {module: module.training for module in network.modules()}
        network.eval()
        found: dict[str, float] = {}
        for name, loader in self.loaders.items():
            # Only one process measures: waiting for others would wait for ever.
            metric = GroupAccuracy(self.n_groups, sync_on_compute=False).to(self.arithmetic.device)
            for batch in loader:
                with self.arithmetic.scope():
                    predicted = network(self.arithmetic.floats(batch.images)).argmax(1)
                labels, groups = (x.to(self.arithmetic.device) for x in (batch.labels, batch.groups))
                metric.update(predicted, labels, groups)
            hits, counts = metric.compute()
            found.update({f"attack/{k}": float(v) for k, v in shares(name, hits, counts, self.source_classes).items()})
        for module, training in modes.items():
            module.training = training
        return found


def digest(network: nn.Module) -> str:
    """SHA-256 over names, types and bytes of all parameters and buffers."""
    found = hashlib.sha256()
    for name, tensor in network.state_dict().items():
        values = tensor.detach().cpu().contiguous()
        found.update(f"{name}/{values.dtype}/{tuple(values.shape)}/".encode())
        found.update(values.flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
