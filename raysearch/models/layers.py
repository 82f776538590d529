"""The layers of an encoder, from the input to the top."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from transformers import PreTrainedModel


def set_dropout(modules: Iterable[nn.Module], share: float) -> None:
    """Sets the share that every dropout layer in `modules` drops."""
    for layer in (layer for module in modules for layer in module.modules() if isinstance(layer, nn.Dropout)):
        layer.p = share


def layer_list(body: nn.Module, setting: str) -> tuple[nn.Module, str, nn.ModuleList]:
    """Returns a body's layers, the longest list of modules in it, with the module that has them and their name there.

    Raises ValueError, in the name of the setting that asks for them, for a body without such a list.
    """
    lists = [
        (parent, name, child)
        for parent in body.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.ModuleList)
    ]
    if not lists:
        raise ValueError(f"{setting}: {type(body).__name__} has no list of layers; leave it out")
    return max(lists, key=lambda entry: len(entry[2]))


def distances_from_top(body: nn.Module, setting: str) -> dict[int, int]:
    """Returns how many layers lie above each parameter of a body, by the parameter's id.

    It is 0 for the top layer and all that comes after it, and the number of layers for what comes before the first.
    Raises ValueError as `layer_list`.
    """
    layers = layer_list(body, setting)[2]
    of_layers = {id(p): len(layers) - 1 - i for i, layer in enumerate(layers) for p in layer.parameters()}
    distances: dict[int, int] = {}
    outside = len(layers)  # of parameters in no layer, in the order of registration
    for parameter in body.parameters():
        if id(parameter) in of_layers:
            outside = 0
        distances[id(parameter)] = of_layers.get(id(parameter), outside)
    return distances


def reinitialise_top(body: nn.Module, head: nn.Module, count: int) -> None:
    """Draws new parameters for the top `count` layers and the head, as the architecture does, from torch's generator.

    Zhang et al. 2021, section 4, https://arxiv.org/abs/2006.05987, where the head's part is the pooler. Raises
    ValueError for a body that is no Hugging Face model, that has fewer layers, or in which these are frozen.
    """
    model = next((module for module in body.modules() if isinstance(module, PreTrainedModel)), None)
    if model is None:
        raise ValueError(f"reinit_layers: {type(body).__name__} is no Hugging Face model; leave it out")
    layers = list(layer_list(body, "reinit_layers")[2])
    if count > len(layers):
        raise ValueError(f"reinit_layers {count}: the encoder has {len(layers)} layers")
    top = layers[len(layers) - count :]
    if not all(parameter.requires_grad for layer in top for parameter in layer.parameters()):
        raise ValueError(f"reinit_layers {count}: some of these layers are frozen, and would stay random")
    with torch.no_grad():
        for module in (module for part in (*top, head) for module in part.modules()):
            for parameter in module.parameters(recurse=False):
                parameter._is_hf_initialized = False  # type: ignore[attr-defined]  # of loaded ones; init skips them
            model._init_weights(module)
