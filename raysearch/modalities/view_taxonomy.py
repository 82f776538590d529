"""The output primitives of `view_outputs`, as every modality that has them declares them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from raysearch.objectives.primitive import BORROWED, Primitive, Requirement

_OUTPUTS = "raysearch.modalities.view_outputs"


def view_primitives(labelled: Sequence[str]) -> tuple[Primitive, ...]:
    """Returns the declarations; `labelled` are the data primitives that have the end task's labels."""
    needs_labels = Requirement("data", tuple(labelled), "compares the labels of unlabelled examples")
    return tuple(replace(each, requires=needs_labels) if each.draws_label_pairs else each for each in _PRIMITIVES)


_PRIMITIVES = (
    Primitive(
        "output",
        "pseudo_label",
        f"{_OUTPUTS}:pseudo_label",
        "the class that a teacher gives the unchanged example, where the teacher is sure",
        head=BORROWED,
        needs_guesses=True,
        paper="Lee 2013, Pseudo-Label; Sohn et al. 2020, FixMatch, https://arxiv.org/abs/2001.07685",
    ),
    Primitive(
        "output",
        "soft_label",
        f"{_OUTPUTS}:soft_label",
        "a teacher's probabilities of the classes for the unchanged example",
        head=BORROWED,
        needs_guesses=True,
        paper="Hinton et al. 2015, distillation, https://arxiv.org/abs/1503.02531; "
        "Tarvainen and Valpola 2017, mean teacher, https://arxiv.org/abs/1703.01780",
    ),
    Primitive(
        "output",
        "agree",
        f"{_OUTPUTS}:agree",
        "two views of an example have the same predictions",
        head=BORROWED,
        views=2,
        paper="Laine and Aila 2017, Pi-model, https://arxiv.org/abs/1610.02242; "
        "Liang et al. 2021, R-Drop, https://arxiv.org/abs/2106.14448",
    ),
    Primitive(
        "output",
        "same_text",
        f"{_OUTPUTS}:same_text",
        "the second view of an example is found among those of the batch",
        head=BORROWED,
        views=2,
        is_coupled=True,
        paper="Gao et al. 2021, SimCSE, https://arxiv.org/abs/2104.08821",
    ),
    Primitive(
        "output",
        "same_label",
        f"{_OUTPUTS}:same_label",
        "vectors of one label are near each other, those of two labels apart",
        head=BORROWED,
        is_coupled=True,
        draws_label_pairs=True,
        paper="Khosla et al. 2020, supervised contrast, https://arxiv.org/abs/2004.11362; "
        "Tunstall et al. 2022, SetFit, https://arxiv.org/abs/2209.11055",
    ),
    Primitive(
        "output",
        "anchor",
        f"{_OUTPUTS}:anchor",
        "the vector that the encoder gave the unchanged example before training",
        head=BORROWED,
        needs_anchors=True,
        paper="Li and Hoiem 2016, learning without forgetting, https://arxiv.org/abs/1606.09282",
    ),
)
