"""Networks for small images. They take float images in [0, 1] ``(n, c, h, w)`` and give logits ``(n, k)``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.models import ResNet
from torchvision.models.resnet import BasicBlock

from wmlightning.config import setting


class Normalized(nn.Module):
    """A network that normalises its input itself, so that everybody outside speaks of images in [0, 1].

    Args:
        net: takes normalised images.
        mean: per-channel mean of images in [0, 1].
        std: per-channel standard deviation.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, net: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("scale", 1 / torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Images in [0, 1] to logits."""
        logits: Tensor = self.net((images - self.mean) * self.scale)
        return logits


def _conv(n_in: int, n_out: int, pool: bool = False) -> nn.Sequential:
    """Convolution, normalisation, rectifier; pooled first where it is to be pooled, since that leaves less to do."""
    pooling = [nn.MaxPool2d(2)] if pool else []
    conv = nn.Conv2d(n_in, n_out, 3, padding=1, bias=False)
    return nn.Sequential(conv, *pooling, nn.BatchNorm2d(n_out), nn.ReLU(inplace=True))


class _FlattenPixels(nn.Module):
    """Flattens pixel by pixel: free for images in channels_last, where the usual order would copy them."""

    def forward(self, x: Tensor) -> Tensor:
        """``(n, c, h, w)`` to ``(n, h * w * c)``."""
        return x.permute(0, 2, 3, 1).flatten(1)


class SmallCNN(nn.Sequential):
    """Two convolutions and two dense layers: the kind of network used on MNIST in 2018.

    Args:
        channels: of the image.
        size: height and width of the image; at least 10.
        n_classes: number of logits.
        width: channels of the first convolution.
        hidden: units of the dense layer.
    """

    def __init__(self, channels: int, size: int, n_classes: int, width: int = 32, hidden: int = 128) -> None:
        left = ((size - 2) // 2 - 2) // 2
        if left < 1:
            raise ValueError(f"images of {size}x{size} are too small: at least 10x10")
        setting(width, "model.width", int, 1)
        setting(hidden, "model.hidden", int, 1)
        super().__init__(
            nn.Conv2d(channels, width, 3),
            nn.MaxPool2d(2),  # pooling before the rectifier gives the same and rectifies a quarter of the pixels
            nn.ReLU(inplace=True),
            nn.Conv2d(width, 2 * width, 3),
            nn.MaxPool2d(2),
            nn.ReLU(inplace=True),
            _FlattenPixels(),
            nn.Linear(2 * width * left * left, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(0.25),
            nn.Linear(hidden, n_classes),
        )


class VGGStyleCNN(nn.Sequential):
    """Six convolutions in three pooled stages and a dense layer: the kind of network used on CIFAR-10 in 2018.

    Args:
        channels: of the image.
        size: height and width of the image; at least 8.
        n_classes: number of logits.
        width: channels of the first stage; doubled in each of the next two.
    """

    def __init__(self, channels: int, size: int, n_classes: int, width: int = 32) -> None:
        if size < 8:
            raise ValueError(f"images of {size}x{size} are too small: at least 8x8")
        setting(width, "model.width", int, 1)
        stages: list[nn.Module] = []
        n_in = channels
        for n_out in (width, 2 * width, 4 * width):
            stages += [_conv(n_in, n_out), _conv(n_out, n_out, pool=True)]
            n_in = n_out
        features = n_in * (size // 8) ** 2
        super().__init__(*stages, _FlattenPixels(), nn.Dropout(0.3), nn.Linear(features, n_classes))


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_conv(width, width), _conv(width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Adds what two convolutions make of ``x``."""
        out: Tensor = x + self.body(x)
        return out


class _Brightest(nn.Module):
    """The largest value of each channel: ``nn.AdaptiveMaxPool2d(1)``, which has no reproducible gradient on GPUs."""

    def forward(self, x: Tensor) -> Tensor:
        """``(n, c, h, w)`` to ``(n, c)``."""
        return x.flatten(2).max(2).values


class _Scaled(nn.Module):
    """Multiplies: small first logits let a large learning rate be used from the start."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """``x`` times the factor."""
        return x * self.factor


class ResNet9(nn.Sequential):
    """A nine-layer residual network for 32x32 images, narrow enough to train in minutes on two cores.

    Args:
        channels: of the image.
        n_classes: number of logits.
        width: channels of the first stage; the others have 2, 4 and 8 times as many.
    """

    def __init__(self, channels: int, n_classes: int, width: int = 16) -> None:
        setting(width, "model.width", int, 1)
        super().__init__(
            _conv(channels, width),
            _conv(width, 2 * width, pool=True),
            _Residual(2 * width),
            _conv(2 * width, 4 * width, pool=True),
            _conv(4 * width, 8 * width, pool=True),
            _Residual(8 * width),
            _Brightest(),
            nn.Flatten(),
            nn.Linear(8 * width, n_classes),
            _Scaled(0.125),
        )


class CifarResNet18(ResNet):  # type: ignore[misc]  # torchvision is untyped
    """torchvision's ResNet-18 with the stem for small images: a 3x3 convolution, no pooling.

    Args:
        channels: of the image.
        n_classes: number of logits.
    """

    def __init__(self, channels: int, n_classes: int) -> None:
        super().__init__(BasicBlock, [2, 2, 2, 2], num_classes=n_classes)
        self.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
        self.maxpool = nn.Identity()
