"""Every setting of a trial: its meaning, unit, range and default, declared once.

Those of the field's methods are in `field`. A setting's name is unique over all classes of both, so that a search
names it without saying whose it is; a test holds us to that. Names are the papers'; defaults are for a small encoder on
a small machine.
"""

from __future__ import annotations

from dataclasses import Field, dataclass, field, fields
from typing import Any

from raysearch.errors import did_you_mean

Value = bool | int | float | str


def knob(
    default: Value,
    meaning: str,
    *,
    low: float | None = None,
    high: float | None = None,
    open_low: bool = False,
    unit: str = "",
    choices: tuple[str, ...] = (),
) -> Any:
    """A dataclass field of one setting; its range is [low, high], or (low, high] when `open_low`."""
    about = {"meaning": meaning, "low": low, "high": high, "open_low": open_low, "unit": unit, "choices": choices}
    return field(default=default, metadata=about)


def check_value(setting: Field[Any], value: object) -> None:
    """Raise ValueError, with the remedy, unless `value` may be given to `setting`."""
    about, kind = setting.metadata, type(setting.default)
    name = setting.name
    wanted = {bool: "true or false", int: "a whole number", float: "a number", str: "a word"}[kind]
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not kind:
        raise ValueError(f"{name} must be {wanted}, got {value!r}")
    if isinstance(value, str) and about["choices"] and value not in about["choices"]:
        raise ValueError(f"{name}: unknown choice {value!r}{did_you_mean(value, about['choices'])}")
    if isinstance(value, int | float) and not isinstance(value, bool):
        low, high = about["low"], about["high"]
        below = low is not None and (value <= low if about["open_low"] else value < low)
        if value != value or below or (high is not None and value > high):
            left = "(-inf" if low is None else f"{'(' if about['open_low'] else '['}{low:g}"
            right = "inf)" if high is None else f"{high:g}]"
            raise ValueError(f"{name} must be in {left}, {right}, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Base of all groups of settings: values are checked against their declared ranges."""

    def __post_init__(self) -> None:
        for setting in fields(self):
            check_value(setting, getattr(self, setting.name))


@dataclass(frozen=True, kw_only=True)
class Training(Settings):
    """What every trial has, whatever its method."""

    steps: int = knob(200, "optimizer steps of the main phase", low=1, unit="step")
    batch_size: int = knob(32, "end-task examples a step, over all ranks", low=1, unit="example")
    aux_batch_size: int = knob(32, "auxiliary examples a step, shared by its objectives", low=1, unit="example")
    lr: float = knob(5e-4, "peak learning rate of the body", low=0, open_low=True)
    head_lr: float = knob(1e-3, "peak learning rate of the heads", low=0, open_low=True)
    weight_decay: float = knob(0.01, "AdamW decay of the body (none on biases and norms)", low=0)
    head_weight_decay: float = knob(0.1, "AdamW decay of the heads (AANG's code)", low=0)
    warmup: float = knob(0.06, "share of the steps with a rising learning rate; it falls linearly after", low=0, high=1)
    clip: float = knob(1.0, "largest norm of the combined gradient; 0 never clips", low=0)
    dropout: float = knob(0.1, "dropout of body and heads", low=0, high=0.9)
    max_length: int = knob(64, "tokens kept of a text, special ones included", low=4, unit="token")
    select_probability: float = knob(0.15, "chance that a transform selects a token", low=0, high=1, open_low=True)
    eval_every: int = knob(20, "steps between evaluations on select-dev", low=1, unit="step")
    patience: int = knob(0, "evaluations without a new best before a phase ends; 0 never", low=0, unit="evaluation")
    checkpoint_every: int = knob(0, "steps between checkpoints; 0 at every evaluation", low=0, unit="step")
    micro_batches: int = knob(1, "parts that a step's rows go through the encoder in, one after another", low=1)
    recompute: bool = knob(False, "keep no activations of the encoder's layers, compute them again on the way back")
    engine: str = knob(
        "auto",
        "single gradients from layers' products, or by a backward each (the reference, and auto where a body mixes "
        "rows); or their products with the dev gradient alone, by jvp (exact) or finite difference",
        choices=("auto", "products", "jvp", "difference", "backward"),
    )
    precision: str = knob("float32", "arithmetic of the forward pass", choices=("float32", "bfloat16"))
    weights_every: int = knob(1, "fewest steps between two entries of the weights table", low=1, unit="step")
    lm_head: str = knob(
        "tied",
        "decoder of a head over the vocabulary: tied to the embeddings; shared, one tied head for each output; "
        "low_rank, tied plus a correction of rank lm_rank; untied, a copy (the papers)",
        choices=("tied", "shared", "low_rank", "untied"),
    )
    lm_rank: int = knob(8, "rank of the correction of lm_head 'low_rank'", low=1)


@dataclass(frozen=True, kw_only=True)
class NoSettings(Settings):
    """A method without settings of its own."""


@dataclass(frozen=True, kw_only=True)
class Sampling(Settings):
    """Which objectives take part in a step."""

    objectives_per_step: int = knob(3, "objectives sampled a step, without replacement; 0 takes all", low=0)
    sample_every: str = knob(
        "step",
        "sample once a step (AANG, Algorithm 1), or once for each of its micro_batches (its code)",
        choices=("step", "micro_step"),
    )


@dataclass(frozen=True, kw_only=True)
class Balance(Settings):
    """The end task's weight against that of its auxiliaries."""

    lambda_e: float = knob(0.5, "weight of the end task in the total loss; auxiliaries share the rest", low=0, high=1)


@dataclass(frozen=True, kw_only=True)
class Static(Sampling, Balance):
    """Equal weights, fixed lambda_e."""


@dataclass(frozen=True, kw_only=True)
class EtaPrim(Sampling):
    """ATTITTUD's own sum: g~_aux + eta_prim g_prim."""

    eta_prim: float = knob(1.0, "factor of the end task's gradient beside g~_aux (ATTITTUD, section 3)", low=0)
    eta_prim_form: str = knob(
        "factor",
        "factor: g~_aux + eta_prim g_prim (the paper); count_ratio: that over 1 + eta_prim (its code)",
        choices=("factor", "count_ratio"),
    )


@dataclass(frozen=True, kw_only=True)
class Similarity(Settings):
    """How gradients are compared."""

    similarity: str = knob("cosine", "how a gradient is compared with the end task's", choices=("cosine", "dot"))


@dataclass(frozen=True, kw_only=True)
class MetaBatch(Settings):
    """The rows of meta-dev that a gradient is taken on."""

    meta_batch_size: int = knob(32, "meta-dev examples of a meta-gradient, none of a dev head's", low=1, unit="example")


@dataclass(frozen=True, kw_only=True)
class DevHead(MetaBatch):
    """The separate head phi* through which the body is asked what helps (META-TARTAN, section 2.2 of AANG's App. B)."""

    dev_head_examples: int = knob(32, "examples that the dev head is fitted on", low=1, unit="example")
    dev_head_split: str = knob(
        "meta_dev",
        "where those are from: meta-dev (META-TARTAN), or the training data (AANG's code)",
        choices=("meta_dev", "train"),
    )
    dev_head_lr: float = knob(1e-2, "AdamW rate of the dev head", low=0, open_low=True)
    dev_head_decay: float = knob(0.1, "AdamW decay of the dev head", low=0)
    dev_head_steps: int = knob(10, "most full-batch steps of a fit", low=1, unit="step")
    dev_head_tolerance: float = knob(1e-3, "a fit ends when the loss changes by less", low=0, unit="nat")


@dataclass(frozen=True, kw_only=True)
class MetaGradient(DevHead, Similarity):
    """Weights that follow the similarity of each task's gradient to the dev gradient."""

    through_softmax: bool = knob(False, "differentiate the weights (papers); else a logit gets its similarity (code)")
    task_clip: float = knob(
        0.0, "largest norm of a task's gradient once compared; 0 never clips (AANG's code: 10)", low=0
    )
    batch_split: str = knob(
        "weight",
        "rows of each objective: by its weight, equally many, or by the shares of its primitives (AANG's code)",
        choices=("weight", "equal", "hierarchical"),
    )


@dataclass(frozen=True, kw_only=True)
class MetaTartan(MetaGradient):
    """META-TARTAN: one softmax over the end task and every objective."""

    lr_tasks: float = knob(1e-2, "rate of the task logits (SGD)", low=0)


@dataclass(frozen=True, kw_only=True)
class Aang(Static, MetaGradient):
    """AANG: factored objective weights and lambda_e learned from meta-gradients."""

    lr_weights: float = knob(0.1, "rate of W^All, W^D, W^T, W^R, W^O (the authors' auxlr; SGD)", low=0)
    lr_lambda: float = knob(0.1, "rate of what is behind lambda_e (the authors' soptlr; SGD); 0 keeps it", low=0)
    factored: bool = knob(True, "share weights between objectives with a primitive in common; else W^All alone")
    weight_form: str = knob(
        "joint",
        "joint: one softmax over the sampled objectives (the paper); hierarchical: the product of each primitive's "
        "share among its siblings and a softmax of W^All + W^O, which sums to about 1/n (its code)",
        choices=("joint", "hierarchical"),
    )
    lambda_form: str = knob(
        "softmax",
        "softmax: of two logits, one for each side (AANG's code); scalar: lambda_e itself, held in [0, 1] (the paper)",
        choices=("softmax", "scalar"),
    )
    meta_every: int = knob(1, "steps between moves of the weights", low=1, unit="step")
    meta_mean: bool = knob(
        False, "move by the mean of all steps since the last move (AANG's code); else look at every meta_every-th alone"
    )


@dataclass(frozen=True, kw_only=True)
class Attittud(Settings):
    """ATTITTUD: the auxiliary gradient split along the end task's leading directions."""

    eta_perp: float = knob(1.0, "factor of the part outside the end task's subspace")
    eta_pos: float = knob(1.0, "factor of the part that agrees with the end task")
    eta_neg: float = knob(-1.0, "factor of the part that opposes the end task")
    k: int = knob(5, "rank of the end task's subspace, at most m", low=1)
    m: int = knob(32, "end-task examples whose gradients span the subspace", low=1, unit="example")
    basis_every: int = knob(1, "steps that a basis is kept (the paper's n)", low=1, unit="step")
    basis: str = knob(
        "exact",
        "what spans the subspace: exact (SVD), randomized_svd (the paper), range_finder (its code), random, "
        "unit_average (the end task's own gradient: PCGrad's), canonical (every parameter a direction)",
        choices=("exact", "randomized_svd", "range_finder", "random", "unit_average", "canonical"),
    )
    oversample: int = knob(5, "directions sketched beyond k by randomized_svd", low=0)
    power_iterations: int = knob(1, "multiplications by J^T J before the sketch of randomized_svd", low=0)
    basis_rows: str = knob("fresh", "spanned by fresh examples (code) or the step's", choices=("fresh", "same"))
    scope: str = knob(
        "body",
        "parameters that are cut: the shared body, its last layers, each layer by itself, or heads too (vision code)",
        choices=("body", "last", "per_layer", "all"),
    )
    last_layers: int = knob(2, "layers of scope 'last'", low=1)
    batch_norm: str = knob(
        "frozen",
        "a body with BatchNorm has no per-example gradients: take its statistics as constants, or rows as coupled",
        choices=("frozen", "coupled"),
    )


@dataclass(frozen=True, kw_only=True)
class FineTune(Settings):
    """A last phase on the end task alone."""

    finetune_steps: int = knob(50, "steps on the end task alone", low=1, unit="step")
    finetune_lr: float = knob(1e-4, "constant rate of body and head in that phase", low=0, open_low=True)


@dataclass(frozen=True, kw_only=True)
class Retrain(Settings):
    """A second run from the first parameters, with the weights that the first one learned."""

    retrain_steps: int = knob(200, "steps of the second run, at the rates of the first", low=1, unit="step")


@dataclass(frozen=True, kw_only=True)
class Pretrain(Settings):
    """A first phase on the auxiliary objectives alone."""

    pretrain_steps: int = knob(100, "steps on the auxiliary objectives alone", low=1, unit="step")
    pretrain_lr: float = knob(5e-4, "peak learning rate of the body in that phase", low=0, open_low=True)


@dataclass(frozen=True, kw_only=True)
class Branches(Settings):
    """Branches that train by themselves from common parameters, and are mixed: a round."""

    rho: float = knob(
        1.0, "share of a pass over its task's data that a branch trains on in a round", low=0, high=1, open_low=True
    )
    pass_steps: int = knob(0, "steps of a pass; 0: rows of the task's data over its batch size", low=0, unit="step")
    branch_optimizer: str = knob(
        "fresh", "AdamW begins anew in every round, or a branch keeps its moments", choices=("fresh", "kept")
    )
    delta_precision: str = knob(
        "float32", "in what the changes of each branch are kept", choices=("float32", "bfloat16")
    )
    delta_place: str = knob(
        "device", "where they are kept: with the parameters, or on the CPU", choices=("device", "cpu")
    )


@dataclass(frozen=True, kw_only=True)
class AlphaVIL(Branches):
    """alphaVIL: weights from how much of each task's change helps the end task."""

    alpha_optimizer: str = knob(
        "gd",
        "what finds the alphas on meta-dev: gradient descent, one Newton step, or a simplex without gradients",
        choices=("gd", "newton", "black_box"),
    )
    alpha_steps: int = knob(10, "gradient steps on the alphas; of black_box, points tried for each branch", low=0)
    alpha_lr: float = knob(5e-3, "learning rate of the alphas under gd", low=0)
    alpha_batch_size: int = knob(32, "meta-dev rows of a gradient of the alphas; 0 all", low=0, unit="example")
    alpha_reach: float = knob(2.0, "farthest that an alpha may be from 1", low=0, open_low=True)
    alpha_accept: str = knob(
        "always",
        "take the alphas as found; or only where the loss on all of meta-dev is not above that at 1 (ours)",
        choices=("always", "better"),
    )
    weight_floor: float = knob(0.01, "least weight of a task; one that falls to 0 trains no more", low=0)
    renormalise: bool = knob(False, "bring the weights to a mean of 1 after every round")
    normalise_deltas: bool = knob(False, "scale what the branches changed to one length")
    weight_scales: str = knob(
        "rate",
        "a task's weight multiplies its learning rate, or its loss, which AdamW hardly feels",
        choices=("rate", "loss"),
    )


@dataclass(frozen=True, kw_only=True)
class DIW(Branches):
    """DIW, a re-interpretation: weights from what a further pass on each task alone brings the end task."""

    diw_rate: float = knob(0.1, "most that a weight moves in a round", low=0)
    diw_gain: str = knob("loss", "what is gained on meta-dev: metric, or less loss", choices=("score", "loss"))


@dataclass(frozen=True, kw_only=True)
class ForkMerge(Branches):
    """ForkMerge: branches of different tasks, merged as scores best on meta-dev."""

    fork_branches: str = knob(
        "each", "beside the end task alone: it with each objective, or with all of them", choices=("each", "together")
    )
    merge_points: int = knob(5, "parts that the grid of a coefficient has (the paper's 0, 0.2, ..., 1)", low=1)
    prune_after: int = knob(0, "merges after which branches without a part are dropped; 0 never", low=0)
    keep_branches: int = knob(0, "most branches kept then beside the end task's; 0 all that have a part", low=0)
