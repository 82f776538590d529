"""Products of every task's gradient with one direction, from forwards alone: no task's gradient is taken.

    <g_k, v> = d/de L_k(theta + e v) at e = 0

`jvp` differentiates the forward along v (Wengert 1964's forward mode; Baydin et al. 2018,
https://arxiv.org/abs/1502.05767) and is exact; `difference` subtracts the losses at theta from those at theta + e v, as
DARTS does (Liu et al. 2019, https://arxiv.org/abs/1806.09055), for the price of one more forward. Neither knows a norm.
Both serve any number of tasks that share rows, where products of layers' factors cannot tell the tasks apart.
A backward takes an embedding's padding line for constant; to these it moves with v, so v has to be 0 there.

    theta, v (D,)   the parameters and the direction
    losses          a forward of all rows: each task's loss, the same at every call but for theta
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.autograd.forward_ad as forward
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

Losses = Callable[[], dict[int, Tensor]]
STEP = 0.1  # length of a difference's step over that of theta, in roots of the arithmetic's rounding error


def jvp(losses: Losses, root: nn.Module, parameters: Sequence[nn.Parameter], v: Tensor) -> dict[int, Tensor]:
    """<g_k, v> of every task, by forward-mode differentiation of one forward.

    Attention is computed in its plain form, the only one that has such a derivative. Raises ValueError where another
    operation has none.
    """
    quiet = warnings.catch_warnings(action="ignore", category=DeprecationWarning)  # torch's own, at the first use
    with quiet, torch.no_grad(), forward.dual_level(), sdpa_kernel(SDPBackend.MATH), _dual(root, parameters, v):
        try:
            said = losses()
        except (NotImplementedError, RuntimeError) as error:
            if "forward" not in str(error):
                raise
            reason = str(error).splitlines()[0]
            raise ValueError(f"this model has no forward-mode derivative, use engine: auto ({reason})") from error
        tangents = {task: forward.unpack_dual(loss).tangent for task, loss in said.items()}
        return {task: torch.zeros_like(said[task]) if t is None else t.clone() for task, t in tangents.items()}


def finite_differences(
    losses: Losses, before: dict[int, Tensor], parameters: Sequence[nn.Parameter], v: Tensor
) -> dict[int, Tensor]:
    """<g_k, v> of every task, from its losses at theta (`before`) and at theta + e v; theta is left as it was."""
    length, theta = v.norm(), torch.stack([p.detach().norm() for p in parameters]).norm()
    if not length:
        return {task: torch.zeros_like(loss) for task, loss in before.items()}
    e = float(STEP * torch.finfo(v.dtype).eps ** 0.5 * theta / length)
    with torch.no_grad(), _moved(parameters, v, e):
        after = losses()
    return {task: (after[task].double() - loss.double()) / e for task, loss in before.items()}


def check_directional_derivatives(
    found: Tensor, expected: Tensor, scale: Tensor, tolerance: float, engine: str
) -> None:
    """Raise ValueError unless products add up to the `expected` one of their sum, of a backward that was made anyway.

    Their difference may be `tolerance` of `scale`, the product of the two lengths.
    """
    off = (found - expected).abs()
    if not off <= tolerance * scale:
        raise ValueError(
            f"engine {engine!r}: products with the dev gradient add up to {float(found):.3e}, and those of a backward "
            f"to {float(expected):.3e}; use engine: auto"
        )


@contextmanager
def _dual(root: nn.Module, parameters: Sequence[nn.Parameter], v: Tensor) -> Iterator[None]:
    """Let every module of `root` that uses one of the parameters see it move along v."""
    parts = v.split([p.numel() for p in parameters])
    moving = {id(p): forward.make_dual(p.detach(), t.view_as(p)) for p, t in zip(parameters, parts, strict=True)}
    places = [
        (own, name, p) for m in root.modules() for own in [m._parameters] for name, p in own.items() if id(p) in moving
    ]
    for own, name, parameter in places:
        own[name] = moving[id(parameter)]
    try:
        yield
    finally:
        for own, name, parameter in places:
            own[name] = parameter


@contextmanager
def _moved(parameters: Sequence[nn.Parameter], v: Tensor, e: float) -> Iterator[None]:
    """Be at theta + e v for a while. What autocast has cast of theta before is forgotten: it would be used again."""
    kept = [p.detach().clone() for p in parameters]
    for parameter, part in zip(parameters, v.split([p.numel() for p in parameters]), strict=True):
        parameter.add_(part.view_as(parameter), alpha=e)
    torch.clear_autocast_cache()
    try:
        yield
    finally:
        for parameter, value in zip(parameters, kept, strict=True):
            parameter.copy_(value)
        torch.clear_autocast_cache()
