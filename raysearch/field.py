"""Settings of the field's weightings and surgeries (docs/guide/methods.md), as those of `settings`."""

from __future__ import annotations

from dataclasses import dataclass

from raysearch.settings import Balance, Branches, MetaBatch, Sampling, Settings, Similarity, Static, knob


@dataclass(frozen=True, kw_only=True)
class Uncertainty(Sampling):
    """Uncertainty weighting: a log-variance for each task."""

    lr_uncertainty: float = knob(0.02, "rate of the log-variances (SGD)", low=0, high=1)


@dataclass(frozen=True, kw_only=True)
class DWA(Settings):
    """Dynamic weight average: how fast losses fall."""

    dwa_window: int = knob(20, "steps whose mean loss stands for the paper's epoch", low=1, unit="step")
    dwa_temperature: float = knob(2.0, "temperature of the softmax over the ratios of losses", low=0, open_low=True)


@dataclass(frozen=True, kw_only=True)
class GradNorm(Settings):
    """GradNorm: norms of gradients in proportion to training rates."""

    gradnorm_alpha: float = knob(1.5, "how much slower tasks are favoured; 0 makes norms alike", low=0)
    lr_gradnorm: float = knob(0.025, "rate of the weights, which sum to the number of tasks (SGD)", low=0)


@dataclass(frozen=True, kw_only=True)
class FAMO(Settings):
    """FAMO: all losses' logarithms fall alike."""

    lr_famo: float = knob(0.025, "rate of the task logits (Adam)", low=0)
    famo_decay: float = knob(1e-3, "weight decay of the task logits (the paper's gamma; its code has 1e-5)", low=0)


@dataclass(frozen=True, kw_only=True)
class RLW(Sampling):
    """Random loss weighting."""


@dataclass(frozen=True, kw_only=True)
class OlAux(Balance, Similarity):
    """OL-AUX: weights moved by the agreement of training gradients."""

    ol_aux_steps: int = knob(5, "steps whose similarities move the weights (the paper's N)", low=1, unit="step")
    lr_ol_aux: float = knob(0.1, "rate of the weights, which begin at 1 (the paper's beta)", low=0)


@dataclass(frozen=True, kw_only=True)
class DGA(Balance, MetaBatch, Similarity):
    """DGA: exponentiated gradient on the agreement with the dev gradient through the end task's own head."""

    lr_dga: float = knob(0.5, "step of the exponentiated gradient (the paper's eta)", low=0)
    dga_ema: float = knob(0.1, "share of the new weights in their moving average; 1 is none (DoGE)", low=0, high=1)
    dga_every: int = knob(5, "steps between looks at the dev gradient", low=1, unit="step")


@dataclass(frozen=True, kw_only=True)
class AuxiNash(MetaBatch):
    """AuxiNash: a bargain under learned preferences."""

    lr_preference: float = knob(5e-3, "rate of the preferences (SGD with momentum)", low=0)
    preference_every: int = knob(25, "steps between moves of the preferences", low=1, unit="step")


@dataclass(frozen=True, kw_only=True)
class Conflict(Settings):
    """What every surgery between the gradients of a step is set to."""

    conflict_between: str = knob(
        "objectives",
        "the end task's gradient and each objective's; or and the sum of theirs",
        choices=("objectives", "sum"),
    )


@dataclass(frozen=True, kw_only=True)
class GCS(Conflict):
    """Gradient cosine similarity: an auxiliary takes part as far as it agrees with the end task."""

    gcs_gate: str = knob(
        "weighted", "max(0, cosine); or 1 where the cosine is >= 0, else 0", choices=("weighted", "unweighted")
    )


@dataclass(frozen=True, kw_only=True)
class CAGrad(Conflict):
    """CAGrad: the worst-off gradient gains most, near the mean gradient."""

    cagrad_c: float = knob(0.5, "how far from the mean gradient, as a share of its norm; 0 is the mean", low=0)


@dataclass(frozen=True, kw_only=True)
class AlignedMTL(Conflict):
    """Aligned-MTL: the gradients' principal components brought to one length."""

    aligned_mtl_scale: str = knob(
        "min",
        "the singular value to which all are brought; rmse as in the authors' code",
        choices=("min", "median", "rmse"),
    )


@dataclass(frozen=True, kw_only=True)
class FairGrad(Conflict):
    """FairGrad: alpha-fair gains."""

    fairgrad_alpha: float = knob(1.0, "1 is proportionally fair; larger is closer to max-min", low=0, open_low=True)


@dataclass(frozen=True, kw_only=True)
class NashMTL(Conflict):
    """Nash-MTL: the bargaining solution."""

    nash_update_every: int = knob(1, "steps between bargains", low=1, unit="step")
    nash_iterations: int = knob(20, "most convex problems solved for a bargain", low=1)


@dataclass(frozen=True, kw_only=True)
class GradVac(Conflict):
    """GradVac: gradients brought to the cosine that they have had so far."""

    gradvac_beta: float = knob(0.5, "share of a step's cosine in its moving average (LibMTL's default)", low=0, high=1)


@dataclass(frozen=True, kw_only=True)
class PCD(Conflict):
    """PCD: the end task's direction, and a share of every auxiliary's progress for certain."""

    pcd_tau: float = knob(0.02, "share of the progress along its own gradient that an auxiliary is due", low=0, high=1)
    pcd_beta: float = knob(0.999, "decay of the moving average of the squared norms", low=0, high=0.99999)


@dataclass(frozen=True, kw_only=True)
class LeftOut(MetaBatch):
    """Labelled rows of meta-dev and train, each scored by the least-squares head that the others give."""

    gate_train_rows: int = knob(32, "training examples beside those of meta-dev, left out in turn too", low=0)
    gate_ridge: float = knob(0.1, "ridge of the dev head, in mean squares of its inputs", low=0, open_low=True)


@dataclass(frozen=True, kw_only=True)
class Gates(Static, LeftOut, Similarity):
    """Gates, raysearch's own: every objective by itself, on evidence from labelled rows that are left out in turn."""

    lr_gates: float = knob(4.0, "rate of the evidence", low=0)
    gate_margin: float = knob(8e-3, "similarity that leaves a gate where it is; less closes it")
    gate_start: float = knob(-1.4, "evidence at first; a gate is its sigmoid")
    gate_limit: float = knob(6.0, "largest evidence for or against an objective", low=0)


@dataclass(frozen=True, kw_only=True)
class Probes(Branches, Balance, LeftOut):
    """Probes, raysearch's own: a short training on each objective alone says whether it takes part."""

    probe_rate: float = knob(1.0, "factor of the learning rates while it probes", low=0, open_low=True)
    probe_margin: float = knob(
        1.0, "standard errors of gain on left-out rows that shut an objective out; one more, and it takes part in full"
    )
