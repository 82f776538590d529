"""METHODS: every weighting, surgery and schedule, one line and one paper each.

A named method of the papers is a point weighting x surgery x schedule. This module imports no torch; `load` does.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass, fields
from typing import Any, Literal

from raysearch.methods.schedule import settings as c
from raysearch.methods.surgery import settings as f
from raysearch.methods.weighting import settings as s
from raysearch.schema.fields import NoSettings, Settings

Family = Literal["weighting", "surgery", "schedule"]
FAMILIES: tuple[Family, ...] = ("weighting", "surgery", "schedule")


@dataclass(frozen=True)
class Method:
    """One way to weigh, to cut, or to order: where it lives, what it can be set to, who proposed it."""

    family: Family
    target: str  # module:attribute under raysearch.methods
    settings: type[Settings]
    meaning: str
    paper: str
    needs: tuple[str, ...] = ()  # packages of the extra raysearch[torchjd]
    rounds: bool = False  # a weighting that mixes what branches have learned
    memory: bool = False  # remembers gradients from step to step: wants those of the same objectives at every step
    looks: bool = False  # wants tasks' gradients themselves, not only their products with a dev head's
    balances: bool = False  # weighs the end task by what is seen of it: wants it trained beside its auxiliaries

    @property
    def setting_names(self) -> tuple[str, ...]:
        """Names of the settings that this method uses."""
        return tuple(about.name for about in fields(self.settings))

    def why_missing(self) -> str | None:
        """What to install before it can be loaded; None if all is there."""
        lacking = [package for package in self.needs if importlib.util.find_spec(package) is None]
        if not lacking:
            return None
        name = next(name for name, method in METHODS.items() if method is self)
        return f"{self.family} {name!r} needs the package {lacking[0]}; pip install 'raysearch[torchjd]'"

    def load(self) -> Any:
        """The class or function that does it; imports torch. ModuleNotFoundError says what to install."""
        if problem := self.why_missing():
            raise ModuleNotFoundError(problem)
        module, attribute = self.target.split(":")
        return getattr(importlib.import_module(f"raysearch.methods.{module}"), attribute)


_AANG = "Dery et al. 2023, https://arxiv.org/abs/2205.14082"
_TARTAN = "Dery et al. 2022, https://arxiv.org/abs/2109.07437"
_ATTITTUD = "Dery, Dauphin & Grangier 2021, https://arxiv.org/abs/2108.11346"
_DAPT = "Gururangan et al. 2020, https://arxiv.org/abs/2004.10964"
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
_ALPHAVIL = "Kourdis, Gordon-Hall & Gorinski 2024, https://arxiv.org/abs/2405.07769"
_FORKMERGE = "Jiang et al. 2023, https://arxiv.org/abs/2301.12618"
_UW = "Kendall, Gal & Cipolla 2018, https://arxiv.org/abs/1705.07115"
_DWA = "Liu, Johns & Davison 2019, https://arxiv.org/abs/1803.10704"
_GRADNORM = "Chen et al. 2018, https://arxiv.org/abs/1711.02257"
_FAMO = "Liu et al. 2023, https://arxiv.org/abs/2306.03792"
_RLW = "Lin et al. 2022, https://arxiv.org/abs/2111.10603"
_OL_AUX = "Lin et al. 2019, https://papers.nips.cc/paper/2019/hash/0e900ad84f63618452210ab8baae0218-Abstract.html"
_DGA = "Fan, Grangier & Ablin 2024, https://arxiv.org/abs/2410.02498"
_AUXINASH = "Shamsian et al. 2023, https://arxiv.org/abs/2301.13501"
_QP = ("qpsolvers", "quadprog")

OWN = "raysearch's own"

METHODS: dict[str, Method] = {
    "end_task_only": Method(
        "weighting", "weighting.static:EndTaskOnly", NoSettings, "the end task alone: plain fine-tuning", "baseline"
    ),
    "static": Method(
        "weighting",
        "weighting.static:Static",
        s.StaticSettings,
        "equal weights, fixed lambda_e: multitask learning",
        _AANG,
    ),
    "static_searched": Method(
        "weighting",
        "weighting.static:Searched",
        s.StaticSettings,
        "fixed weights, searched as dimensions `weight.`",
        "baseline",
    ),
    "eta_prim": Method(
        "weighting",
        "weighting.static:EtaPrimSum",
        s.EtaPrimSettings,
        "equal weights, update g~_aux + eta_prim g_prim",
        _ATTITTUD,
    ),
    "meta_tartan": Method(
        "weighting",
        "weighting.meta_gradient:MetaTartan",
        s.MetaTartanSettings,
        "a softmax over all tasks, learned from meta-gradients",
        _TARTAN,
    ),
    "aang": Method(
        "weighting",
        "weighting.meta_gradient:Aang",
        s.AangSettings,
        "factored weights and lambda_e from meta-gradients",
        _AANG,
    ),
    "gates": Method(
        "weighting",
        "weighting.gates:Gates",
        s.GatesSettings,
        "each objective by itself, on evidence from left-out labelled rows",
        OWN,
        looks=True,
    ),
    "probes": Method(
        "weighting",
        "weighting.probes:Probes",
        s.ProbesSettings,
        "those whose own short training helps left-out labelled rows",
        OWN,
        rounds=True,
    ),
    "alphavil": Method(
        "weighting",
        "weighting.branch_merging:AlphaVIL",
        s.AlphaVILSettings,
        "from how much of each task's own training helps the end task",
        _ALPHAVIL,
        rounds=True,
    ),
    "diw": Method(
        "weighting",
        "weighting.branch_merging:DIW",
        s.DIWSettings,
        "from what a pass on a task alone brings the end task (re-interpretation)",
        _ALPHAVIL,
        rounds=True,
    ),
    "forkmerge": Method(
        "weighting",
        "weighting.branch_merging:ForkMerge",
        s.ForkMergeSettings,
        "branches with an objective each, merged as scores best on meta-dev",
        _FORKMERGE,
        rounds=True,
    ),
    "uncertainty": Method(
        "weighting",
        "weighting.loss_balancing:Uncertainty",
        s.UncertaintySettings,
        "each loss over its learned variance",
        _UW,
        balances=True,
    ),
    "dwa": Method(
        "weighting",
        "weighting.loss_balancing:DWA",
        s.DWASettings,
        "more for tasks whose loss falls more slowly",
        _DWA,
        balances=True,
    ),
    "gradnorm": Method(
        "weighting",
        "weighting.loss_balancing:GradNorm",
        s.GradNormSettings,
        "gradient norms by training rates",
        _GRADNORM,
        balances=True,
        looks=True,
    ),
    "famo": Method(
        "weighting",
        "weighting.loss_balancing:FAMO",
        s.FAMOSettings,
        "the logarithms of all losses fall alike",
        _FAMO,
        balances=True,
    ),
    "rlw": Method(
        "weighting",
        "weighting.loss_balancing:RLW",
        s.RLWSettings,
        "a softmax of Gaussians, anew at each step",
        _RLW,
        balances=True,
    ),
    "ol_aux": Method(
        "weighting",
        "weighting.gradient_alignment:OlAux",
        s.OlAuxSettings,
        "more for gradients that agree with the end task's",
        _OL_AUX,
        balances=True,
        looks=True,
    ),
    "dga": Method(
        "weighting",
        "weighting.gradient_alignment:DGA",
        s.DGASettings,
        "more for gradients that agree with meta-dev's",
        _DGA,
        balances=True,
        looks=True,
    ),
    "auxinash": Method(
        "weighting",
        "weighting.gradient_alignment:AuxiNash",
        s.AuxiNashSettings,
        "a bargain under preferences learned on meta-dev",
        _AUXINASH,
        balances=True,
        looks=True,
    ),
    "none": Method("surgery", "surgery.attittud:keep", NoSettings, "the auxiliary gradient as it is", "baseline"),
    "attittud": Method(
        "surgery",
        "surgery.attittud:Attittud",
        f.AttittudSettings,
        "re-weigh the gradient's parts by their effect",
        _ATTITTUD,
    ),
    "gcs": Method(
        "surgery", "surgery.base:GCS", f.GCSSettings, "an auxiliary as far as it agrees with the end task", _GCS
    ),
    "pcgrad": Method(
        "surgery",
        "surgery.torchjd_adapter:PCGRAD",
        f.ConflictSettings,
        "off each gradient, the part that opposes another",
        _PCGRAD,
    ),
    "mgda": Method(
        "surgery",
        "surgery.torchjd_adapter:MGDA",
        f.ConflictSettings,
        "the shortest convex combination of the gradients",
        _MGDA,
    ),
    "cagrad": Method(
        "surgery",
        "surgery.torchjd_adapter:CAGRAD",
        f.CAGradSettings,
        "near the mean gradient, the direction whose least gain is largest",
        _CAGRAD,
        needs=("cvxpy", "clarabel"),
    ),
    "aligned_mtl": Method(
        "surgery",
        "surgery.torchjd_adapter:ALIGNED_MTL",
        f.AlignedMTLSettings,
        "principal components of one length",
        _ALIGNED_MTL,
    ),
    "imtl_g": Method(
        "surgery", "surgery.torchjd_adapter:IMTL_G", f.ConflictSettings, "equal projections on every gradient", _IMTL_G
    ),
    "upgrad": Method(
        "surgery",
        "surgery.torchjd_adapter:UPGRAD",
        f.ConflictSettings,
        "each gradient moved until it opposes none",
        _UPGRAD,
        needs=_QP,
    ),
    "dualproj": Method(
        "surgery",
        "surgery.torchjd_adapter:DUALPROJ",
        f.ConflictSettings,
        "their mean, moved until it opposes none",
        _DUALPROJ,
        needs=_QP,
    ),
    "config": Method(
        "surgery", "surgery.torchjd_adapter:CONFIG", f.ConflictSettings, "equal cosines with every gradient", _CONFIG
    ),
    "fairgrad": Method(
        "surgery",
        "surgery.torchjd_adapter:FAIRGRAD",
        f.FairGradSettings,
        "alpha-fair gains",
        _FAIRGRAD,
        needs=("scipy",),
    ),
    "nash_mtl": Method(
        "surgery",
        "surgery.torchjd_adapter:NashMTL",
        f.NashMTLSettings,
        "the bargain in which relative gains balance",
        _NASH_MTL,
        needs=("cvxpy", "ecos"),
        memory=True,
    ),
    "gradvac": Method(
        "surgery",
        "surgery.torchjd_adapter:GRADVAC",
        f.GradVacSettings,
        "gradients kept at their usual cosine",
        _GRADVAC,
        memory=True,
    ),
    "pcd": Method(
        "surgery",
        "surgery.torchjd_adapter:PCD",
        f.PCDSettings,
        "the end task first, a share of progress for each",
        _PCD,
        memory=True,
    ),
    "joint": Method("schedule", "schedule.phases:joint", NoSettings, "end task and auxiliaries together", "baseline"),
    "joint_then_finetune": Method(
        "schedule",
        "schedule.phases:joint_then_finetune",
        c.FineTuneSettings,
        "together, then the end task alone",
        _AANG,
    ),
    "joint_then_retrain": Method(
        "schedule",
        "schedule.phases:joint_then_retrain",
        c.RetrainSettings,
        "together, then anew with the weights learned",
        _AANG,
    ),
    "pretrain_then_finetune": Method(
        "schedule",
        "schedule.phases:pretrain_then_finetune",
        c.PretrainSettings,
        "auxiliaries first, then the end task alone",
        _DAPT,
    ),
}


def methods_of(family: Family) -> dict[str, Method]:
    """The methods of one family, by name."""
    return {name: method for name, method in METHODS.items() if method.family == family}
