"""Gradients as flat vectors (D,), by a plain backward."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

Parameters = Sequence[nn.Parameter]


def flat_gradient(loss: Tensor, parameters: Parameters, *, keep_graph: bool = False) -> Tensor:
    """The gradient of `loss` in `parameters`, (D,); zeros where it does not depend on one."""
    if not loss.requires_grad:
        return torch.zeros(sum(p.numel() for p in parameters), device=parameters[0].device)
    parts = torch.autograd.grad(loss, list(parameters), retain_graph=keep_graph, allow_unused=True)
    return torch.cat(
        [torch.zeros_like(p).flatten() if g is None else g.flatten() for p, g in zip(parameters, parts, strict=True)]
    )


def assign_gradient(gradient: Tensor, parameters: Parameters) -> None:
    """Set `.grad` of `parameters` from a flat gradient (D,)."""
    start = 0
    for parameter in parameters:
        parameter.grad = gradient[start : start + parameter.numel()].view_as(parameter)
        start += parameter.numel()
