"""Settings of the schedules."""

from __future__ import annotations

from dataclasses import dataclass

from raysearch.schema.fields import Settings, setting


@dataclass(frozen=True, kw_only=True)
class FineTuneSettings(Settings):
    """A last phase on the end task alone."""

    finetune_steps: int = setting(50, "steps on the end task alone", low=1, unit="step", is_phase_length=True)
    finetune_lr: float = setting(1e-4, "constant learning rate of body and head in that phase", low=0, open_low=True)


@dataclass(frozen=True, kw_only=True)
class RetrainSettings(Settings):
    """A second run from the initial parameters, with the weights that the first run learned."""

    retrain_steps: int = setting(
        200, "steps of the second run, at the learning rates of the first", low=1, unit="step", is_phase_length=True
    )


@dataclass(frozen=True, kw_only=True)
class PretrainSettings(Settings):
    """A first phase on the auxiliary objectives alone."""

    pretrain_steps: int = setting(
        100, "steps on the auxiliary objectives alone", low=1, unit="step", is_phase_length=True
    )
    pretrain_lr: float = setting(5e-4, "peak learning rate of the body in that phase", low=0, open_low=True)


@dataclass(frozen=True, kw_only=True)
class ProbeSettings(Settings):
    """A phase that fits the end task's last layer to the fixed encoder."""

    probe_c: float = setting(
        30.0,
        "inverse strength of the L2 penalty of the logistic regression, on vectors with a mean squared norm of 1",
        low=0,
        open_low=True,
    )
    guess_weight: float = setting(
        0.0,
        "weight of an unlabelled text of the domain whose class the layer guesses surely, against a labelled one; the "
        "guesses are learned, too; 0: no guesses",
        low=0,
        high=1,
        is_late=True,
    )


@dataclass(frozen=True, kw_only=True)
class ContrastSettings(ProbeSettings):
    """A first phase that trains the encoder on pairs of labelled examples, before the probe."""

    contrast_steps: int = setting(100, "steps on pairs of examples", low=1, unit="step", is_phase_length=True)
    contrast_pairs: int = setting(
        16, "pairs of a step, over all ranks: half of them of one label, half of two", low=2, unit="pair"
    )
    contrast_lr: float = setting(
        2e-5, "peak learning rate of the encoder in that phase (SetFit's code; 1e-3 in its paper)", low=0, open_low=True
    )
