"""The image networks: a body that gives each image one vector, and the heads on it.

Our own: a small convolutional network, one like LeNet (LeCun et al. 1998), and the wide residual network of Zagoruyko
& Komodakis 2016 (https://arxiv.org/abs/1605.07146), pre-activation, with dropout between a block's convolutions.
Others: any Hugging Face image classifier, or timm model, whose last linear layer is the classifier; it becomes the end
task's head, and what lies before it the body. A probe makes sure that the two, put together, are the whole model.

    pixels     (b, C, H, W) normalised
    hidden     (b, 1, F) the vector that the classifier reads
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from raysearch.models.heads import LabelHead, PooledHead
from raysearch.models.huggingface import set_dropout
from raysearch.models.network import Network
from raysearch.plan import TrialPlan

GROUP = 8  # channels that a group norm puts into one group, at most


class SmallCNN(nn.Module):
    """Convolutions 3 x 3, each halving the image, then the mean over what is left: features (b, F) of pixels."""

    def __init__(self, channels: int, widths: list[int], norm: str, dropout: float) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in zip([channels, *widths], widths, strict=False):
            layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), _norm(norm, after), nn.ReLU()]
            layers += [nn.MaxPool2d(2, ceil_mode=True)]
        self.layers = nn.Sequential(*layers)
        self.dropout = nn.Dropout(dropout)

    def forward(self, pixels: Tensor) -> Tensor:
        """Features (b, F)."""
        features: Tensor = self.dropout(self.layers(pixels).mean(dim=(2, 3)))
        return features


class LeNet(nn.Module):
    """Two convolutions 5 x 5, each halving the image, and a linear layer on all that is left: features (b, F).

    Unlike LeNet's they keep the border, so that images may be small.
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
        """Features (b, F)."""
        features: Tensor = self.layers(pixels)
        return features


class WideBlock(nn.Module):
    """Norm, ReLU, convolution; norm, ReLU, dropout, convolution; added to the input (or its 1 x 1 convolution)."""

    def __init__(self, before: int, after: int, stride: int, norm: str, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = _norm(norm, before), _norm(norm, after)
        self.conv1 = nn.Conv2d(before, after, 3, stride, padding=1, bias=False)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(before, after, 1, stride, bias=False) if before != after else None
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(b, before, H, W) to (b, after, H / stride, W / stride)."""
        active = F.relu(self.norm1(x))
        kept = x if self.shortcut is None else self.shortcut(active)
        new: Tensor = self.conv2(self.dropout(F.relu(self.norm2(self.conv1(active)))))
        return kept + new


class WideResNet(nn.Module):
    """WRN-depth-widen without its classifier: three groups of (depth - 4) / 6 blocks, 16, 32 and 64 x widen wide."""

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
        """Features (b, 64 x widen)."""
        features: Tensor = F.relu(self.norm(self.blocks(self.stem(pixels)))).mean(dim=(2, 3))
        return features


class Decoder(nn.Module):
    """Pixels (b, C, side, side) of features (b, F): a coarse map that is doubled and convolved up to the side."""

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
        """Normalised pixels."""
        coarse = F.relu(self.first(features)).view(-1, self.channels, self.coarse, self.coarse)
        pixels: Tensor = self.steps(coarse)
        return pixels[:, :, : self.side, : self.side]


class _NothingInPlace(TorchFunctionMode):
    """Makes `x += y` a new tensor: gradients are taken layer by layer, of outputs as the layers gave them.

    A model that adds in place without taking the sum at its word is found out by the probe.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        apart = _APART.get(func) if args and isinstance(args[0], Tensor) and args[0].is_floating_point() else None
        return (apart or func)(*args, **(kwargs or {}))


_APART: dict[Any, Any] = {Tensor.add_: torch.add, Tensor.mul_: torch.mul}


class FeaturesOf(nn.Module):
    """A whole classifier with nothing in its last layer's place: what it says are the features (b, F)."""

    def __init__(self, whole: nn.Module) -> None:
        super().__init__()
        self.whole = whole

    def forward(self, pixels: Tensor) -> Tensor:
        """Features."""
        with _NothingInPlace():
            return _logits(self.whole(pixels))


def _logits(said: Any) -> Tensor:
    logits: Tensor = said if isinstance(said, Tensor) else said.logits
    return logits


class ImageNetwork(Network):
    """A body for images and its heads."""

    end_task: PooledHead

    def __init__(self, plan: TrialPlan, about: Mapping[str, Any]) -> None:
        super().__init__()
        shape, classes = tuple(about["shape"]), len(about["labels"])
        self.body, linear, self.place = split_classifier(plan.model, classes, shape, plan.training.dropout)
        self.end_task = PooledHead(linear)
        self.features = linear.in_features
        self.heads = nn.ModuleList()
        sizes = {"end_task": classes, "auxiliary_label": len(about["auxiliary_labels"]), "rotation": 4}
        for objective in plan.objectives:
            if objective.output == "reconstruct":
                self.heads.append(Decoder(self.width, shape))
            elif objective.output == "end_task":
                self.heads.append(LabelHead(self.width, classes, nn.ReLU, plan.training.dropout))
            else:
                self.heads.append(nn.Linear(self.width, sizes[objective.output]))

    @property
    def width(self) -> int:
        """F, the size of an image's vector."""
        return self.features

    def hidden(self, pixels: Tensor) -> Tensor:
        """The images' vectors (b, 1, F)."""
        features: Tensor = self.body(pixels)
        return features[:, None]

    def classifier(self) -> nn.Module:
        """A copy of body and end-task head as one model: pixels in; logits, or a Hugging Face output, out."""
        return merge_classifier(copy.deepcopy(self.body), copy.deepcopy(self.end_task.linear), self.place).eval()


def split_classifier(
    model: Mapping[str, Any], classes: int, shape: tuple[int, ...], dropout: float
) -> tuple[nn.Module, nn.Linear, str]:
    """The declared model as body, classifier, and the classifier's name within it ("" where they are two)."""
    if model.get("image"):
        body = _own(model, shape, dropout)
        with torch.no_grad():
            width = body.eval()(torch.zeros(1, *shape)).shape[1]
        return body.train(), nn.Linear(width, classes), ""
    whole = (
        _timm(model, classes, shape, dropout) if model.get("timm") else _hugging_face(model, classes, shape, dropout)
    )
    for module in whole.modules():
        if getattr(module, "inplace", False):
            module.inplace = False  # type: ignore[assignment]  # gradients are taken layer by layer
    return _split_at_last_linear(whole, classes, shape)


def merge_classifier(body: nn.Module, linear: nn.Linear, place: str) -> nn.Module:
    """Puts body and classifier, as `split_classifier` returns them, together as one model."""
    if isinstance(body, FeaturesOf):
        body.whole.set_submodule(place, linear)
        return body.whole
    return nn.Sequential(body, linear)


def _own(model: Mapping[str, Any], shape: tuple[int, ...], dropout: float) -> nn.Module:
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


def _split_at_last_linear(whole: nn.Module, classes: int, shape: tuple[int, ...]) -> tuple[nn.Module, nn.Linear, str]:
    """Part a whole classifier before its last linear layer; ValueError when that does not give its logits."""
    probe = torch.linspace(-1, 1, 2 * math.prod(shape)).view(2, *shape)
    whole.eval()
    try:
        with torch.no_grad():
            expected = _logits(whole(probe))
    except (RuntimeError, ValueError) as error:
        said = " ".join(str(error).split())[:200]
        raise ValueError(f"{type(whole).__name__} takes no images of {' x '.join(map(str, shape))}: {said}") from error
    for place, linear in _last_layers(whole, classes):
        whole.set_submodule(place, nn.Identity())
        body = FeaturesOf(whole)
        with torch.no_grad():
            features = body(probe)
            same = features.ndim == 2 and features.shape[1] == linear.in_features
            if same and torch.allclose(linear(features), expected, atol=1e-4, rtol=1e-3):
                return body.train(), linear, place
        whole.set_submodule(place, linear)
    raise ValueError(
        f"{type(whole).__name__} cannot be used: its classifier is no last linear layer that can be parted"
    )


def _last_layers(whole: nn.Module, classes: int) -> Iterator[tuple[str, nn.Linear]]:
    named = [(name, module) for name, module in whole.named_modules() if isinstance(module, nn.Linear)]
    return ((name, module) for name, module in reversed(named) if module.out_features == classes)


def _hugging_face(model: Mapping[str, Any], classes: int, shape: tuple[int, ...], dropout: float) -> nn.Module:
    from transformers import AutoConfig, AutoModelForImageClassification
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if model.get("config"):
        fields = {name: value for name, value in model["config"].items() if name != "model_type"}
        fields = {"num_channels": shape[0], "image_size": shape[1], **fields, "num_labels": classes}
        config = AutoConfig.for_model(model["config"]["model_type"], **fields)
        set_dropout(config, dropout)
        built: nn.Module = AutoModelForImageClassification.from_config(config)
        return built
    config = AutoConfig.from_pretrained(model["path"], num_labels=classes)
    if model.get("layers"):
        config.num_hidden_layers = model["layers"]
    set_dropout(config, dropout)
    loaded: nn.Module = AutoModelForImageClassification.from_pretrained(
        model["path"], config=config, dtype=torch.float32, ignore_mismatched_sizes=True
    )
    return loaded


def _timm(model: Mapping[str, Any], classes: int, shape: tuple[int, ...], dropout: float) -> nn.Module:
    import timm

    pretrained = bool(model.get("pretrained"))
    made: nn.Module = timm.create_model(
        model["timm"], pretrained=pretrained, num_classes=classes, in_chans=shape[0], drop_rate=dropout
    )
    return made
