"""The parameters in which ATTITTUD takes its gradient subspace: all of theta, or blocks of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class ParameterBlocks:
    """Blocks of parameters, each with its own subspace; parameters in no block are left unchanged."""

    sizes: tuple[int, ...]  # of all parameters, in the order of flat gradients
    blocks: tuple[tuple[int, ...], ...]  # numbers of the parameters in each block

    def split(self, flat: Tensor) -> list[Tensor]:
        """Returns each block's part (D_block,) of a flat gradient (D,)."""
        pieces = [[flat[low:high] for low, high in spans] for spans in self._spans()]
        return [block[0] if len(block) == 1 else torch.cat(block) for block in pieces]

    def replace(self, flat: Tensor, parts: Sequence[Tensor]) -> Tensor:
        """Returns a copy of the flat gradient with the blocks' parts replaced by `parts`."""
        replaced = flat.clone()
        for spans, part in zip(self._spans(), parts, strict=True):
            for (low, high), piece in zip(spans, part.split([high - low for low, high in spans]), strict=True):
                replaced[low:high] = piece
        return replaced

    def _spans(self) -> list[list[tuple[int, int]]]:
        """Returns where each block's parameters lie in a flat gradient; adjacent spans are joined."""
        ends = [0, *accumulate(self.sizes)]
        block_spans: list[list[tuple[int, int]]] = []
        for block in self.blocks:
            spans: list[tuple[int, int]] = []
            for number in block:
                is_adjacent = spans and spans[-1][1] == ends[number]
                low = spans.pop()[0] if is_adjacent else ends[number]
                spans.append((low, ends[number + 1]))
            block_spans.append(spans)
        return block_spans


def select_parameter_blocks(
    scope: str, body: nn.Module, parameters: Sequence[nn.Parameter], heads: Sequence[nn.Parameter], last_layers: int
) -> ParameterBlocks:
    """Returns the blocks of a `scope`: body, last (layers), per_layer or all, of a body's `parameters` and its `heads`.

    Raises ValueError where the scope is "last" and the body has no list of layers, or fewer than `last_layers`.
    """
    sizes = tuple(parameter.numel() for parameter in (*parameters, *heads))
    if scope in ("body", "all"):
        count = len(parameters) if scope == "body" else len(sizes)
        return ParameterBlocks(sizes, (tuple(range(count)),))
    if scope == "per_layer":
        return ParameterBlocks(sizes, _blocks_per_layer(body, parameters))
    layers = max((m for m in body.modules() if isinstance(m, nn.ModuleList)), key=len, default=None)
    if layers is None or len(layers) < last_layers:
        available = "no list of layers" if layers is None else f"{len(layers)} layers"
        raise ValueError(f"scope 'last' needs the last {last_layers} layers; the encoder has {available}")
    last = {id(p) for layer in list(layers)[-last_layers:] for p in layer.parameters()}
    return ParameterBlocks(sizes, (tuple(i for i, p in enumerate(parameters) if id(p) in last),))


def _blocks_per_layer(body: nn.Module, parameters: Sequence[nn.Parameter]) -> tuple[tuple[int, ...], ...]:
    """Returns a block for each module that owns parameters; a shared one belongs to the first module that has it."""
    number_of = {id(parameter): i for i, parameter in enumerate(parameters)}
    blocks = []
    for module in body.modules():
        numbers = (number_of.pop(id(p), None) for p in module.parameters(recurse=False))
        if block := tuple(i for i in numbers if i is not None):
            blocks.append(block)
    return tuple(blocks)
