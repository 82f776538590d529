"""The primitives of sequences."""

from __future__ import annotations

from raysearch.objectives.primitive import Primitive, Requirement, Taxonomy

_PRIMITIVES = "helpers.sequence_modality.primitives"

TAXONOMY = Taxonomy(
    modality="sequence",
    primitives=(
        Primitive("data", "end_task", f"{_PRIMITIVES}:end_task_sequences", "the end task's training sequences"),
        Primitive("transform", "none", f"{_PRIMITIVES}:none", "sequences stay as they are"),
        Primitive("transform", "jitter", f"{_PRIMITIVES}:jitter", "Gaussian noise is added to every value"),
        Primitive("transform", "reverse", f"{_PRIMITIVES}:reverse", "half of the sequences are reversed"),
        Primitive("representation", "full", f"{_PRIMITIVES}:full", "the encoder sees the whole sequence"),
        Primitive("representation", "prefix", f"{_PRIMITIVES}:prefix", "the encoder sees the first half"),
        Primitive("output", "restore", f"{_PRIMITIVES}:restore", "the original values are predicted", head="values"),
        Primitive(
            "output",
            "direction",
            "raysearch.modalities.losses:label_loss",
            "whether the sequence is reversed is predicted",
            head=2,
            labels=f"{_PRIMITIVES}:directions",
            requires=Requirement("transform", ("reverse",), "predicts which sequences are reversed, and none is"),
        ),
    ),
)
