"""The optimizer of a trial, and its learning rate at each step."""

from __future__ import annotations

import torch

from raysearch.methods.schedule.phases import Phase
from raysearch.models.network import Network
from raysearch.training_settings import TrainingSettings

BETAS = (0.9, 0.98)  # of the text models of all three papers


def make_optimizer(network: Network, training: TrainingSettings) -> torch.optim.Optimizer:
    """Returns an AdamW with three groups: the body's matrices, the body's biases and norms without decay, the heads."""
    body = network.body_parameters()
    groups = [
        {"params": [p for p in body if p.ndim > 1], "weight_decay": training.weight_decay},
        {"params": [p for p in body if p.ndim <= 1], "weight_decay": 0.0},
        {"params": network.head_parameters(), "weight_decay": training.head_weight_decay},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=BETAS, eps=1e-6, fused=True)


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
        torch.nn.utils.clip_grad_norm_(network.parameters(), training.clip)
    factor = scale * rate_factor(at, phase, training.warmup)
    for group, rate in zip(optimizer.param_groups, (phase.lr, phase.lr, phase.head_lr), strict=True):
        group["lr"] = rate * factor
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
