"""Gradients as flat vectors (D,), by plain autograd."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

Parameters = Sequence[nn.Parameter]


def flat_gradient(loss: Tensor, parameters: Parameters, *, keep_graph: bool = False) -> Tensor:
    """Returns the gradient of `loss` in `parameters`, (D,), with zeros for parameters that it does not depend on."""
    if not loss.requires_grad:
        return torch.zeros(sum(p.numel() for p in parameters), device=parameters[0].device)
    gradients = torch.autograd.grad(loss, list(parameters), retain_graph=keep_graph, allow_unused=True)
    return torch.cat(
        [
            torch.zeros_like(parameter).flatten() if gradient is None else gradient.flatten()
            for parameter, gradient in zip(parameters, gradients, strict=True)
        ]
    )


def assign_gradient(gradient: Tensor, parameters: Parameters) -> None:
    """Sets `.grad` of `parameters` from a flat gradient (D,)."""
    start = 0
    for parameter in parameters:
        parameter.grad = gradient[start : start + parameter.numel()].view_as(parameter)
        start += parameter.numel()
