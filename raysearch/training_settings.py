"""The settings that every trial has."""

from __future__ import annotations

from dataclasses import dataclass

from raysearch.schema.fields import Settings, setting

# what a trial must have for a setting to be used
AUXILIARIES = "auxiliary objectives"
JOINT_PHASE = "a phase that trains the end task and its auxiliaries together"
MAIN_PHASE = "a main phase"
OPTIMIZER_STEPS = "a phase that takes optimizer steps"

# settings of what is trained of an encoder made of layers
LAYER_SETTINGS = ("encoder_layers", "trained_layers", "lora_rank", "cache_states", "layer_decay", "reinit_layers")


@dataclass(frozen=True, kw_only=True)
class TeacherSettings(Settings):
    """The settings of the teacher that guesses labels, where an objective learns from one."""

    teacher: str = setting(
        "ensemble",
        "who guesses labels: ensemble, logistic regressions on the encoder's first vectors and on TF-IDF, fitted to "
        "the trial's training rows; average, the moving average of the trial's own weights; file, that of teacher_path",
        choices=("ensemble", "average", "file"),
        needs=AUXILIARIES,
        is_late=True,
    )
    teacher_path: str = setting(
        "",
        "the teacher `file`: JSONL, CSV, TSV or Parquet with text or row, and label or a probability of each class",
        needs=AUXILIARIES,
        is_late=True,
    )
    teacher_decay: float = setting(
        0.99,
        "decay of the moving average that is the teacher `average`",
        low=0,
        high=0.9999,
        needs=AUXILIARIES,
        is_late=True,
    )
    guess_purity: float = setting(
        0.8,
        "share of right guesses, estimated class by class on the labelled rows, below which guesses are not used",
        low=0,
        high=1,
        needs=AUXILIARIES,
        is_late=True,
    )
    guess_pool: int = setting(
        4000,
        "unlabelled examples that a teacher looks at, at most",
        low=1,
        unit="example",
        needs=AUXILIARIES,
        is_late=True,
    )
    guess_guard: str = setting(
        "auto",
        "auto: no guess is used where a classifier that learns them is worse on labelled rows not seen; off",
        choices=("auto", "off"),
        needs=AUXILIARIES,
        is_late=True,
    )


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(TeacherSettings):
    """The settings that every trial has."""

    steps: int = setting(
        200, "optimizer steps of the main phase", low=1, unit="step", is_phase_length=True, needs=MAIN_PHASE
    )
    batch_size: int = setting(
        32, "end-task examples of a step, over all ranks", low=1, unit="example", needs=MAIN_PHASE
    )
    aux_batch_size: int = setting(
        32, "auxiliary examples of a step, split over its objectives", low=1, unit="example", needs=AUXILIARIES
    )
    lr: float = setting(5e-4, "peak learning rate of the body", low=0, open_low=True, needs=MAIN_PHASE)
    head_lr: float = setting(1e-3, "peak learning rate of the heads", low=0, open_low=True, needs=MAIN_PHASE)
    weight_decay: float = setting(
        0.01, "AdamW weight decay of the body (none on biases and norms)", low=0, needs=OPTIMIZER_STEPS
    )
    head_weight_decay: float = setting(0.1, "AdamW weight decay of the heads (AANG's code)", low=0, needs=MAIN_PHASE)
    warmup: float = setting(
        0.06,
        "share of the steps during which the learning rate rises; it falls linearly after them",
        low=0,
        high=1,
        needs=OPTIMIZER_STEPS,
    )
    clip: float = setting(
        1.0, "norm to which the combined gradient is clipped; 0 never clips", low=0, needs=OPTIMIZER_STEPS
    )
    dropout: float = setting(0.1, "dropout of body and heads", low=0, high=0.9, needs=OPTIMIZER_STEPS)
    head_dropout: float = setting(
        -1.0, "dropout of the heads alone; -1: as `dropout`", low=-1, high=0.9, needs=OPTIMIZER_STEPS, is_late=True
    )
    clip_apart: bool = setting(
        False, "clip body and heads each by itself (AANG's code)", needs=OPTIMIZER_STEPS, is_late=True
    )
    max_length: int = setting(64, "tokens to which a text is truncated, with the special ones", low=4, unit="token")
    select_probability: float = setting(
        0.15, "probability that a transform selects a token", low=0, high=1, open_low=True, needs=AUXILIARIES
    )
    eval_every: int = setting(20, "steps between evaluations on select-dev", low=1, unit="step", needs=MAIN_PHASE)
    patience: int = setting(
        0,
        "evaluations without a new best score after which a phase ends; 0: never",
        low=0,
        unit="evaluation",
        needs=MAIN_PHASE,
    )
    checkpoint_every: int = setting(
        0, "steps between checkpoints; 0: at every evaluation", low=0, unit="step", needs=OPTIMIZER_STEPS
    )
    micro_batches: int = setting(
        1,
        "parts into which the batch is divided; they go through the encoder one after another",
        low=1,
        needs=OPTIMIZER_STEPS,
    )
    recompute: bool = setting(
        False,
        "activation checkpointing: recompute the activations of the encoder's layers in the backward pass",
        needs=OPTIMIZER_STEPS,
    )
    engine: str = setting(
        "auto",
        "products: all gradients from the layers' inputs and output gradients; backward: a backward pass for each (the "
        "reference, and auto for a body that mixes examples); jvp (exact) and difference (finite): only their products "
        "with the dev gradient",
        choices=("auto", "products", "jvp", "difference", "backward"),
        needs=MAIN_PHASE,
    )
    precision: str = setting(
        "float32", "arithmetic of the forward pass", choices=("float32", "bfloat16"), needs=OPTIMIZER_STEPS
    )
    weights_every: int = setting(
        1, "smallest number of steps between two entries of the weights table", low=1, unit="step", needs=AUXILIARIES
    )
    lm_head: str = setting(
        "tied",
        "decoder of a head over the vocabulary: tied to the embeddings; shared, one tied head for each output; "
        "low_rank, tied plus a correction of rank lm_rank; untied, a copy (the papers)",
        choices=("tied", "shared", "low_rank", "untied"),
        needs=AUXILIARIES,
    )
    encoder_layers: int = setting(
        0,
        "layers of the encoder that are used, from the bottom; the vector of a text is made of what the last "
        "of them gives; 0: all. Lower layers know more of how a text is written, the top ones of its topic (Tenney et "
        "al. 2019)",
        low=0,
        unit="layer",
        is_late=True,
    )
    trained_layers: int = setting(
        -1,
        "layers of the encoder that are trained, from the top; the layers below and the embeddings are frozen; "
        "0: the heads alone, -1: the whole encoder",
        low=-1,
        unit="layer",
        is_late=True,
    )
    lora_rank: int = setting(
        0,
        "rank of the LoRA matrices that are trained in place of the trained layers' weights; 0: none",
        low=0,
        is_late=True,
    )
    cache_states: str = setting(
        "auto",
        "auto: the states of the end task's texts after the frozen layers of a pre-trained encoder are computed once a "
        "run; off: at every step",
        choices=("auto", "off"),
        is_late=True,
    )
    lm_rank: int = setting(8, "rank of the correction of lm_head 'low_rank'", low=1, needs=AUXILIARIES)
    layer_decay: float = setting(
        1.0,
        "factor of the body's rate from each layer to the one below it: the top layer has the whole rate, the "
        "embeddings the lowest; 1: the same rate for all",
        low=0,
        high=1,
        open_low=True,
        needs=OPTIMIZER_STEPS,
        is_late=True,
    )
    reinit_layers: int = setting(
        0,
        "layers of the encoder, from the top, that begin with new parameters, as does the end task's head",
        low=0,
        unit="layer",
        needs=OPTIMIZER_STEPS,
        is_late=True,
    )
    weight_average: float = setting(
        0.0,
        "decay of a moving average of the parameters, which is evaluated and kept in place of them; 0: none",
        low=0,
        high=0.9999,
        needs=OPTIMIZER_STEPS,
        is_late=True,
    )
    adam_beta2: float = setting(
        0.98, "decay of AdamW's mean of squared gradients", low=0, high=0.99999, needs=OPTIMIZER_STEPS, is_late=True
    )
    label_smoothing: float = setting(
        0.0,
        "share of a label that is spread evenly over all classes in the end task's loss while it trains",
        low=0,
        high=0.9,
        needs=MAIN_PHASE,
        is_late=True,
    )
    class_weights: str = setting(
        "none",
        "balanced: an example counts in the end task's training loss by the inverse frequency of its label",
        choices=("none", "balanced"),
        is_late=True,
    )
