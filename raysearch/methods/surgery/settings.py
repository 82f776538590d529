"""Settings of the surgeries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from raysearch.schema.fields import Settings, Value, setting


@dataclass(frozen=True, kw_only=True)
class ConflictSettings(Settings):
    """The setting that all surgeries have which compare gradients."""

    conflict_between: str = setting(
        "objectives",
        "compare the end task's gradient with that of each objective, or with the sum of theirs",
        choices=("objectives", "sum"),
    )


@dataclass(frozen=True, kw_only=True)
class GCSSettings(ConflictSettings):
    """Gradient cosine similarity: an auxiliary gradient counts as far as it agrees with that of the end task."""

    gcs_gate: str = setting(
        "weighted",
        "weighted: max(0, cosine); unweighted: 1 if the cosine is >= 0, else 0",
        choices=("weighted", "unweighted"),
    )


@dataclass(frozen=True, kw_only=True)
class CAGradSettings(ConflictSettings):
    """CAGrad: the direction near the mean gradient whose smallest gain is largest."""

    cagrad_c: float = setting(0.5, "distance from the mean gradient, as a share of its norm; 0: the mean", low=0)


@dataclass(frozen=True, kw_only=True)
class AlignedMTLSettings(ConflictSettings):
    """Aligned-MTL: the principal components of the gradients are scaled to one length."""

    aligned_mtl_scale: str = setting(
        "min",
        "the singular value to which all are scaled; rmse as in the authors' code",
        choices=("min", "median", "rmse"),
    )


@dataclass(frozen=True, kw_only=True)
class FairGradSettings(ConflictSettings):
    """FairGrad: alpha-fair gains."""

    fairgrad_alpha: float = setting(
        1.0, "1: proportional fairness; larger values approach max-min fairness", low=0, open_low=True
    )


@dataclass(frozen=True, kw_only=True)
class NashMTLSettings(ConflictSettings):
    """Nash-MTL: the Nash bargaining solution."""

    nash_update_every: int = setting(1, "steps between solutions of the bargaining problem", low=1, unit="step")
    nash_iterations: int = setting(20, "largest number of convex problems solved for one solution", low=1)


@dataclass(frozen=True, kw_only=True)
class GradVacSettings(ConflictSettings):
    """GradVac: gradients are aligned to the moving average of their cosines."""

    gradvac_beta: float = setting(
        0.5, "share of a step's cosine in the moving average (LibMTL's default)", low=0, high=1
    )


@dataclass(frozen=True, kw_only=True)
class PCDSettings(ConflictSettings):
    """PCD: the direction of the end task, with a guaranteed share of progress for every auxiliary objective."""

    pcd_tau: float = setting(
        0.02, "guaranteed progress of an auxiliary objective, as a share of that along its own gradient", low=0, high=1
    )
    pcd_beta: float = setting(0.999, "decay of the moving average of the squared norms", low=0, high=0.99999)


@dataclass(frozen=True, kw_only=True)
class AttittudSettings(Settings):
    """ATTITTUD: the auxiliary gradient is split along the leading directions of the end task."""

    eta_perp: float = setting(1.0, "factor of the part outside the end task's subspace")
    eta_pos: float = setting(1.0, "factor of the part that agrees with the end task")
    eta_neg: float = setting(-1.0, "factor of the part that opposes the end task")
    k: int = setting(5, "rank of the end task's subspace, at most m", low=1)
    m: int = setting(32, "end-task examples whose gradients span the subspace", low=1, unit="example")
    basis_every: int = setting(1, "steps between computations of the basis (the paper's n)", low=1, unit="step")
    basis: str = setting(
        "exact",
        "what spans the subspace: exact (SVD), randomized_svd (the paper), range_finder (its code), random, "
        "unit_average (the end task's gradient, as in PCGrad), canonical (every parameter is a direction)",
        choices=("exact", "randomized_svd", "range_finder", "random", "unit_average", "canonical"),
    )
    oversample: int = setting(5, "directions that randomized_svd sketches in addition to k", low=0)
    power_iterations: int = setting(1, "multiplications by J^T J before the sketch of randomized_svd", low=0)
    basis_rows: str = setting(
        "fresh", "span it by fresh examples (code) or by those of the step (same)", choices=("fresh", "same")
    )
    sign_gradient: str = setting(
        "step",
        "the end-task gradient by which directions agree or oppose: that of the step, with its dropout (step), or the "
        "mean of the examples' gradients that span the subspace, a gradient of the same function (basis, Algorithm 1)",
        choices=("step", "basis"),
        is_late=True,
    )
    scope: str = setting(
        "body",
        "parameters whose gradient is projected: the shared body, its last layers, each layer separately, or heads too "
        "(vision code)",
        choices=("body", "last", "per_layer", "all"),
    )
    last_layers: int = setting(2, "number of layers of scope 'last'", low=1)
    batch_norm: str = setting(
        "frozen",
        "statistics of BatchNorm in per-example gradients: frozen, its running statistics as constants; coupled, those "
        "of the batch, as in the gradients that are cut; its examples then depend on each other",
        choices=("frozen", "coupled"),
    )


SPANNED_BY_EXAMPLES = ("exact", "randomized_svd", "range_finder")


def why_no_subspace(settings: Mapping[str, Value]) -> str | None:
    """Returns why ATTITTUD's subspace does not exist under these settings; None if it does."""
    k, basis = settings.get("k"), settings.get("basis")
    m, meaning = settings.get("m"), "m, the examples that span the subspace"
    if settings.get("basis_rows") == "same":
        batch_size = settings.get("batch_size")
        if m not in (None, AttittudSettings.m, batch_size) and basis in (None, *SPANNED_BY_EXAMPLES):
            return f"m has no meaning with basis_rows 'same', which takes the step's examples: leave it out (m {m})"
        m, meaning = batch_size, "batch_size, whose examples span the subspace"
    if basis == "canonical":
        return (
            None
            if k in (None, AttittudSettings.k)
            else f"k has no meaning with basis 'canonical': leave it out (k {k})"
        )
    if basis == "unit_average":
        return None if k in (None, 1, AttittudSettings.k) else f"basis 'unit_average' is one direction: k is 1, not {k}"
    if isinstance(k, int) and isinstance(m, int) and k > m and basis != "random":
        return f"k must be at most {meaning}: k {k}, {meaning.split(',')[0]} {m}"
    return None


def why_too_few_examples(settings: Mapping[str, Value], examples: int) -> str | None:
    """Returns why the gradients of so many training examples cannot span ATTITTUD's subspace; None if they can."""
    k, is_spanned = settings["k"], settings["basis"] in SPANNED_BY_EXAMPLES
    if is_spanned and int(k) > examples:
        return f"k must be at most the {examples} training examples, whose gradients span the subspace: k {k}"
    return None
