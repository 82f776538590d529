"""SURGERIES: every surgery with its settings, its paper and its constraints. Imports no torch."""

from __future__ import annotations

from functools import partial

from raysearch.methods.method import (
    Method,
    excludes_values,
    keeps_objectives,
    requires_joint_phase,
    requires_settings,
    requires_value,
)
from raysearch.methods.surgery import settings
from raysearch.schema.fields import NoSettings

_ATTITTUD = "Dery, Dauphin & Grangier 2021, https://arxiv.org/abs/2108.11346"
_GCS = "Du et al. 2018, https://arxiv.org/abs/1812.02224"
_PCGRAD = "Yu et al. 2020, https://arxiv.org/abs/2001.06782"
_MGDA = "Desideri 2012; Sener & Koltun 2018, https://arxiv.org/abs/1810.04650"
_CAGRAD = "Liu et al. 2021, https://arxiv.org/abs/2110.14048"
_ALIGNED_MTL = "Senushkin et al. 2023, https://arxiv.org/abs/2305.19000"
_IMTL_G = "Liu et al. 2021; for any rows, Quinton & Rey 2024, https://arxiv.org/abs/2406.16232"
_UPGRAD = "Quinton & Rey 2024, https://arxiv.org/abs/2406.16232"
_DUALPROJ = "Lopez-Paz & Ranzato 2017, https://arxiv.org/abs/1706.08840"
_CONFIG = "Liu, Chu & Thuerey 2024, https://arxiv.org/abs/2408.11104"
_FAIRGRAD = "Ban & Ji 2024, https://arxiv.org/abs/2402.15638"
_NASH_MTL = "Navon et al. 2022, https://arxiv.org/abs/2202.01017"
_GRADVAC = "Wang et al. 2020, https://arxiv.org/abs/2010.05874"
_PCD = "Varam & AlHajri 2026, https://arxiv.org/abs/2606.29521"
_QP = ("qpsolvers", "quadprog")

_surgery = partial(Method, family="surgery")

_COMPARES = (
    requires_value("task_clip", 0.0, "compares gradients that are not clipped"),
    excludes_values("engine", ("jvp", "difference"), "needs each task's gradient"),
)


SURGERIES: tuple[Method, ...] = (
    _surgery("none", "surgery.base:no_surgery", NoSettings, "the auxiliary gradient, unchanged", "baseline"),
    _surgery(
        "attittud",
        "surgery.attittud:Attittud",
        settings.AttittudSettings,
        "the parts of the auxiliary gradient are weighted by their effect on the end task",
        _ATTITTUD,
        constraints=(requires_settings(settings.why_no_subspace),),
        why_too_few_examples=settings.why_too_few_examples,
    ),
    _surgery(
        "gcs",
        "surgery.cosine_gating:GCS",
        settings.GCSSettings,
        "each auxiliary gradient weighted by its cosine with that of the end task",
        _GCS,
        constraints=_COMPARES,
    ),
    _surgery(
        "pcgrad",
        "surgery.torchjd_adapter:PCGRAD",
        settings.ConflictSettings,
        "from each gradient, the part that opposes another is removed",
        _PCGRAD,
        constraints=_COMPARES,
    ),
    _surgery(
        "mgda",
        "surgery.torchjd_adapter:MGDA",
        settings.ConflictSettings,
        "the shortest convex combination of the gradients",
        _MGDA,
        constraints=_COMPARES,
    ),
    _surgery(
        "cagrad",
        "surgery.torchjd_adapter:CAGRAD",
        settings.CAGradSettings,
        "the direction near the mean gradient whose smallest gain is largest",
        _CAGRAD,
        packages=("cvxpy", "clarabel"),
        constraints=_COMPARES,
    ),
    _surgery(
        "aligned_mtl",
        "surgery.torchjd_adapter:ALIGNED_MTL",
        settings.AlignedMTLSettings,
        "the principal components of the gradients, scaled to one length",
        _ALIGNED_MTL,
        constraints=_COMPARES,
    ),
    _surgery(
        "imtl_g",
        "surgery.torchjd_adapter:IMTL_G",
        settings.ConflictSettings,
        "equal projections on every gradient",
        _IMTL_G,
        constraints=_COMPARES,
    ),
    _surgery(
        "upgrad",
        "surgery.torchjd_adapter:UPGRAD",
        settings.ConflictSettings,
        "the mean of the gradients, each projected so that it opposes none",
        _UPGRAD,
        packages=_QP,
        constraints=_COMPARES,
    ),
    _surgery(
        "dualproj",
        "surgery.torchjd_adapter:DUALPROJ",
        settings.ConflictSettings,
        "the mean gradient, projected so that it opposes none",
        _DUALPROJ,
        packages=_QP,
        constraints=_COMPARES,
    ),
    _surgery(
        "config",
        "surgery.torchjd_adapter:CONFIG",
        settings.ConflictSettings,
        "equal cosines with every gradient",
        _CONFIG,
        constraints=_COMPARES,
    ),
    _surgery(
        "fairgrad",
        "surgery.torchjd_adapter:FAIRGRAD",
        settings.FairGradSettings,
        "alpha-fair gains",
        _FAIRGRAD,
        packages=("scipy",),
        constraints=_COMPARES,
    ),
    _surgery(
        "nash_mtl",
        "surgery.torchjd_adapter:NashMTL",
        settings.NashMTLSettings,
        "the Nash bargaining solution of the gains",
        _NASH_MTL,
        packages=("cvxpy", "ecos"),
        remembers_gradients=True,
        constraints=(*_COMPARES, keeps_objectives),
    ),
    _surgery(
        "gradvac",
        "surgery.torchjd_adapter:GRADVAC",
        settings.GradVacSettings,
        "gradients aligned to the moving average of their cosines",
        _GRADVAC,
        remembers_gradients=True,
        constraints=(*_COMPARES, keeps_objectives),
    ),
    _surgery(
        "pcd",
        "surgery.torchjd_adapter:PCD",
        settings.PCDSettings,
        "the direction of the end task, with a share of progress for each auxiliary",
        _PCD,
        remembers_gradients=True,
        constraints=(
            requires_joint_phase("keeps the end task's gradient: {other} would not train the body"),
            *_COMPARES,
            keeps_objectives,
        ),
    ),
)
