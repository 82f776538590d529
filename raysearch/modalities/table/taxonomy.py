"""The primitives of tables: AANG's taxonomy (Dery et al. 2023, section 3), with features for tokens."""

from __future__ import annotations

from raysearch.objectives.primitive import Primitive, Requirement, Taxonomy

_PRIMITIVES = "raysearch.modalities.table.primitives"

TAXONOMY = Taxonomy(
    modality="table",
    has_extra_data=True,
    primitives=(
        Primitive("data", "end_task", f"{_PRIMITIVES}:end_task_rows", "the end task's training rows"),
        Primitive("transform", "none", f"{_PRIMITIVES}:none", "rows stay as they are"),
        Primitive("transform", "noise", f"{_PRIMITIVES}:noise", "Gaussian noise is added to every feature"),
        Primitive("transform", "mask", f"{_PRIMITIVES}:mask", "drawn features become their mean"),
        Primitive("transform", "swap", f"{_PRIMITIVES}:swap", "drawn features become those of another row"),
        Primitive("transform", "shuffle", f"{_PRIMITIVES}:shuffle", "every feature becomes that of another row"),
        Primitive("representation", "full", f"{_PRIMITIVES}:full", "the encoder sees the whole row"),
        Primitive("representation", "half", f"{_PRIMITIVES}:half", "half of the features are hidden from the encoder"),
        Primitive(
            "output",
            "restore",
            f"{_PRIMITIVES}:restore",
            "the changed or hidden features are reconstructed, or all if there are none",
            head="features",
        ),
        Primitive(
            "output",
            "end_task",
            "raysearch.modalities.losses:label_loss",
            "the end task's label is predicted, by a head of its own",
            head="labels",
            requires=Requirement("data", ("end_task",), "predicts the end task's label of another table"),
        ),
        Primitive(
            "output",
            "extra_label",
            "raysearch.modalities.losses:label_loss",
            "the extra table's own label is predicted",
            head="extra_labels",
            requires=Requirement("data", ("extra_*",), "predicts the label of an extra table, of other rows"),
        ),
        Primitive(
            "output",
            "above_mean",
            f"{_PRIMITIVES}:above_mean",
            "is the extra table's own number above its mean?",
            head=1,
            requires=Requirement("data", ("extra_*",), "predicts the number of an extra table, of other rows"),
        ),
    ),
)
