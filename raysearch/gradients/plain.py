"""Gradients as flat vectors, and the plain reference ways to get them.

D    parameters of the body, in `Network.body_parameters` order
m    end-task examples;   J (m, D) one gradient a row
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

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


def assign(gradient: Tensor, parameters: Parameters) -> None:
    """Set `.grad` of `parameters` from a flat gradient (D,)."""
    start = 0
    for parameter in parameters:
        parameter.grad = gradient[start : start + parameter.numel()].view_as(parameter)
        start += parameter.numel()


def per_example_gradients(loss_of: Callable[[int], Tensor], examples: int, parameters: Parameters) -> Tensor:
    """J (m, D): the gradient of each example's own loss, by one backward each (the slow reference)."""
    return torch.stack([flat_gradient(loss_of(i), parameters) for i in range(examples)])


def cosine(g: Tensor, v: Tensor) -> Tensor:
    """The cosine of two flat gradients; 0 when either is 0."""
    norms = g.norm() * v.norm()
    return torch.where(norms > 0, (g @ v) / norms.clamp_min(torch.finfo(g.dtype).tiny), torch.zeros_like(norms))
