"""Settings of the weightings. A setting's name is unique over all groups, so that a search sets it by name alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from raysearch.schema.fields import Settings, Value, setting
from raysearch.training_settings import JOINT_PHASE


@dataclass(frozen=True, kw_only=True)
class SamplingSettings(Settings):
    """Settings of how objectives are sampled at a step."""

    objectives_per_step: int = setting(3, "objectives that are sampled at a step, without replacement; 0: all", low=0)
    sample_every: str = setting(
        "step",
        "step: sample once a step (AANG, Algorithm 1); micro_step: once for each micro-batch (its code)",
        choices=("step", "micro_step"),
    )


@dataclass(frozen=True, kw_only=True)
class BalanceSettings(Settings):
    """The weight of the end task compared with that of the auxiliary objectives."""

    lambda_e: float = setting(
        0.5,
        "weight of the end task in the total loss; the auxiliary objectives share the rest",
        low=0,
        high=1,
        needs=JOINT_PHASE,
    )


@dataclass(frozen=True, kw_only=True)
class StaticSettings(SamplingSettings, BalanceSettings):
    """Equal weights and a fixed lambda_e."""


@dataclass(frozen=True, kw_only=True)
class EtaPrimSettings(SamplingSettings):
    """The sum of ATTITTUD: g~_aux + eta_prim g_prim."""

    eta_prim: float = setting(
        1.0, "factor of the end task's gradient in the sum with g~_aux (ATTITTUD, section 3)", low=0, needs=JOINT_PHASE
    )
    eta_prim_form: str = setting(
        "factor",
        "factor: g~_aux + eta_prim g_prim (the paper); count_ratio: the same divided by 1 + eta_prim (its code)",
        choices=("factor", "count_ratio"),
        needs=JOINT_PHASE,
    )


@dataclass(frozen=True, kw_only=True)
class SimilaritySettings(Settings):
    """How gradients are compared."""

    similarity: str = setting(
        "cosine",
        "how a gradient is compared with that of the end task: cosine or dot product",
        choices=("cosine", "dot"),
    )


@dataclass(frozen=True, kw_only=True)
class MetaBatchSettings(Settings):
    """The meta-dev examples of a gradient."""

    meta_batch_size: int = setting(
        32, "meta-dev examples of a meta-gradient, 0: all; the dev head is fitted on others", low=0, unit="example"
    )


@dataclass(frozen=True, kw_only=True)
class CrossFitSettings(MetaBatchSettings):
    """Dev heads in closed form: those that score a fold of meta-dev are fitted on the other folds (raysearch's own)."""

    dev_folds: int = setting(8, "folds of meta-dev; a closed-form head scores one of them in turn", low=2, is_late=True)
    dev_head_ridge: float = setting(
        1.0, "ridge penalty of a closed-form head, per mean square of its inputs", low=0, open_low=True, is_late=True
    )
    dev_fit_examples: int = setting(
        512,
        "largest number of the other folds' examples on which a closed-form head is fitted; 0: all",
        low=0,
        unit="example",
        is_late=True,
    )


@dataclass(frozen=True, kw_only=True)
class DevHeadSettings(CrossFitSettings):
    """The separate head phi* through which the dev gradient of the body is taken (META-TARTAN; AANG, App. B, 2.2)."""

    dev_head: str = setting(
        "descent",
        "descent: a new head, fitted by a few steps of AdamW (the papers); closed_form: a logistic or ridge "
        "regression, fitted on the other folds of meta-dev than those it scores (raysearch's own)",
        choices=("descent", "closed_form"),
        is_late=True,
    )
    dev_head_examples: int = setting(32, "examples on which the dev head is fitted", low=1, unit="example")
    dev_head_split: str = setting(
        "meta_dev",
        "the split of these examples: meta_dev (META-TARTAN) or train (AANG's code)",
        choices=("meta_dev", "train"),
    )
    dev_head_rows: str = setting(
        "fixed",
        "fixed: the same examples at every step; fresh: new ones for every head (the code of META-TARTAN and AANG)",
        choices=("fixed", "fresh"),
        is_late=True,
    )
    dev_dropout: bool = setting(
        False, "dropout in the dev head and in the gradient through it (the code of both)", is_late=True
    )
    dev_head_lr: float = setting(1e-2, "AdamW learning rate of the dev head", low=0, open_low=True)
    dev_head_decay: float = setting(0.1, "AdamW weight decay of the dev head", low=0)
    dev_head_steps: int = setting(10, "largest number of full-batch steps of a fit", low=1, unit="step")
    dev_head_tolerance: float = setting(1e-3, "a fit ends when the loss changes by less than this", low=0, unit="nat")


@dataclass(frozen=True, kw_only=True)
class MetaGradientSettings(DevHeadSettings, SimilaritySettings):
    """Weights learned from the similarity of each task's gradient to the dev gradient."""

    through_softmax: bool = setting(
        False,
        "differentiate through the softmax of the weights (papers); false: a logit moves by its similarity (code)",
    )
    task_clip: float = setting(
        0.0, "norm to which a task's gradient is clipped after the comparison; 0 never clips (AANG's code: 10)", low=0
    )
    batch_split: str = setting(
        "weight",
        "how the batch is split over objectives: by weight, equal, or hierarchical: by the shares of their primitives "
        "(AANG's code)",
        choices=("weight", "equal", "hierarchical"),
    )


@dataclass(frozen=True, kw_only=True)
class MetaTartanSettings(MetaGradientSettings):
    """META-TARTAN: one softmax over the end task and every objective."""

    lr_tasks: float = setting(1e-2, "learning rate of the task logits (SGD)", low=0)
    tasks_every: int = setting(
        1, "steps whose mean gradient updates the task logits (AANG's code: 3)", low=1, unit="step", is_late=True
    )


@dataclass(frozen=True, kw_only=True)
class AangSettings(StaticSettings, MetaGradientSettings):
    """AANG: factored objective weights and lambda_e learned from meta-gradients."""

    lr_weights: float = setting(0.1, "learning rate of W^All, W^D, W^T, W^R, W^O (the authors' auxlr; SGD)", low=0)
    lr_lambda: float = setting(
        0.1,
        "learning rate of the logits of lambda_e (the authors' soptlr; SGD); 0 keeps lambda_e fixed",
        low=0,
        needs=JOINT_PHASE,
    )
    factored: bool = setting(True, "objectives with a common primitive share its weight; false: W^All alone")
    weight_form: str = setting(
        "joint",
        "joint: one softmax over the sampled objectives (the paper); hierarchical: the product of each primitive's "
        "share among the primitives of its stage and a softmax of W^All + W^O, which sums to about 1/n (its code)",
        choices=("joint", "hierarchical"),
    )
    lambda_form: str = setting(
        "softmax",
        "softmax: of two logits, for the end task and the auxiliaries (AANG's code); scalar: lambda_e itself, clamped "
        "to [0, 1] (the paper)",
        choices=("softmax", "scalar"),
        needs=JOINT_PHASE,
    )
    meta_every: int = setting(1, "steps between updates of the weights", low=1, unit="step")
    meta_mean: bool = setting(
        False,
        "update by the mean of all steps since the last update (AANG's code); false: by every meta_every-th step alone",
    )


@dataclass(frozen=True, kw_only=True)
class BranchSettings(Settings):
    """A round: branches train separately from common parameters and are merged."""

    rho: float = setting(
        1.0, "share of a pass over its task's data on which a branch trains in a round", low=0, high=1, open_low=True
    )
    pass_steps: int = setting(
        0, "steps of a pass; 0: the task's examples divided by the batch size", low=0, unit="step"
    )
    branch_optimizer: str = setting(
        "fresh",
        "fresh: AdamW starts from zero moments in every round; kept: a branch keeps its moments",
        choices=("fresh", "kept"),
    )
    delta_precision: str = setting(
        "float32", "precision in which the changes of each branch are stored", choices=("float32", "bfloat16")
    )
    delta_place: str = setting(
        "device", "where they are stored: on the device of the parameters, or on the CPU", choices=("device", "cpu")
    )


@dataclass(frozen=True, kw_only=True)
class AlphaVILSettings(BranchSettings):
    """alphaVIL: weights from how much the change of each branch helps the end task."""

    alpha_optimizer: str = setting(
        "gd",
        "how the alphas are found on meta-dev: gradient descent (gd), one Newton step, or Nelder-Mead (black_box)",
        choices=("gd", "newton", "black_box"),
    )
    alpha_steps: int = setting(10, "gradient steps on the alphas; for black_box, points tried for each branch", low=0)
    alpha_lr: float = setting(5e-3, "learning rate of the alphas under gd", low=0)
    alpha_batch_size: int = setting(32, "meta-dev examples of a gradient of the alphas; 0: all", low=0, unit="example")
    alpha_reach: float = setting(2.0, "largest distance of an alpha from 1", low=0, open_low=True)
    alpha_accept: str = setting(
        "always",
        "always: take the alphas; better: only if the loss on all of meta-dev is not above that at 1 (raysearch's own)",
        choices=("always", "better"),
    )
    weight_floor: float = setting(
        0.01, "smallest weight of a task; a task with weight 0 is not trained any more", low=0
    )
    renormalise: bool = setting(False, "scale the weights to a mean of 1 after every round")
    normalise_deltas: bool = setting(False, "scale the changes of all branches to the same norm")
    weight_scales: str = setting(
        "rate",
        "a task's weight multiplies its learning rate (rate), or its loss (loss), to which AdamW is nearly invariant",
        choices=("rate", "loss"),
    )


@dataclass(frozen=True, kw_only=True)
class DIWSettings(BranchSettings):
    """DIW, a re-interpretation: weights from how much a further pass on each task alone helps the end task."""

    diw_rate: float = setting(0.1, "largest change of a weight in a round", low=0)
    diw_gain: str = setting(
        "loss", "what the gain on meta-dev is measured in: the metric (score), or the loss", choices=("score", "loss")
    )


@dataclass(frozen=True, kw_only=True)
class ForkMergeSettings(BranchSettings):
    """ForkMerge: branches of different tasks, merged so that the score on meta-dev is highest."""

    fork_branches: str = setting(
        "each",
        "the branches besides that of the end task: the end task with each objective, or with all objectives together",
        choices=("each", "together"),
    )
    merge_points: int = setting(5, "intervals of the grid of a coefficient (the paper's 0, 0.2, ..., 1 has 5)", low=1)
    prune_after: int = setting(0, "merges after which branches with coefficient 0 are dropped; 0: never", low=0)
    keep_branches: int = setting(
        0, "largest number of branches kept then besides that of the end task; 0: all with a coefficient above 0", low=0
    )


@dataclass(frozen=True, kw_only=True)
class UncertaintySettings(SamplingSettings):
    """Uncertainty weighting: a learned log-variance for each task."""

    lr_uncertainty: float = setting(0.02, "learning rate of the log-variances (SGD)", low=0, high=1)


@dataclass(frozen=True, kw_only=True)
class DWASettings(Settings):
    """Dynamic weight average: weights from how fast losses fall."""

    dwa_window: int = setting(20, "steps whose mean loss takes the place of the paper's epoch", low=1, unit="step")
    dwa_temperature: float = setting(2.0, "temperature of the softmax over the ratios of losses", low=0, open_low=True)


@dataclass(frozen=True, kw_only=True)
class GradNormSettings(Settings):
    """GradNorm: gradient norms in proportion to training rates."""

    gradnorm_alpha: float = setting(1.5, "how strongly slower tasks are favoured; 0 makes all norms equal", low=0)
    lr_gradnorm: float = setting(0.025, "learning rate of the weights, which sum to the number of tasks (SGD)", low=0)


@dataclass(frozen=True, kw_only=True)
class FAMOSettings(Settings):
    """FAMO: the logarithms of all losses fall at the same rate."""

    lr_famo: float = setting(0.025, "learning rate of the task logits (Adam)", low=0)
    famo_decay: float = setting(1e-3, "weight decay of the task logits (the paper's gamma; its code has 1e-5)", low=0)


@dataclass(frozen=True, kw_only=True)
class RLWSettings(SamplingSettings):
    """Random loss weighting."""


@dataclass(frozen=True, kw_only=True)
class OlAuxSettings(BalanceSettings, SimilaritySettings):
    """OL-AUX: weights updated by the agreement of training gradients."""

    ol_aux_steps: int = setting(5, "steps whose similarities update the weights (the paper's N)", low=1, unit="step")
    lr_ol_aux: float = setting(0.1, "learning rate of the weights, which start at 1 (the paper's beta)", low=0)


@dataclass(frozen=True, kw_only=True)
class DGASettings(BalanceSettings, MetaBatchSettings, SimilaritySettings):
    """DGA: exponentiated gradient on the agreement with the dev gradient through the end task's head."""

    lr_dga: float = setting(0.5, "step size of the exponentiated gradient (the paper's eta)", low=0)
    dga_ema: float = setting(
        0.1, "share of the new weights in their moving average; 1: no average (DoGE)", low=0, high=1
    )
    dga_every: int = setting(5, "steps between computations of the dev gradient", low=1, unit="step")


@dataclass(frozen=True, kw_only=True)
class AuxiNashSettings(MetaBatchSettings):
    """AuxiNash: a Nash bargaining solution with learned preferences."""

    lr_preference: float = setting(5e-3, "learning rate of the preferences (SGD with momentum)", low=0)
    preference_every: int = setting(25, "steps between updates of the preferences", low=1, unit="step")


@dataclass(frozen=True, kw_only=True)
class LeaveOneOutSettings(MetaBatchSettings):
    """Leave-one-out examples of meta-dev and train: each is scored by a least-squares head fitted on the others."""

    gate_train_rows: int = setting(32, "training examples that are used in addition to those of meta-dev", low=0)
    gate_ridge: float = setting(
        0.1, "ridge penalty of the dev head, relative to the mean square of its inputs", low=0, open_low=True
    )


@dataclass(frozen=True, kw_only=True)
class GatesSettings(StaticSettings, LeaveOneOutSettings, SimilaritySettings):
    """Gates, raysearch's own: each objective has a gate, opened by evidence from leave-one-out examples."""

    lr_gates: float = setting(4.0, "learning rate of the evidence", low=0)
    gate_margin: float = setting(8e-3, "similarity at which a gate does not move; a smaller one closes it")
    gate_start: float = setting(-1.4, "initial evidence; the gate is its sigmoid")
    gate_limit: float = setting(6.0, "largest absolute evidence", low=0)


@dataclass(frozen=True, kw_only=True)
class ProbesSettings(BranchSettings, BalanceSettings, LeaveOneOutSettings):
    """Probes, raysearch's own: a short training run on each objective alone decides whether it takes part."""

    probe_rate: float = setting(1.0, "factor of the learning rates during probes", low=0, open_low=True)
    probe_margin: float = setting(
        1.0,
        "gain on leave-one-out examples, in standard errors, below which an objective is excluded; with one more it "
        "takes part fully",
    )


@dataclass(frozen=True, kw_only=True)
class FactoredProbesSettings(ProbesSettings):
    """Factored probes, raysearch's own: probes of a few objectives, and a model of the effects of all."""

    probes_per_round: int = setting(8, "objectives that are probed in a round", low=1)
    probe_rounds: int = setting(3, "rounds of probes; each probes the objectives that may yet be the best", low=1)
    probe_reach: float = setting(
        1.0, "standard deviations above the mean of an effect by which objectives are chosen for a probe", low=0
    )
    probe_keep: int = setting(4, "most objectives that take part, those with the largest effects; 0: all", low=0)
    probe_every: int = setting(
        0, "steps after which the objectives are probed again, as in Aioli; 0: never again", low=0, unit="step"
    )


@dataclass(frozen=True, kw_only=True)
class Ucb1Settings(StaticSettings):
    """UCB1-FLAD: the objectives with the largest upper confidence bounds take part."""

    ucb_smoothing: float = setting(
        0.9, "share of the newest reward in an objective's mean reward (FLAD's beta)", low=0, high=1, open_low=True
    )
    ucb_reach: float = setting(1.0, "factor of the exploration term sqrt(2 ln t / n); the paper's is 1", low=0)


def why_not_forward_only(settings: Mapping[str, Value]) -> str | None:
    """Returns why the products with the dev gradient cannot come from forward passes alone; None if they can."""
    engine = settings.get("engine")
    if engine not in ("jvp", "difference"):
        return None
    if settings.get("similarity", "dot") != "dot" or settings.get("task_clip"):
        return f"engine {engine!r} knows no norms: similarity: dot and no task_clip, or leave it out"
    if engine == "difference" and settings.get("precision") == "bfloat16":
        return (
            "engine 'difference' subtracts losses, for which bfloat16 is too coarse: precision: float32, or engine: jvp"
        )
    return None
