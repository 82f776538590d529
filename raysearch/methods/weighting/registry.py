"""WEIGHTINGS: every weighting with its settings, its paper and its constraints. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

from raysearch.methods.method import (
    Method,
    excludes,
    excludes_values,
    needs_whole_batch,
    requires_joint_phase,
    requires_settings,
    requires_steps_for_a_round,
)
from raysearch.methods.weighting import settings
from raysearch.methods.weighting.evidence_settings import EvidenceSettings, why_not_closed_form
from raysearch.schema.fields import NoSettings, Value

_AANG = "Dery et al. 2023, https://arxiv.org/abs/2205.14082"
_TARTAN = "Dery et al. 2022, https://arxiv.org/abs/2109.07437"
_ATTITTUD = "Dery, Dauphin & Grangier 2021, https://arxiv.org/abs/2108.11346"
_ALPHAVIL = "Kourdis, Gordon-Hall & Gorinski 2024, https://arxiv.org/abs/2405.07769"
_FORKMERGE = "Jiang et al. 2023, https://arxiv.org/abs/2301.12618"
_UW = "Kendall, Gal & Cipolla 2018, https://arxiv.org/abs/1705.07115"
_DWA = "Liu, Johns & Davison 2019, https://arxiv.org/abs/1803.10704"
_GRADNORM = "Chen et al. 2018, https://arxiv.org/abs/1711.02257"
_FAMO = "Liu et al. 2023, https://arxiv.org/abs/2306.03792"
_RLW = "Lin et al. 2022, https://arxiv.org/abs/2111.10603"
_OL_AUX = "Lin et al. 2019, https://papers.nips.cc/paper/2019/hash/0e900ad84f63618452210ab8baae0218-Abstract.html"
_DGA = "Fan, Grangier & Ablin 2024, https://arxiv.org/abs/2410.02498"
_FLAD = "Albalak, Raffel & Wang 2023, https://arxiv.org/abs/2302.00674"
_AUXINASH = "Shamsian et al. 2023, https://arxiv.org/abs/2301.13501"

_RAYSEARCH = "raysearch's own"

_weighting = partial(Method, family="weighting")

_CLOSED_FORM = requires_settings(why_not_closed_form)
_FORWARD_ONLY = requires_settings(settings.why_not_forward_only)
_NEEDS_GRADIENTS = excludes_values("engine", ("jvp", "difference"), "needs each task's gradient")
_BALANCES = requires_joint_phase("weighs the end task against its auxiliaries: {other} never trains them together")
_MERGES_PARAMETERS = (
    excludes(
        "surgery",
        lambda surgery: surgery.name != "none",
        "merges the parameters of branches: {other} changes gradients",
    ),
    requires_joint_phase("merges branches of the end task and of its auxiliaries: {other} never trains them together"),
)


def _fork_branches(settings: Mapping[str, Value], objectives: int) -> int:
    return 1 + objectives if settings["fork_branches"] == "each" else 1


def _first_probes(settings: Mapping[str, Value], objectives: int) -> int:
    per_round, rounds = int(settings.get("probes_per_round", 8)), int(settings.get("probe_rounds", 3))
    return min(per_round * rounds, objectives)


WEIGHTINGS: tuple[Method, ...] = (
    _weighting(
        "end_task_only",
        "weighting.static:EndTaskOnly",
        NoSettings,
        "the end task alone: plain fine-tuning",
        "baseline",
        trains_auxiliaries=False,
    ),
    _weighting(
        "static",
        "weighting.static:Static",
        settings.StaticSettings,
        "equal weights and a fixed lambda_e: multitask learning",
        _AANG,
    ),
    _weighting(
        "static_searched",
        "weighting.static:Searched",
        settings.StaticSettings,
        "fixed weights, which are searched as dimensions `weight.`",
        "baseline",
        searches_weights=True,
    ),
    _weighting(
        "eta_prim",
        "weighting.static:EtaPrimSum",
        settings.EtaPrimSettings,
        "equal weights; the update is g~_aux + eta_prim g_prim",
        _ATTITTUD,
    ),
    _weighting(
        "meta_tartan",
        "weighting.meta_gradient:MetaTartan",
        settings.MetaTartanSettings,
        "a softmax over all tasks, learned from meta-gradients",
        _TARTAN,
        needs_meta_dev=True,
        constraints=(
            _FORWARD_ONLY,
            _CLOSED_FORM,
            excludes_values("batch_split", ("hierarchical",), "has no factored weights"),
        ),
    ),
    _weighting(
        "aang",
        "weighting.meta_gradient:Aang",
        settings.AangSettings,
        "factored weights and lambda_e, learned from meta-gradients",
        _AANG,
        needs_meta_dev=True,
        constraints=(_FORWARD_ONLY, _CLOSED_FORM),
    ),
    _weighting(
        "evidence",
        "weighting.evidence:Evidence",
        EvidenceSettings,
        "weights that move as far as the similarities to the dev gradient are told from their noise",
        _RAYSEARCH,
        needs_meta_dev=True,
        constraints=(_BALANCES, _FORWARD_ONLY),
    ),
    _weighting(
        "gates",
        "weighting.gates:Gates",
        settings.GatesSettings,
        "a gate for each objective, opened by evidence from leave-one-out examples",
        _RAYSEARCH,
        needs_meta_dev=True,
        constraints=(_NEEDS_GRADIENTS,),
    ),
    _weighting(
        "probes",
        "weighting.probes:Probes",
        settings.ProbesSettings,
        "the objectives of which a short training run helps leave-one-out examples",
        _RAYSEARCH,
        needs_meta_dev=True,
        merges_branches=True,
        constraints=(*_MERGES_PARAMETERS, requires_steps_for_a_round(lambda _, objectives: objectives)),
    ),
    _weighting(
        "factored_probes",
        "weighting.factored_probes:FactoredProbes",
        settings.FactoredProbesSettings,
        "short training runs on a few objectives, and a model of the effects of all by their primitives",
        _RAYSEARCH,
        needs_meta_dev=True,
        merges_branches=True,
        constraints=(*_MERGES_PARAMETERS, requires_steps_for_a_round(_first_probes)),
    ),
    _weighting(
        "alphavil",
        "weighting.branch_merging:AlphaVIL",
        settings.AlphaVILSettings,
        "weights from how much the training of each task alone helps the end task",
        _ALPHAVIL,
        needs_meta_dev=True,
        merges_branches=True,
        constraints=(*_MERGES_PARAMETERS, requires_steps_for_a_round(lambda _, objectives: 1 + objectives)),
    ),
    _weighting(
        "diw",
        "weighting.branch_merging:DIW",
        settings.DIWSettings,
        "weights from how much a pass on a task alone helps the end task (re-interpretation)",
        _ALPHAVIL,
        needs_meta_dev=True,
        merges_branches=True,
        constraints=(*_MERGES_PARAMETERS, requires_steps_for_a_round(lambda _, __: 1)),
    ),
    _weighting(
        "forkmerge",
        "weighting.branch_merging:ForkMerge",
        settings.ForkMergeSettings,
        "branches with one objective each, merged for the best score on meta-dev",
        _FORKMERGE,
        needs_meta_dev=True,
        merges_branches=True,
        constraints=(*_MERGES_PARAMETERS, requires_steps_for_a_round(_fork_branches)),
    ),
    _weighting(
        "uncertainty",
        "weighting.loss_balancing:Uncertainty",
        settings.UncertaintySettings,
        "each loss divided by its learned variance",
        _UW,
        constraints=(_BALANCES,),
    ),
    _weighting(
        "dwa",
        "weighting.loss_balancing:DWA",
        settings.DWASettings,
        "larger weights for tasks whose loss falls more slowly",
        _DWA,
        constraints=(_BALANCES,),
    ),
    _weighting(
        "gradnorm",
        "weighting.loss_balancing:GradNorm",
        settings.GradNormSettings,
        "weights that make gradient norms proportional to training rates",
        _GRADNORM,
        constraints=(_BALANCES, _NEEDS_GRADIENTS),
    ),
    _weighting(
        "famo",
        "weighting.loss_balancing:FAMO",
        settings.FAMOSettings,
        "the logarithms of all losses fall at the same rate",
        _FAMO,
        constraints=(_BALANCES, needs_whole_batch),
    ),
    _weighting(
        "rlw",
        "weighting.loss_balancing:RLW",
        settings.RLWSettings,
        "a softmax of Gaussian draws, new at each step",
        _RLW,
        constraints=(_BALANCES,),
    ),
    _weighting(
        "ol_aux",
        "weighting.gradient_alignment:OlAux",
        settings.OlAuxSettings,
        "larger weights for gradients that agree with that of the end task",
        _OL_AUX,
        constraints=(_BALANCES, _NEEDS_GRADIENTS),
    ),
    _weighting(
        "exp3",
        "weighting.bandits:Exp3",
        settings.StaticSettings,
        "a bandit that draws the objectives whose gradients have agreed with that of the end task",
        _FLAD,
        constraints=(_BALANCES, _NEEDS_GRADIENTS),
    ),
    _weighting(
        "ucb1",
        "weighting.bandits:Ucb1",
        settings.Ucb1Settings,
        "a bandit that plays the objectives whose gradients may agree most with that of the end task",
        _FLAD,
        constraints=(_BALANCES, _NEEDS_GRADIENTS),
    ),
    _weighting(
        "dga",
        "weighting.gradient_alignment:DGA",
        settings.DGASettings,
        "larger weights for gradients that agree with that of meta-dev",
        _DGA,
        needs_meta_dev=True,
        constraints=(_BALANCES, _NEEDS_GRADIENTS),
    ),
    _weighting(
        "auxinash",
        "weighting.gradient_alignment:AuxiNash",
        settings.AuxiNashSettings,
        "a Nash bargaining solution with preferences learned on meta-dev",
        _AUXINASH,
        needs_meta_dev=True,
        constraints=(_BALANCES, _NEEDS_GRADIENTS),
    ),
)
