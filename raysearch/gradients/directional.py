"""Directional derivatives of the tasks' losses, from forwards alone: no task's gradient is computed.

    <g_k, v> = d/de L_k(theta + e v) at e = 0

`jvp` differentiates the forward along v (forward mode: Wengert 1964; Baydin et al. 2018,
https://arxiv.org/abs/1502.05767) and is exact. `finite_differences` divides a difference of losses by e, as DARTS does
(Liu et al. 2019, https://arxiv.org/abs/1806.09055), and costs one more forward. Neither gives norms. Both work for any
number of tasks that share examples, where the layers' factors cannot separate the tasks.
A backward treats an embedding's padding row as constant; here it moves along v, so v must be 0 there.

    theta, v (D,)   the parameters and the direction
    losses          runs a forward on the same batch at every call and returns each task's loss
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.autograd.forward_ad as forward
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

TaskLosses = Callable[[], dict[int, Tensor]]
RELATIVE_STEP = 0.1  # |e v| / (|theta| sqrt(eps)), with eps the rounding error of the parameters' type


def jvp(losses: TaskLosses, root: nn.Module, parameters: Sequence[nn.Parameter], v: Tensor) -> dict[int, Tensor]:
    """Returns <g_k, v> of every task, by forward-mode differentiation of one forward.

    Attention is computed in its plain form, the only one with a forward-mode derivative. Raises ValueError where
    another operation has none.
    """
    quiet = warnings.catch_warnings(action="ignore", category=DeprecationWarning)  # torch's own, at the first use
    with quiet, torch.no_grad(), forward.dual_level(), sdpa_kernel(SDPBackend.MATH), _dual(root, parameters, v):
        try:
            duals = losses()
        except (NotImplementedError, RuntimeError) as error:
            if "forward" not in str(error):
                raise
            reason = str(error).splitlines()[0]
            raise ValueError(f"this model has no forward-mode derivative, use engine: auto ({reason})") from error
        tangents = {task: forward.unpack_dual(loss).tangent for task, loss in duals.items()}
        return {task: torch.zeros_like(duals[task]) if t is None else t.clone() for task, t in tangents.items()}


def finite_differences(
    losses: TaskLosses, losses_at_theta: dict[int, Tensor], parameters: Sequence[nn.Parameter], v: Tensor
) -> dict[int, Tensor]:
    """Returns (L_k(theta + e v) - L_k(theta)) / e of every task, with |e v| = 0.1 sqrt(eps) |theta|."""
    length, theta = v.norm(), torch.stack([p.detach().norm() for p in parameters]).norm()
    if not length:
        return {task: torch.zeros_like(loss) for task, loss in losses_at_theta.items()}
    e = float(RELATIVE_STEP * torch.finfo(v.dtype).eps ** 0.5 * theta / length)
    with torch.no_grad(), _shifted(parameters, v, e):
        shifted_losses = losses()
    return {task: (shifted_losses[task].double() - loss.double()) / e for task, loss in losses_at_theta.items()}


def check_directional_derivatives(
    total: Tensor, expected: Tensor, scale: Tensor, tolerance: float, engine: str
) -> None:
    """Raises ValueError unless the sum of the tasks' products equals that of a backward which is computed anyway.

    The two may differ by `tolerance` times `scale`, the product of the two vectors' norms.
    """
    error = (total - expected).abs()
    if not error <= tolerance * scale:
        raise ValueError(
            f"engine {engine!r}: products with the dev gradient add up to {float(total):.3e}, and those of a backward "
            f"to {float(expected):.3e}; use engine: auto"
        )


@contextmanager
def _dual(root: nn.Module, parameters: Sequence[nn.Parameter], v: Tensor) -> Iterator[None]:
    """Replaces the parameters of `root`'s modules by dual tensors with tangent v."""
    tangents = v.split([p.numel() for p in parameters])
    duals = {id(p): forward.make_dual(p.detach(), t.view_as(p)) for p, t in zip(parameters, tangents, strict=True)}
    places = [
        (module._parameters, name, parameter)
        for module in root.modules()
        for name, parameter in module._parameters.items()
        if id(parameter) in duals
    ]
    for holder, name, parameter in places:
        holder[name] = duals[id(parameter)]
    try:
        yield
    finally:
        for holder, name, parameter in places:
            holder[name] = parameter


@contextmanager
def _shifted(parameters: Sequence[nn.Parameter], v: Tensor, e: float) -> Iterator[None]:
    """Sets the parameters to theta + e v temporarily.

    The autocast cache is cleared on entry and exit, because it holds casts of the old values.
    """
    originals = [p.detach().clone() for p in parameters]
    for parameter, direction in zip(parameters, v.split([p.numel() for p in parameters]), strict=True):
        parameter.add_(direction.view_as(parameter), alpha=e)
    torch.clear_autocast_cache()
    try:
        yield
    finally:
        for parameter, original in zip(parameters, originals, strict=True):
            parameter.copy_(original)
        torch.clear_autocast_cache()
