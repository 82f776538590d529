"""Schedules: what is trained when, as a row of phases.

The best state on select-dev over all phases is kept; a fine-tuning phase begins from the best so far, so it is taken
over only where it is better (AANG's second stage).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from raysearch.methods.schedule import settings as c
from raysearch.schema.fields import NoSettings
from raysearch.training_settings import TrainingSettings


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A stretch of steps with one optimizer."""

    name: str
    steps: int
    lr: float  # peak, body
    head_lr: float  # peak, heads
    trains_end_task: bool = True  # the end task moves the body
    trains_objectives: bool = True  # the objectives do
    has_constant_lr: bool = False  # no warm-up and decay
    starts_from_best: bool = False  # begin from the best state so far
    starts_from_initial: bool = False  # begin with the parameters that the trial began with


def joint(training: TrainingSettings, settings: NoSettings) -> tuple[Phase, ...]:
    """End task and auxiliaries together."""
    del settings
    return (Phase(name="joint", steps=training.steps, lr=training.lr, head_lr=training.head_lr),)


def joint_then_finetune(training: TrainingSettings, settings: c.FineTuneSettings) -> tuple[Phase, ...]:
    """Together; then the end task alone, from the best state so far, at a small constant rate."""
    rate: dict[str, Any] = {"lr": settings.finetune_lr, "head_lr": settings.finetune_lr}
    last = Phase(
        name="finetune",
        steps=settings.finetune_steps,
        **rate,
        trains_objectives=False,
        has_constant_lr=True,
        starts_from_best=True,
    )
    return (*joint(training, NoSettings()), last)


def joint_then_retrain(training: TrainingSettings, settings: c.RetrainSettings) -> tuple[Phase, ...]:
    """Together; then again from the first parameters, with the weights as they were learned (AANG's `-do-retrain`).

    One trial, and not two of which the second names the first: its plan tells all that it does, it is stopped, resumed
    and compared like any other, and each configuration of a search begins again from its own weights.
    """
    (first,) = joint(training, NoSettings())
    return (first, replace(first, name="retrain", steps=settings.retrain_steps, starts_from_initial=True))


def pretrain_then_finetune(training: TrainingSettings, settings: c.PretrainSettings) -> tuple[Phase, ...]:
    """The auxiliaries alone; then the end task alone (TAPT, DAPT, vanilla pre-training)."""
    first = Phase(
        name="pretrain",
        steps=settings.pretrain_steps,
        lr=settings.pretrain_lr,
        head_lr=training.head_lr,
        trains_end_task=False,
    )
    then = Phase(
        name="finetune", steps=training.steps, lr=training.lr, head_lr=training.head_lr, trains_objectives=False
    )
    return (first, then)
