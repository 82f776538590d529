"""Which parameters a subspace is taken in: ATTITTUD's theta, whole or in blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class ParameterBlocks:
    """Blocks of parameters, each with a subspace of its own; what is in no block is left alone."""

    sizes: tuple[int, ...]  # of all parameters, in the order of flat gradients
    blocks: tuple[tuple[int, ...], ...]  # parameters' numbers

    def split(self, flat: Tensor) -> list[Tensor]:
        """Each block's part (D_block,) of a flat gradient (D,)."""
        parts = [[flat[low:high] for low, high in spans] for spans in self._spans()]
        return [own[0] if len(own) == 1 else torch.cat(own) for own in parts]

    def replace(self, flat: Tensor, parts: Sequence[Tensor]) -> Tensor:
        """The flat gradient with its blocks' parts replaced."""
        whole = flat.clone()
        for spans, part in zip(self._spans(), parts, strict=True):
            for (low, high), own in zip(spans, part.split([high - low for low, high in spans]), strict=True):
                whole[low:high] = own
        return whole

    def _spans(self) -> list[list[tuple[int, int]]]:
        """Where each block's parameters lie in a flat gradient, neighbours together."""
        ends = [0, *accumulate(self.sizes)]
        found: list[list[tuple[int, int]]] = []
        for block in self.blocks:
            spans: list[tuple[int, int]] = []
            for number in block:
                follows = spans and spans[-1][1] == ends[number]
                low = spans.pop()[0] if follows else ends[number]
                spans.append((low, ends[number + 1]))
            found.append(spans)
        return found


def select_parameter_blocks(
    kind: str, body: nn.Module, parameters: Sequence[nn.Parameter], heads: Sequence[nn.Parameter], last_layers: int
) -> ParameterBlocks:
    """The blocks among a body's `parameters` and its `heads`: body, last (layers), per_layer or all.

    Raises ValueError where the body has no list of layers, or fewer than are asked for.
    """
    sizes = tuple(parameter.numel() for parameter in (*parameters, *heads))
    if kind in ("body", "all"):
        return ParameterBlocks(sizes, (tuple(range(len(parameters) if kind == "body" else len(sizes))),))
    number = {id(parameter): i for i, parameter in enumerate(parameters)}
    if kind == "per_layer":
        blocks: list[tuple[int, ...]] = []
        for module in body.modules():
            own = (number.pop(id(p), None) for p in module.parameters(recurse=False))
            if block := tuple(i for i in own if i is not None):
                blocks.append(block)
        return ParameterBlocks(sizes, tuple(blocks))
    layers = max((m for m in body.modules() if isinstance(m, nn.ModuleList)), key=len, default=None)
    if layers is None or len(layers) < last_layers:
        have = "no list of layers" if layers is None else f"{len(layers)} layers"
        raise ValueError(f"scope 'last' asks for the last {last_layers} layers; the encoder has {have}")
    last = {id(p) for layer in list(layers)[-last_layers:] for p in layer.parameters()}
    return ParameterBlocks(sizes, (tuple(i for i, p in enumerate(parameters) if id(p) in last),))
