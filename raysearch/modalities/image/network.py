"""The image networks: a body that gives each image one vector, and the heads on it.

The body is one of `backbones`, or any Hugging Face image classifier or timm model whose last linear layer is the
classifier: that layer becomes the end task's head, and what lies before it the body. A probe makes sure that the two,
put together, are the whole model.

    pixels     (b, C, H, W) normalised
    hidden     (b, 1, F) the vector that the classifier reads
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import AutoModelForImageClassification

from raysearch.modalities.image.backbones import Decoder, build_backbone
from raysearch.modalities.image.taxonomy import TAXONOMY
from raysearch.models.adapters import add_adapters, merge_adapters
from raysearch.models.frozen_layers import EVERYTHING, FrozenLayers, trained_layers
from raysearch.models.heads import BorrowedHead, LabelHead, PooledHead
from raysearch.models.huggingface import build_or_load
from raysearch.models.network import Network
from raysearch.objectives.primitive import BORROWED
from raysearch.plan import TrialPlan
from raysearch.training_settings import TrainingSettings


class _OutOfPlace(TorchFunctionMode):
    """A mode in which `x += y` makes a new tensor: per-example gradients need the layers' outputs unchanged.

    A model that relies on the addition happening in place fails the probe.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        is_float = bool(args) and isinstance(args[0], Tensor) and args[0].is_floating_point()
        replacement = _REPLACEMENTS.get(func) if is_float else None
        return (replacement or func)(*args, **(kwargs or {}))


_REPLACEMENTS: dict[Any, Any] = {Tensor.add_: torch.add, Tensor.mul_: torch.mul}


class FeatureExtractor(nn.Module):
    """A classifier whose last layer is an identity, so that its output is the features (b, F)."""

    def __init__(self, whole: nn.Module) -> None:
        super().__init__()
        self.whole = whole

    def forward(self, pixels: Tensor) -> Tensor:
        """Returns the features (b, F)."""
        with _OutOfPlace():
            return logits_of(self.whole(pixels))


def logits_of(output: Any) -> Tensor:
    """Returns the logits of a model's output, which is a tensor or a Hugging Face output."""
    logits: Tensor = output if isinstance(output, Tensor) else output.logits
    return logits


class ImageNetwork(Network):
    """A body for images and its heads."""

    end_task: PooledHead

    def __init__(self, plan: TrialPlan, metadata: Mapping[str, Any]) -> None:
        super().__init__()
        shape, classes = tuple(metadata["shape"]), len(metadata["labels"])
        self.body, linear, self.place = split_classifier(plan.model, classes, shape, plan.training.dropout)
        self.end_task = PooledHead(linear)
        self.features = linear.in_features
        self._train_a_part(plan.training, shape)
        self.heads = nn.ModuleList()
        for objective in plan.objectives:
            output = TAXONOMY.find("output", objective.output)
            assert output is not None
            if output.head == "pixels":
                self.heads.append(Decoder(self.width, shape))
            elif output.head == BORROWED:
                self.heads.append(BorrowedHead(self))
            elif output.head == "labels":
                self.heads.append(LabelHead(self.width, classes, nn.ReLU, plan.training.dropout))
            else:
                numbers = len(metadata["auxiliary_labels"]) if output.head == "auxiliary_labels" else int(output.head)
                self.heads.append(nn.Linear(self.width, numbers))

    @property
    def width(self) -> int:
        """F, the size of an image's vector."""
        return self.features

    def _train_a_part(self, training: TrainingSettings, shape: tuple[int, ...]) -> None:
        """Freezes the lower layers of the body, and adds adapters, as the settings say."""
        if training.trained_layers != EVERYTHING:
            self.body.eval()
            with torch.no_grad():
                self.frozen = FrozenLayers(
                    self.body, training.trained_layers, lambda: self.body(torch.zeros(1, *shape))
                )
            self.train()
        if training.lora_rank and training.trained_layers:
            add_adapters(self.body, trained_layers(self.body, self.frozen), training.lora_rank)

    def hidden(self, pixels: Tensor) -> Tensor:
        """Returns the images' vectors (b, 1, F)."""
        features: Tensor = self.body(pixels)
        return features[:, None]

    def merged(self) -> nn.Module:
        """Returns a copy of body and end-task head as one model, from pixels to logits or a Hugging Face output."""
        body = copy.deepcopy(self.body)
        merge_adapters(body)
        return merge_classifier(body, copy.deepcopy(self.end_task.linear), self.place).eval()


def split_classifier(
    model: Mapping[str, Any], classes: int, shape: tuple[int, ...], dropout: float
) -> tuple[nn.Module, nn.Linear, str]:
    """Returns the declared model as body, classifier, and the classifier's name within it ("" if they are separate)."""
    if model.get("image"):
        body = build_backbone(model, shape, dropout)
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
    """Returns body and classifier, as `split_classifier` returns them, as one model."""
    if isinstance(body, FeatureExtractor):
        body.whole.set_submodule(place, linear)
        return body.whole
    return nn.Sequential(body, linear)


def _split_at_last_linear(whole: nn.Module, classes: int, shape: tuple[int, ...]) -> tuple[nn.Module, nn.Linear, str]:
    """Splits a classifier before its last linear layer. Raises ValueError if the two parts do not give its logits."""
    probe = torch.linspace(-1, 1, 2 * math.prod(shape)).view(2, *shape)
    whole.eval()
    try:
        with torch.no_grad():
            expected = logits_of(whole(probe))
    except (RuntimeError, ValueError) as error:
        message = " ".join(str(error).split())[:200]
        size = " x ".join(map(str, shape))
        expected_size = getattr(getattr(whole, "config", None), "image_size", None)
        scaled = f"; it is made for {expected_size}: task: {{size: {expected_size}}} scales them"
        remedy = scaled if expected_size not in (None, shape[1]) else ""
        raise ValueError(f"{type(whole).__name__} cannot read images of {size}: {message}{remedy}") from error
    for place, linear in _last_layers(whole, classes):
        whole.set_submodule(place, nn.Identity())
        body = FeatureExtractor(whole)
        with torch.no_grad():
            features = body(probe)
            same = features.ndim == 2 and features.shape[1] == linear.in_features
            if same and torch.allclose(linear(features), expected, atol=1e-4, rtol=1e-3):
                return body.train(), linear, place
        whole.set_submodule(place, linear)
    raise ValueError(
        f"{type(whole).__name__} cannot be used: it does not end with a linear layer that can be split off"
    )


def _last_layers(whole: nn.Module, classes: int) -> Iterator[tuple[str, nn.Linear]]:
    """Yields the linear layers with as many outputs as classes, the last one first."""
    named = [(name, module) for name, module in whole.named_modules() if isinstance(module, nn.Linear)]
    return ((name, module) for name, module in reversed(named) if module.out_features == classes)


def _hugging_face(model: Mapping[str, Any], classes: int, shape: tuple[int, ...], dropout: float) -> nn.Module:
    defaults = {"num_channels": shape[0], "image_size": shape[1]}
    return build_or_load(
        AutoModelForImageClassification,
        model,
        model.get("path"),
        dropout,
        labels=classes,
        defaults=defaults,
        ignore_mismatched_sizes=True,
    )


def _timm(model: Mapping[str, Any], classes: int, shape: tuple[int, ...], dropout: float) -> nn.Module:
    import timm

    pretrained = bool(model.get("pretrained"))
    made: nn.Module = timm.create_model(
        model["timm"], pretrained=pretrained, num_classes=classes, in_chans=shape[0], drop_rate=dropout
    )
    return made
