"""Settings of the weightings. A setting's name is unique over all groups, so that a search need not say whose it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from raysearch.schema.fields import Settings, Value, setting
from raysearch.training_settings import JOINT_PHASE


@dataclass(frozen=True, kw_only=True)
class SamplingSettings(Settings):
    """Which objectives take part in a step."""

    objectives_per_step: int = setting(3, "objectives sampled a step, without replacement; 0 takes all", low=0)
    sample_every: str = setting(
        "step",
        "sample once a step (AANG, Algorithm 1), or once for each of its micro_batches (its code)",
        choices=("step", "micro_step"),
    )


@dataclass(frozen=True, kw_only=True)
class BalanceSettings(Settings):
    """The end task's weight against that of its auxiliaries."""

    lambda_e: float = setting(
        0.5, "weight of the end task in the total loss; auxiliaries share the rest", low=0, high=1, needs=JOINT_PHASE
    )


@dataclass(frozen=True, kw_only=True)
class StaticSettings(SamplingSettings, BalanceSettings):
    """Equal weights, fixed lambda_e."""


@dataclass(frozen=True, kw_only=True)
class EtaPrimSettings(SamplingSettings):
    """ATTITTUD's own sum: g~_aux + eta_prim g_prim."""

    eta_prim: float = setting(
        1.0, "factor of the end task's gradient beside g~_aux (ATTITTUD, section 3)", low=0, needs=JOINT_PHASE
    )
    eta_prim_form: str = setting(
        "factor",
        "factor: g~_aux + eta_prim g_prim (the paper); count_ratio: that over 1 + eta_prim (its code)",
        choices=("factor", "count_ratio"),
        needs=JOINT_PHASE,
    )


@dataclass(frozen=True, kw_only=True)
class SimilaritySettings(Settings):
    """How gradients are compared."""

    similarity: str = setting("cosine", "how a gradient is compared with the end task's", choices=("cosine", "dot"))


@dataclass(frozen=True, kw_only=True)
class MetaBatchSettings(Settings):
    """The rows of meta-dev that a gradient is taken on."""

    meta_batch_size: int = setting(
        32, "meta-dev examples of a meta-gradient, none of a dev head's", low=1, unit="example"
    )


@dataclass(frozen=True, kw_only=True)
class DevHeadSettings(MetaBatchSettings):
    """The separate head phi* through which the body is asked what helps (META-TARTAN, section 2.2 of AANG's App. B)."""

    dev_head_examples: int = setting(32, "examples that the dev head is fitted on", low=1, unit="example")
    dev_head_split: str = setting(
        "meta_dev",
        "where those are from: meta-dev (META-TARTAN), or the training data (AANG's code)",
        choices=("meta_dev", "train"),
    )
    dev_head_lr: float = setting(1e-2, "AdamW rate of the dev head", low=0, open_low=True)
    dev_head_decay: float = setting(0.1, "AdamW decay of the dev head", low=0)
    dev_head_steps: int = setting(10, "most full-batch steps of a fit", low=1, unit="step")
    dev_head_tolerance: float = setting(1e-3, "a fit ends when the loss changes by less", low=0, unit="nat")


@dataclass(frozen=True, kw_only=True)
class MetaGradientSettings(DevHeadSettings, SimilaritySettings):
    """Weights that follow the similarity of each task's gradient to the dev gradient."""

    through_softmax: bool = setting(
        False, "differentiate the weights (papers); else a logit gets its similarity (code)"
    )
    task_clip: float = setting(
        0.0, "largest norm of a task's gradient once compared; 0 never clips (AANG's code: 10)", low=0
    )
    batch_split: str = setting(
        "weight",
        "rows of each objective: by its weight, equally many, or by the shares of its primitives (AANG's code)",
        choices=("weight", "equal", "hierarchical"),
    )


@dataclass(frozen=True, kw_only=True)
class MetaTartanSettings(MetaGradientSettings):
    """META-TARTAN: one softmax over the end task and every objective."""

    lr_tasks: float = setting(1e-2, "rate of the task logits (SGD)", low=0)


@dataclass(frozen=True, kw_only=True)
class AangSettings(StaticSettings, MetaGradientSettings):
    """AANG: factored objective weights and lambda_e learned from meta-gradients."""

    lr_weights: float = setting(0.1, "rate of W^All, W^D, W^T, W^R, W^O (the authors' auxlr; SGD)", low=0)
    lr_lambda: float = setting(
        0.1, "rate of what is behind lambda_e (the authors' soptlr; SGD); 0 keeps it", low=0, needs=JOINT_PHASE
    )
    factored: bool = setting(True, "share weights between objectives with a primitive in common; else W^All alone")
    weight_form: str = setting(
        "joint",
        "joint: one softmax over the sampled objectives (the paper); hierarchical: the product of each primitive's "
        "share among its siblings and a softmax of W^All + W^O, which sums to about 1/n (its code)",
        choices=("joint", "hierarchical"),
    )
    lambda_form: str = setting(
        "softmax",
        "softmax: of two logits, one for each side (AANG's code); scalar: lambda_e itself, held in [0, 1] (the paper)",
        choices=("softmax", "scalar"),
        needs=JOINT_PHASE,
    )
    meta_every: int = setting(1, "steps between moves of the weights", low=1, unit="step")
    meta_mean: bool = setting(
        False, "move by the mean of all steps since the last move (AANG's code); else look at every meta_every-th alone"
    )


@dataclass(frozen=True, kw_only=True)
class BranchSettings(Settings):
    """Branches that train by themselves from common parameters, and are mixed: a round."""

    rho: float = setting(
        1.0, "share of a pass over its task's data that a branch trains on in a round", low=0, high=1, open_low=True
    )
    pass_steps: int = setting(0, "steps of a pass; 0: rows of the task's data over its batch size", low=0, unit="step")
    branch_optimizer: str = setting(
        "fresh", "AdamW begins anew in every round, or a branch keeps its moments", choices=("fresh", "kept")
    )
    delta_precision: str = setting(
        "float32", "in what the changes of each branch are kept", choices=("float32", "bfloat16")
    )
    delta_place: str = setting(
        "device", "where they are kept: with the parameters, or on the CPU", choices=("device", "cpu")
    )


@dataclass(frozen=True, kw_only=True)
class AlphaVILSettings(BranchSettings):
    """alphaVIL: weights from how much of each task's change helps the end task."""

    alpha_optimizer: str = setting(
        "gd",
        "what finds the alphas on meta-dev: gradient descent, one Newton step, or a simplex without gradients",
        choices=("gd", "newton", "black_box"),
    )
    alpha_steps: int = setting(10, "gradient steps on the alphas; of black_box, points tried for each branch", low=0)
    alpha_lr: float = setting(5e-3, "learning rate of the alphas under gd", low=0)
    alpha_batch_size: int = setting(32, "meta-dev rows of a gradient of the alphas; 0 all", low=0, unit="example")
    alpha_reach: float = setting(2.0, "farthest that an alpha may be from 1", low=0, open_low=True)
    alpha_accept: str = setting(
        "always",
        "take the alphas as found; or only where the loss on all of meta-dev is not above that at 1 (ours)",
        choices=("always", "better"),
    )
    weight_floor: float = setting(0.01, "least weight of a task; one that falls to 0 trains no more", low=0)
    renormalise: bool = setting(False, "bring the weights to a mean of 1 after every round")
    normalise_deltas: bool = setting(False, "scale what the branches changed to one length")
    weight_scales: str = setting(
        "rate",
        "a task's weight multiplies its learning rate, or its loss, which AdamW hardly feels",
        choices=("rate", "loss"),
    )


@dataclass(frozen=True, kw_only=True)
class DIWSettings(BranchSettings):
    """DIW, a re-interpretation: weights from what a further pass on each task alone brings the end task."""

    diw_rate: float = setting(0.1, "most that a weight moves in a round", low=0)
    diw_gain: str = setting("loss", "what is gained on meta-dev: metric, or less loss", choices=("score", "loss"))


@dataclass(frozen=True, kw_only=True)
class ForkMergeSettings(BranchSettings):
    """ForkMerge: branches of different tasks, merged as scores best on meta-dev."""

    fork_branches: str = setting(
        "each", "beside the end task alone: it with each objective, or with all of them", choices=("each", "together")
    )
    merge_points: int = setting(5, "parts that the grid of a coefficient has (the paper's 0, 0.2, ..., 1)", low=1)
    prune_after: int = setting(0, "merges after which branches without a part are dropped; 0 never", low=0)
    keep_branches: int = setting(0, "most branches kept then beside the end task's; 0 all that have a part", low=0)


@dataclass(frozen=True, kw_only=True)
class UncertaintySettings(SamplingSettings):
    """Uncertainty weighting: a log-variance for each task."""

    lr_uncertainty: float = setting(0.02, "rate of the log-variances (SGD)", low=0, high=1)


@dataclass(frozen=True, kw_only=True)
class DWASettings(Settings):
    """Dynamic weight average: how fast losses fall."""

    dwa_window: int = setting(20, "steps whose mean loss stands for the paper's epoch", low=1, unit="step")
    dwa_temperature: float = setting(2.0, "temperature of the softmax over the ratios of losses", low=0, open_low=True)


@dataclass(frozen=True, kw_only=True)
class GradNormSettings(Settings):
    """GradNorm: norms of gradients in proportion to training rates."""

    gradnorm_alpha: float = setting(1.5, "how much slower tasks are favoured; 0 makes norms alike", low=0)
    lr_gradnorm: float = setting(0.025, "rate of the weights, which sum to the number of tasks (SGD)", low=0)


@dataclass(frozen=True, kw_only=True)
class FAMOSettings(Settings):
    """FAMO: all losses' logarithms fall alike."""

    lr_famo: float = setting(0.025, "rate of the task logits (Adam)", low=0)
    famo_decay: float = setting(1e-3, "weight decay of the task logits (the paper's gamma; its code has 1e-5)", low=0)


@dataclass(frozen=True, kw_only=True)
class RLWSettings(SamplingSettings):
    """Random loss weighting."""


@dataclass(frozen=True, kw_only=True)
class OlAuxSettings(BalanceSettings, SimilaritySettings):
    """OL-AUX: weights moved by the agreement of training gradients."""

    ol_aux_steps: int = setting(5, "steps whose similarities move the weights (the paper's N)", low=1, unit="step")
    lr_ol_aux: float = setting(0.1, "rate of the weights, which begin at 1 (the paper's beta)", low=0)


@dataclass(frozen=True, kw_only=True)
class DGASettings(BalanceSettings, MetaBatchSettings, SimilaritySettings):
    """DGA: exponentiated gradient on the agreement with the dev gradient through the end task's own head."""

    lr_dga: float = setting(0.5, "step of the exponentiated gradient (the paper's eta)", low=0)
    dga_ema: float = setting(0.1, "share of the new weights in their moving average; 1 is none (DoGE)", low=0, high=1)
    dga_every: int = setting(5, "steps between looks at the dev gradient", low=1, unit="step")


@dataclass(frozen=True, kw_only=True)
class AuxiNashSettings(MetaBatchSettings):
    """AuxiNash: a bargain under learned preferences."""

    lr_preference: float = setting(5e-3, "rate of the preferences (SGD with momentum)", low=0)
    preference_every: int = setting(25, "steps between moves of the preferences", low=1, unit="step")


@dataclass(frozen=True, kw_only=True)
class LeaveOneOutSettings(MetaBatchSettings):
    """Labelled rows of meta-dev and train, each scored by the least-squares head that the others give."""

    gate_train_rows: int = setting(32, "training examples beside those of meta-dev, left out in turn too", low=0)
    gate_ridge: float = setting(0.1, "ridge of the dev head, in mean squares of its inputs", low=0, open_low=True)


@dataclass(frozen=True, kw_only=True)
class GatesSettings(StaticSettings, LeaveOneOutSettings, SimilaritySettings):
    """Gates, raysearch's own: every objective by itself, on evidence from labelled rows that are left out in turn."""

    lr_gates: float = setting(4.0, "rate of the evidence", low=0)
    gate_margin: float = setting(8e-3, "similarity that leaves a gate where it is; less closes it")
    gate_start: float = setting(-1.4, "evidence at first; a gate is its sigmoid")
    gate_limit: float = setting(6.0, "largest evidence for or against an objective", low=0)


@dataclass(frozen=True, kw_only=True)
class ProbesSettings(BranchSettings, BalanceSettings, LeaveOneOutSettings):
    """Probes, raysearch's own: a short training on each objective alone says whether it takes part."""

    probe_rate: float = setting(1.0, "factor of the learning rates while it probes", low=0, open_low=True)
    probe_margin: float = setting(
        1.0, "standard errors of gain on left-out rows that shut an objective out; one more, and it takes part in full"
    )


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
