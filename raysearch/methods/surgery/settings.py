"""Settings of the surgeries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from raysearch.schema.fields import Settings, Value, setting


@dataclass(frozen=True, kw_only=True)
class ConflictSettings(Settings):
    """What every surgery between the gradients of a step is set to."""

    conflict_between: str = setting(
        "objectives",
        "the end task's gradient and each objective's; or and the sum of theirs",
        choices=("objectives", "sum"),
    )


@dataclass(frozen=True, kw_only=True)
class GCSSettings(ConflictSettings):
    """Gradient cosine similarity: an auxiliary takes part as far as it agrees with the end task."""

    gcs_gate: str = setting(
        "weighted", "max(0, cosine); or 1 where the cosine is >= 0, else 0", choices=("weighted", "unweighted")
    )


@dataclass(frozen=True, kw_only=True)
class CAGradSettings(ConflictSettings):
    """CAGrad: the worst-off gradient gains most, near the mean gradient."""

    cagrad_c: float = setting(0.5, "how far from the mean gradient, as a share of its norm; 0 is the mean", low=0)


@dataclass(frozen=True, kw_only=True)
class AlignedMTLSettings(ConflictSettings):
    """Aligned-MTL: the gradients' principal components brought to one length."""

    aligned_mtl_scale: str = setting(
        "min",
        "the singular value to which all are brought; rmse as in the authors' code",
        choices=("min", "median", "rmse"),
    )


@dataclass(frozen=True, kw_only=True)
class FairGradSettings(ConflictSettings):
    """FairGrad: alpha-fair gains."""

    fairgrad_alpha: float = setting(1.0, "1 is proportionally fair; larger is closer to max-min", low=0, open_low=True)


@dataclass(frozen=True, kw_only=True)
class NashMTLSettings(ConflictSettings):
    """Nash-MTL: the bargaining solution."""

    nash_update_every: int = setting(1, "steps between bargains", low=1, unit="step")
    nash_iterations: int = setting(20, "most convex problems solved for a bargain", low=1)


@dataclass(frozen=True, kw_only=True)
class GradVacSettings(ConflictSettings):
    """GradVac: gradients brought to the cosine that they have had so far."""

    gradvac_beta: float = setting(
        0.5, "share of a step's cosine in its moving average (LibMTL's default)", low=0, high=1
    )


@dataclass(frozen=True, kw_only=True)
class PCDSettings(ConflictSettings):
    """PCD: the end task's direction, and a share of every auxiliary's progress for certain."""

    pcd_tau: float = setting(
        0.02, "share of the progress along its own gradient that an auxiliary is due", low=0, high=1
    )
    pcd_beta: float = setting(0.999, "decay of the moving average of the squared norms", low=0, high=0.99999)


@dataclass(frozen=True, kw_only=True)
class AttittudSettings(Settings):
    """ATTITTUD: the auxiliary gradient split along the end task's leading directions."""

    eta_perp: float = setting(1.0, "factor of the part outside the end task's subspace")
    eta_pos: float = setting(1.0, "factor of the part that agrees with the end task")
    eta_neg: float = setting(-1.0, "factor of the part that opposes the end task")
    k: int = setting(5, "rank of the end task's subspace, at most m", low=1)
    m: int = setting(32, "end-task examples whose gradients span the subspace", low=1, unit="example")
    basis_every: int = setting(1, "steps that a basis is kept (the paper's n)", low=1, unit="step")
    basis: str = setting(
        "exact",
        "what spans the subspace: exact (SVD), randomized_svd (the paper), range_finder (its code), random, "
        "unit_average (the end task's own gradient: PCGrad's), canonical (every parameter a direction)",
        choices=("exact", "randomized_svd", "range_finder", "random", "unit_average", "canonical"),
    )
    oversample: int = setting(5, "directions sketched beyond k by randomized_svd", low=0)
    power_iterations: int = setting(1, "multiplications by J^T J before the sketch of randomized_svd", low=0)
    basis_rows: str = setting("fresh", "spanned by fresh examples (code) or the step's", choices=("fresh", "same"))
    scope: str = setting(
        "body",
        "parameters that are cut: the shared body, its last layers, each layer by itself, or heads too (vision code)",
        choices=("body", "last", "per_layer", "all"),
    )
    last_layers: int = setting(2, "layers of scope 'last'", low=1)
    batch_norm: str = setting(
        "frozen",
        "a body with BatchNorm has no per-example gradients: take its statistics as constants, or rows as coupled",
        choices=("frozen", "coupled"),
    )


def why_no_subspace(settings: Mapping[str, Value]) -> str | None:
    """Returns why ATTITTUD's subspace does not exist under these settings; None if it does."""
    k, basis = settings.get("k"), settings.get("basis")
    m, meaning = settings.get("m"), "m, the examples that span the subspace"
    if settings.get("basis_rows") == "same":
        m, meaning = settings.get("batch_size"), "batch_size, whose examples span the subspace"
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
