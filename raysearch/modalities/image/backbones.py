"""raysearch's own image backbones, which give each image a vector of features, and the decoder back to pixels.

A small convolutional network, one like LeNet (LeCun et al. 1998), and the wide residual network of Zagoruyko &
Komodakis 2016 (https://arxiv.org/abs/1605.07146), pre-activation, with dropout between a block's convolutions.

    pixels     (b, C, H, W) normalised
    features   (b, F)
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

GROUP = 8  # channels that a group norm puts into one group, at most


class SmallCNN(nn.Module):
    """A network of 3 x 3 convolutions, each halving the image, and a mean over the positions: features (b, F)."""

    def __init__(self, channels: int, widths: list[int], norm: str, dropout: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip([channels, *widths], widths, strict=False):
            layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), _norm(norm, after), nn.ReLU()]
            layers += [nn.MaxPool2d(2, ceil_mode=True)]
        self.layers = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)

    def forward(self, pixels: Tensor) -> Tensor:
        """Returns the features (b, F)."""
        features: Tensor = self.dropout(self.layers(pixels).mean(dim=(2, 3)))
        return features


class LeNet(nn.Module):
    """A network of two 5 x 5 convolutions, each halving the image, and a linear layer: features (b, F).

    Unlike LeNet's, the convolutions are padded, so that images may be small.
    """

    def __init__(self, shape: tuple[int, ...], widths: list[int], dropout: float) -> None:
        super().__init__()
        first, second, features = widths
        left = (math.ceil(math.ceil(shape[1] / 2) / 2)) ** 2
        self.layers = nn.Sequential(
            *(nn.Conv2d(shape[0], first, 5, padding=2), nn.MaxPool2d(2, ceil_mode=True), nn.ReLU()),
            *(nn.Conv2d(first, second, 5, padding=2), nn.MaxPool2d(2, ceil_mode=True), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(second * left, features), nn.ReLU(), nn.Dropout(dropout)),
        )

    def forward(self, pixels: Tensor) -> Tensor:
        """Returns the features (b, F)."""
        features: Tensor = self.layers(pixels)
        return features


class WideBlock(nn.Module):
    """A residual block: norm, ReLU, convolution, norm, ReLU, dropout, convolution; 1 x 1 convolution as shortcut."""

    def __init__(self, before: int, after: int, stride: int, norm: str, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = _norm(norm, before), _norm(norm, after)
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(before, after, 1, stride, bias=False) if before != after else None
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Returns (b, after, H / stride, W / stride) of x (b, before, H, W)."""
        active = F.relu(self.norm1(x))
        shortcut = x if self.shortcut is None else self.shortcut(active)
        residual: Tensor = self.conv2(self.dropout(F.relu(self.norm2(self.conv1(active)))))
        return shortcut + residual


class WideResNet(nn.Module):
    """A WRN-depth-widen without classifier: 3 groups of (depth - 4) / 6 blocks, of 16, 32 and 64 x widen channels."""

    def __init__(self, channels: int, depth: int, widen: int, norm: str, dropout: float) -> None:
        super().__init__()
        blocks, before = (depth - 4) // 6, 16
        self.stem = nn.Conv2d(channels, before, 3, padding=1, bias=False)
        layers: list[nn.Module] = []
        for group, width in enumerate((16 * widen, 32 * widen, 64 * widen)):
            for block in range(blocks):
                layers.append(WideBlock(before, width, 2 if group and not block else 1, norm, dropout))
                before = width
        self.blocks = nn.Sequential(*layers)
        self.norm = _norm(norm, before)

    def forward(self, pixels: Tensor) -> Tensor:
        """Returns the features (b, 64 x widen)."""
        features: Tensor = F.relu(self.norm(self.blocks(self.stem(pixels)))).mean(dim=(2, 3))
        return features


class Decoder(nn.Module):
    """A decoder from features (b, F) to pixels (b, C, side, side): a coarse map is doubled and convolved repeatedly."""

    def __init__(self, width: int, shape: tuple[int, int, int], channels: int = 32) -> None:
        super().__init__()
        self.side, doublings = shape[1], max(0, math.ceil(math.log2(shape[1] / 8)))
        self.coarse = math.ceil(shape[1] / 2**doublings)
        self.channels = channels
        self.first = nn.Linear(width, channels * self.coarse**2)
        steps: list[nn.Module] = []
        for _ in range(doublings):
            steps += [nn.Upsample(scale_factor=2), nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU()]
        self.steps = nn.Sequential(*steps, nn.Conv2d(channels, shape[0], 3, padding=1))

    def forward(self, features: Tensor) -> Tensor:
        """Returns normalised pixels."""
        coarse = F.relu(self.first(features)).view(-1, self.channels, self.coarse, self.coarse)
        pixels: Tensor = self.steps(coarse)
        return pixels[:, :, : self.side, : self.side]


def build_backbone(model: Mapping[str, Any], shape: tuple[int, ...], dropout: float) -> nn.Module:
    """Returns the backbone that a search declares by `image:`, its convolutions initialised as He et al. 2015 do."""
    channels = shape[0]
    if model["image"] == "small_cnn":
        body: nn.Module = SmallCNN(channels, list(model["widths"]), model["norm"], dropout)
    elif model["image"] == "lenet":
        body = LeNet(shape, list(model["widths"]), dropout)
    else:
        body = WideResNet(channels, model["depth"], model["widen"], model["norm"], dropout)
    for module in body.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return body


def _norm(name: str, channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels) if name == "batch" else nn.GroupNorm(math.gcd(GROUP, channels), channels)
