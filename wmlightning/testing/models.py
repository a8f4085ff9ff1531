"""The contract of a network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load, save
from torch import Tensor, nn

from wmlightning.attacks.execution import plain_weights
from wmlightning.config import make
from wmlightning.job import network_of, prepare
from wmlightning.models.networks import Normalized
from wmlightning.store import load_run
from wmlightning.testing.bench import claim, composing, small_task, trained

_SHORT = ("recipe.batch_size=32", "trainer.max_epochs=1", "watermark.n_triggers=4", "watermark.n_new=2")


def check_model(name: str, config_dir: str | Path | None = None, overrides: Sequence[str] = ()) -> None:
    """Holds a network to its contract, trains it for a moment and loads it again.

    Args:
        name: as typed after ``model=``.
        config_dir: folder of its config, as typed after ``--config-dir``.
        overrides: what else would be typed. Images are 1x28x28 of ten classes; for colour, say
            ``dataset.source.shape=[3,32,32]``.

    Raises:
        AssertionError: saying which promise is broken.
        UserError: if it cannot be made, or does not fit the images.
    """
    with composing(config_dir) as compose:
        cfg = compose(*small_task([*_SHORT, *overrides, f"model={name}"], n_train=200, n_test=100))
        source = make(cfg.dataset.source, "dataset.source")
        check_network(lambda: network_of(cfg.copy(), source, seed=0), source.shape, len(source.classes))
        job = prepare(cfg)
        trained(job, anew=True)  # an edited network of this name is not found trained
        images = source.images("test", torch.arange(8)).float().div(255)
        with torch.no_grad():
            here, loaded = job.net.eval()(images), load_run(job.folder).network(images)
        claim(torch.allclose(here, loaded, atol=1e-5), f"{name}: stored and loaded it gives other logits")


def check_network(build: Callable[[], nn.Module], shape: tuple[int, int, int], n_classes: int) -> nn.Module:
    """What every network owes: logits of each image alone, gradients everywhere, weights that can be stored.

    Args:
        build: makes the network; its initial weights are to follow from torch's seed.
        shape: ``(c, h, w)`` of images.
        n_classes: logits.

    Returns:
        The network.

    Raises:
        AssertionError: saying which promise is broken.
    """
    torch.manual_seed(0)
    net = build()
    name = type(net.net if isinstance(net, Normalized) else net).__name__
    torch.manual_seed(0)
    same = plain_weights(build())
    equal = all(torch.equal(value, same[key]) for key, value in plain_weights(net).items())
    claim(equal, f"{name}: initial weights do not follow from torch's seed")
    images = torch.randint(0, 256, (4, *shape), generator=torch.Generator().manual_seed(0)).float().div(255)
    given = images.clone()
    logits = net.train()(images)
    claim(torch.equal(images, given), f"{name}: forward() wrote to the images that it was given")
    claim(isinstance(logits, Tensor), f"{name}: forward() gives a {type(logits).__name__}, not a tensor of logits")
    found = tuple(logits.shape)
    claim(found == (4, n_classes), f"{name}: logits of 4 images are {found}, not (4, {n_classes})")
    claim(bool(logits.isfinite().all()), f"{name}: a logit is not finite")
    logits.square().sum().backward()
    for key, parameter in net.named_parameters():
        if parameter.requires_grad:
            learns = parameter.grad is not None and bool(parameter.grad.isfinite().all())
            claim(learns, f"{name}: parameter {key} has no gradient: it would never learn, and DDP would wait for it")
    _check_evaluation(name, net.eval(), images)
    return net


def _check_evaluation(name: str, net: nn.Module, images: Tensor) -> None:
    with torch.no_grad():
        whole = net(images)
        claim(torch.equal(net(images), whole), f"{name}: in evaluation the same images get other logits")
        one_by_one = torch.cat([net(image[None]) for image in images])
        alone = torch.allclose(whole, one_by_one, atol=1e-4)
        claim(alone, f"{name}: in evaluation an image's logits depend on the others of its batch")
        other_layout = net(images.contiguous(memory_format=torch.channels_last))
        claim(torch.allclose(whole, other_layout, atol=1e-4), f"{name}: images in channels_last get other logits")
        claim(not torch.equal(whole[0], whole[1]), f"{name}: two different images get the same logits")
        copied = copy.deepcopy(net)
        for value in (*copied.parameters(), *copied.buffers()):
            value.zero_()
        copied.load_state_dict(load(save(plain_weights(net))))
        claim(torch.allclose(copied(images), whole, atol=1e-6), f"{name}: its state_dict() does not hold all of it")
