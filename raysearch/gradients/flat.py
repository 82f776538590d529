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
    flat = torch.zeros(sum(p.numel() for p in parameters), dtype=parameters[0].dtype, device=parameters[0].device)
    start = 0
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None:
            flat[start : start + parameter.numel()] = gradient.flatten()
        start += parameter.numel()
    return flat


def assign_gradient(gradient: Tensor, parameters: Parameters) -> None:
    """Sets `.grad` of `parameters` from a flat gradient (D,)."""
    parts = gradient.split([parameter.numel() for parameter in parameters])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.grad = part.view(parameter.shape)
