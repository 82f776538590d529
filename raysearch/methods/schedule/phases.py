"""Schedules: a trial's sequence of phases, each of which trains the end task, the objectives, or both.

The result of a trial is the state with the best score on select-dev over all phases. A fine-tuning phase starts from
the best state so far, so its states count only if they are better (AANG's second stage).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from raysearch.methods.schedule.settings import (
    ContrastSettings,
    FineTuneSettings,
    PretrainSettings,
    ProbeSettings,
    RetrainSettings,
)
from raysearch.schema.fields import NoSettings
from raysearch.training_settings import TrainingSettings


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A number of steps with one optimizer and one learning-rate schedule."""

    name: str
    steps: int
    lr: float  # peak, of the body
    head_lr: float  # peak, of the heads
    trains_end_task: bool = True  # whether the end task updates the body
    trains_objectives: bool = True  # whether the objectives do
    has_constant_lr: bool = False  # without warm-up and decay
    starts_from_best: bool = False  # restores the best state so far
    starts_from_initial: bool = False  # restores the initial parameters
    contrasts_labels: bool = False  # its steps are on pairs of labelled examples, by the cosine of their vectors
    fits_head: bool = False  # its one step gives the end task's last layer the solution of a logistic regression


def joint(training: TrainingSettings, settings: NoSettings) -> tuple[Phase, ...]:
    """Returns one phase that trains the end task and the objectives together."""
    del settings
    return (Phase(name="joint", steps=training.steps, lr=training.lr, head_lr=training.head_lr),)


def joint_then_finetune(training: TrainingSettings, settings: FineTuneSettings) -> tuple[Phase, ...]:
    """Returns a joint phase, then one of the end task alone, from the best state, at a small constant rate."""
    rate: dict[str, Any] = {"lr": settings.finetune_lr, "head_lr": settings.finetune_lr}
    finetune = Phase(
        name="finetune",
        steps=settings.finetune_steps,
        **rate,
        trains_objectives=False,
        has_constant_lr=True,
        starts_from_best=True,
    )
    return (*joint(training, NoSettings()), finetune)


def joint_then_retrain(training: TrainingSettings, settings: RetrainSettings) -> tuple[Phase, ...]:
    """Returns a joint phase, then the same from the initial parameters with the learned weights (AANG's `-do-retrain`).

    Both are phases of one trial, not two trials: its plan is complete, it is stopped, resumed and compared like any
    other, and each configuration of a search retrains with its own weights.
    """
    (first,) = joint(training, NoSettings())
    return (first, replace(first, name="retrain", steps=settings.retrain_steps, starts_from_initial=True))


def pretrain_then_finetune(training: TrainingSettings, settings: PretrainSettings) -> tuple[Phase, ...]:
    """Returns a phase of the objectives alone, then one of the end task alone (TAPT, DAPT, pre-training)."""
    pretrain = Phase(
        name="pretrain",
        steps=settings.pretrain_steps,
        lr=settings.pretrain_lr,
        head_lr=training.head_lr,
        trains_end_task=False,
    )
    finetune = Phase(
        name="finetune", steps=training.steps, lr=training.lr, head_lr=training.head_lr, trains_objectives=False
    )
    return (pretrain, finetune)


def probe(training: TrainingSettings, settings: ProbeSettings) -> tuple[Phase, ...]:
    """Returns one phase, which fits the end task's last layer to the fixed encoder (linear probe)."""
    del training, settings
    return (Phase(name="probe", steps=1, lr=0.0, head_lr=0.0, trains_objectives=False, fits_head=True),)


def probe_then_finetune(training: TrainingSettings, settings: ProbeSettings) -> tuple[Phase, ...]:
    """Returns a linear probe, then a joint phase that begins from it (LP-FT, Kumar et al. 2022, section 3.3)."""
    return (*probe(training, settings), *joint(training, NoSettings()))


def contrast_then_probe(training: TrainingSettings, settings: ContrastSettings) -> tuple[Phase, ...]:
    """Returns a phase of contrasted pairs of labelled examples, then a linear probe (SetFit, Tunstall et al. 2022)."""
    contrast = Phase(
        name="contrast",
        steps=settings.contrast_steps,
        lr=settings.contrast_lr,
        head_lr=settings.contrast_lr,
        trains_end_task=False,
        trains_objectives=False,
        contrasts_labels=True,
    )
    return (contrast, *probe(training, settings))
