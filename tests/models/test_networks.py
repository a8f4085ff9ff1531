from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from tests.conftest import REPO
from wmlightning.config import make
from wmlightning.job import network_of
from wmlightning.models.networks import CifarResNet18, Normalized, ResNet9, SmallCNN, VGGStyleCNN
from wmlightning.testing import check_model, check_network

NETS: dict[str, tuple[Callable[[int, int, int], nn.Module], list[tuple[int, int, int]]]] = {
    "SmallCNN": (lambda c, side, k: SmallCNN(c, side, k, width=4, hidden=8), [(1, 28, 10), (3, 32, 7), (1, 10, 2)]),
    "VGGStyleCNN": (lambda c, side, k: VGGStyleCNN(c, side, k, width=4), [(3, 32, 10), (1, 28, 5), (1, 8, 2)]),
    "ResNet9": (lambda c, side, k: ResNet9(c, k, width=4), [(3, 32, 10), (1, 28, 3), (1, 8, 2)]),
    "CifarResNet18": (lambda c, side, k: CifarResNet18(c, k), [(3, 32, 10), (1, 16, 3)]),
}
CASES = [(name, *size) for name, (_, sizes) in NETS.items() for size in sizes]


#: Colour images, since torchvision's networks take no others; small ones for the network that takes longest.
SHAPES = {"resnet18": "[3,16,16]"}
MODELS = sorted(path.stem for path in (REPO / "conf" / "model").glob("*.yaml"))


@pytest.mark.parametrize(("name", "c", "side", "k"), CASES)
def test_networks_of_every_size_keep_the_contract(name: str, c: int, side: int, k: int) -> None:
    check_network(lambda: Normalized(NETS[name][0](c, side, k), [0.5] * c, [0.25] * c), (c, side, side), k)


@pytest.mark.parametrize("name", MODELS)
def test_every_shipped_model_keeps_the_contract(name: str) -> None:
    check_model(name, overrides=[f"dataset.source.shape={SHAPES.get(name, '[3,32,32]')}"])


@pytest.mark.parametrize(("net", "most"), [(SmallCNN, 9), (VGGStyleCNN, 7)])
def test_images_too_small_are_refused_with_the_smallest_size(net: Callable[..., nn.Module], most: int) -> None:
    with pytest.raises(ValueError, match=f"at least {most + 1}x{most + 1}"):
        net(1, most, 10)
    assert net(1, most + 1, 10, width=4).eval()(torch.zeros(1, 1, most + 1, most + 1)).shape == (1, 10)


def test_width_is_the_width_of_the_first_stage() -> None:
    for net in (SmallCNN(1, 28, 10, width=6), VGGStyleCNN(1, 28, 10, width=6), ResNet9(1, 10, width=6)):
        first = next(module for module in net.modules() if isinstance(module, nn.Conv2d))
        assert first.out_channels == 6


def test_normalisation_happens_inside() -> None:
    net = Normalized(nn.Flatten(), [0.5, 0.25, 0.0], [0.5, 0.25, 2.0])
    images = torch.tensor([0.0, 0.5, 1.0]).expand(1, 3, 3).reshape(1, 3, 1, 3)
    expected = torch.tensor([[-1.0, 0.0, 1.0, -1.0, 1.0, 3.0, 0.0, 0.25, 0.5]])
    assert torch.allclose(net(images), expected)
    # As buffers, so that saved weights know what to do with images.
    assert {"mean", "scale"} <= set(net.state_dict())
    other = Normalized(nn.Flatten(), [0.0] * 3, [1.0] * 3)
    other.load_state_dict(net.state_dict())
    assert torch.allclose(other(images), expected)
    assert not list(net.parameters())


def test_initial_weights_follow_from_the_seed() -> None:
    for name, (build, sizes) in NETS.items():
        weights = []
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            weights.append(torch.cat([p.flatten() for p in build(*sizes[0]).parameters()]))
        assert torch.equal(weights[0], weights[1]), name
        assert not torch.equal(weights[0], weights[2]), name


class Scattered(nn.Sequential):
    """Somebody's network, whose initial weights come from the generators of Python, NumPy and torch."""

    def __init__(self, n_inputs: int, n_classes: int) -> None:
        super().__init__(nn.Flatten(), nn.Linear(n_inputs, n_classes))
        with torch.no_grad():
            self[1].bias[0], self[1].bias[1] = random.random(), np.random.rand()  # noqa: NPY002


def test_weights_that_are_not_drawn_by_torch_follow_from_the_seed_too(composed: Callable[..., DictConfig]) -> None:
    cfg = composed("dataset=procedural", "dataset.source.shape=[1,8,8]", "~model")
    model = {"_target_": f"{__name__}.Scattered", "n_inputs": 64, "n_classes": "${auto.n_classes}"}
    OmegaConf.update(cfg, "model", model, force_add=True)
    source = make(cfg.dataset.source, "dataset.source")
    weights = []
    for seed in (0, 0, 1):
        before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # noqa: NPY002
        weights.append(network_of(cfg, source, seed).net[1].bias.tolist())
        assert before[:2] == (random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002
        assert torch.equal(before[2], torch.get_rng_state())
        random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002
    assert weights[0] == weights[1]
    assert not set(weights[0]) & set(weights[2])


#: What torch.use_deterministic_algorithms says "will throw a RuntimeError" on a GPU, as far as they are modules.
IRREPRODUCIBLE = (
    nn.AvgPool3d,
    nn.AdaptiveAvgPool2d,
    nn.AdaptiveAvgPool3d,
    nn.AdaptiveMaxPool2d,
    nn.FractionalMaxPool2d,
    nn.FractionalMaxPool3d,
    nn.MaxUnpool1d,
    nn.MaxUnpool2d,
    nn.MaxUnpool3d,
    nn.Upsample,
    nn.ReflectionPad1d,
    nn.ReflectionPad2d,
    nn.ReflectionPad3d,
    nn.EmbeddingBag,
)


@pytest.mark.parametrize("name", MODELS)
def test_every_shipped_model_trains_on_a_gpu_as_the_trainer_is_shipped(
    composed: Callable[..., DictConfig], name: str
) -> None:
    """``trainer.deterministic`` is on: a module that has no reproducible gradient there would stop the training."""
    cfg = composed(f"model={name}", "dataset=procedural", "dataset.source.shape=[3,32,32]")
    assert cfg.trainer.deterministic is True
    net = network_of(cfg, make(cfg.dataset.source, "dataset.source"), 0)
    found = [module for module in net.modules() if isinstance(module, IRREPRODUCIBLE)]
    means = [m for m in found if isinstance(m, nn.AdaptiveAvgPool2d) and m.output_size in (1, (1, 1))]
    assert found == means, "torch computes an average over everything as a plain mean"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_resnet9_pools_as_torch_does(dtype: torch.dtype, layout: torch.memory_format) -> None:
    """To the bit, with many values that are equal: who trained with torch's pooling gets the same weights."""
    ours = ResNet9(1, 2, width=4)[6]
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(-2, 3, (64, 16, 4, 4), generator=draw).to(dtype).contiguous(memory_format=layout)
    weights = torch.randn(64, 16, generator=draw).to(dtype)
    gradients = []
    for pool in (ours, nn.Sequential(nn.AdaptiveMaxPool2d(1), nn.Flatten())):
        x = images.clone(memory_format=torch.preserve_format).requires_grad_()
        (pool(x) * weights).sum().backward()
        assert x.grad is not None
        gradients.append(x.grad)
    assert torch.equal(*gradients)


def test_trying_a_network_out_leaves_no_trace(composed: Callable[..., DictConfig]) -> None:
    cfg = composed("model=resnet9", "dataset=procedural")
    state = torch.get_rng_state()
    net = network_of(cfg, make(cfg.dataset.source, "dataset.source"), 0)
    assert torch.equal(torch.get_rng_state(), state)
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    assert all(norm.num_batches_tracked == 0 and not norm.running_mean.any() for norm in norms)
    assert all(module.training for module in net.modules())
