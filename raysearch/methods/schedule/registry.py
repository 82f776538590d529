"""SCHEDULES: every schedule with its settings, its paper and its constraints. Imports no torch."""

from __future__ import annotations

from functools import partial

from raysearch.methods.method import Method, excludes, excludes_values
from raysearch.methods.schedule import settings
from raysearch.schema.fields import NoSettings

_AANG = "Dery et al. 2023, https://arxiv.org/abs/2205.14082"
_DAPT = "Gururangan et al. 2020, https://arxiv.org/abs/2004.10964"

_SETFIT = "Tunstall et al. 2022, https://arxiv.org/abs/2209.11055"
_LP_FT = "Kumar et al. 2022, https://arxiv.org/abs/2202.10054"

_schedule = partial(Method, family="schedule")

# for a schedule that has no phase in which objectives train
_needs_no_auxiliaries = excludes(
    "weighting",
    lambda weighting: weighting.trains_auxiliaries,
    "trains no auxiliary objectives, and {other} does: use weighting 'end_task_only'",
)

SCHEDULES: tuple[Method, ...] = (
    _schedule("joint", "schedule.phases:joint", NoSettings, "end task and auxiliaries together", "baseline"),
    _schedule(
        "joint_then_finetune",
        "schedule.phases:joint_then_finetune",
        settings.FineTuneSettings,
        "end task and auxiliaries together, then the end task alone",
        _AANG,
    ),
    _schedule(
        "joint_then_retrain",
        "schedule.phases:joint_then_retrain",
        settings.RetrainSettings,
        "together, then again from scratch with the learned weights",
        _AANG,
    ),
    _schedule(
        "pretrain_then_finetune",
        "schedule.phases:pretrain_then_finetune",
        settings.PretrainSettings,
        "auxiliaries first, then the end task alone",
        _DAPT,
        constraints=(
            excludes(
                "weighting",
                lambda weighting: not weighting.trains_auxiliaries,
                "has nothing to pretrain on: {other} has no auxiliaries",
            ),
        ),
        trains_jointly=False,
    ),
    _schedule(
        "probe",
        "schedule.phases:probe",
        settings.ProbeSettings,
        "a logistic regression on the fixed encoder",
        "baseline",
        constraints=(_needs_no_auxiliaries,),
        trains_jointly=False,
        has_main_phase=False,
        takes_steps=False,
    ),
    _schedule(
        "probe_then_finetune",
        "schedule.phases:probe_then_finetune",
        settings.ProbeSettings,
        "a logistic regression on the fixed encoder, then end task and auxiliaries together from there",
        _LP_FT,
    ),
    _schedule(
        "contrast_then_probe",
        "schedule.phases:contrast_then_probe",
        settings.ContrastSettings,
        "the encoder on pairs of labelled examples, then a logistic regression",
        _SETFIT,
        constraints=(
            _needs_no_auxiliaries,
            excludes_values("trained_layers", (0,), "trains the encoder"),
        ),
        trains_jointly=False,
        has_main_phase=False,
        needs_classes=True,
    ),
)
