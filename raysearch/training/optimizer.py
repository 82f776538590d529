"""The optimizer of a trial, and its learning rate at each step."""

from __future__ import annotations

from typing import Any

import torch

from raysearch.methods.schedule.phases import Phase
from raysearch.models.layers import distances_from_top
from raysearch.models.network import Network
from raysearch.training_settings import TrainingSettings

BETA_1 = 0.9  # of AdamW


def make_optimizer(network: Network, training: TrainingSettings) -> torch.optim.Optimizer:
    """Returns an AdamW of the trained parameters.

    Its groups are the body's matrices, the body's biases and norms without decay, and the heads. With `layer_decay`,
    the first two come once for each distance from the top layer, from 0 on. Raises ValueError for a body that has no
    layers.
    """
    body = network.body_parameters()
    distances = distances_from_top(network.body, "layer_decay") if training.layer_decay < 1 else {}
    groups: list[dict[str, Any]] = []
    for distance in range(max(distances.values(), default=0) + 1):
        part = [p for p in body if distances.get(id(p), 0) == distance]
        groups.append({"params": [p for p in part if p.ndim > 1], "weight_decay": training.weight_decay})
        groups.append({"params": [p for p in part if p.ndim <= 1], "weight_decay": 0.0})
    groups.append({"params": network.head_parameters(), "weight_decay": training.head_weight_decay})
    return torch.optim.AdamW(groups, lr=0.0, betas=(BETA_1, training.adam_beta2), eps=1e-6, fused=True)


def optimizer_step(
    optimizer: torch.optim.Optimizer,
    network: Network,
    training: TrainingSettings,
    phase: Phase,
    at: int,
    scale: float = 1.0,
) -> None:
    """Steps along the gradients of `network`, clipped, with the learning rates of step `at` of the phase.

    `at` counts from 1; the rates are multiplied by `scale`.
    """
    if training.clip:
        sides = [network.parameter_list]
        if training.clip_apart:
            sides = [network.body_parameters(), network.head_parameters()]
        for parameters in sides:
            torch.nn.utils.clip_grad_norm_(parameters, training.clip)
    factor = scale * rate_factor(at, phase, training.warmup)
    *of_body, of_heads = optimizer.param_groups
    for number, group in enumerate(of_body):
        group["lr"] = phase.lr * training.layer_decay ** (number // 2) * factor
    of_heads["lr"] = phase.head_lr * factor
    optimizer.step()


def rate_factor(step: int, phase: Phase, warmup: float) -> float:
    """Returns the share of the peak learning rate at `step` (from 1) of a phase.

    It rises linearly during the share `warmup` of the steps, then falls linearly to reach zero after the last one.
    """
    if phase.has_constant_lr:
        return 1.0
    rising = max(1, round(warmup * phase.steps))
    if step <= rising:
        return step / rising
    return (phase.steps - step + 1) / (phase.steps - rising + 1)
