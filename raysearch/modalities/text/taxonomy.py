"""The primitives of text: AANG's taxonomy (Dery et al. 2023, section 3 and Table 2), and further ones."""

from __future__ import annotations

from raysearch.modalities.view_taxonomy import view_primitives
from raysearch.objectives.literature import NAMED
from raysearch.objectives.primitive import Primitive, Requirement, Taxonomy

_PACKAGE = "raysearch.modalities.text.primitives"
_DATA, _TRANSFORMS, _MASKS, _OUTPUTS = (
    f"{_PACKAGE}.{module}" for module in ("data_sources", "transforms", "attention_masks", "outputs")
)

_TRANSFORM_PRIMITIVES = (
    Primitive("transform", "none", f"{_TRANSFORMS}:none", "selected tokens stay as they are"),
    Primitive(
        "transform", "replace", f"{_TRANSFORMS}:replace", "selected tokens become random tokens", hides_changes=True
    ),
    Primitive("transform", "mask", f"{_TRANSFORMS}:mask", "selected tokens become the mask token"),
    Primitive(
        "transform",
        "bert",
        f"{_TRANSFORMS}:bert",
        "80 % of the selected tokens are masked, 10 % replaced, 10 % kept",
        hides_changes=True,
    ),
    Primitive(
        "transform",
        "noisy_embeds",
        f"{_TRANSFORMS}:noisy_embeds",
        "the selected tokens' embeddings get Gaussian noise",
        hides_changes=True,
    ),
    Primitive(
        "transform",
        "delete",
        f"{_TRANSFORMS}:delete",
        "the selected tokens are deleted; each is predicted at the token before it",
        hides_changes=True,
    ),
    Primitive(
        "transform",
        "dropout",
        f"{_TRANSFORMS}:dropout",
        "nothing: two views differ in the encoder's dropout alone",
        paper="Gao et al. 2021, SimCSE, https://arxiv.org/abs/2104.08821",
    ),
    Primitive(
        "transform",
        "delete_60",
        f"{_TRANSFORMS}:delete_60",
        "60 % of the tokens are deleted",
        hides_changes=True,
        selects=f"{_TRANSFORMS}:select_60",
        paper="Wang et al. 2021, TSDAE, https://arxiv.org/abs/2104.06979",
    ),
    Primitive(
        "transform",
        "cut",
        f"{_TRANSFORMS}:cut",
        "a span of a quarter of the tokens is cut out",
        hides_changes=True,
        selects=f"{_TRANSFORMS}:select_span",
        paper="Shen et al. 2020, Cutoff, https://arxiv.org/abs/2009.13818",
    ),
)

TAXONOMY = Taxonomy(
    modality="text",
    has_extra_data=True,
    has_user_primitives=True,
    literature=NAMED,
    primitives=(
        Primitive("data", "end_task", f"{_DATA}:end_task", "the end task's training texts"),
        Primitive("data", "in_domain", f"{_DATA}:in_domain", "unlabelled texts of the same domain"),
        Primitive(
            "data",
            "nearest",
            f"{_DATA}:nearest",
            "the unlabelled texts of the domain that are nearest to the labelled ones, by TF-IDF",
            paper="Yao et al. 2022, TLM, https://arxiv.org/abs/2111.04130",
        ),
        Primitive("data", "out_of_domain", f"{_DATA}:out_of_domain", "unlabelled texts of another domain"),
        Primitive("data", "neural_lm", f"{_DATA}:neural_lm", "texts that a language model has written"),
        *_TRANSFORM_PRIMITIVES,
        Primitive("representation", "bidirectional", f"{_MASKS}:bidirectional", "every token sees every token"),
        Primitive(
            "representation", "left_to_right", f"{_MASKS}:left_to_right", "a token sees itself and what is left of it"
        ),
        Primitive(
            "representation", "right_to_left", f"{_MASKS}:right_to_left", "a token sees itself and what is right of it"
        ),
        Primitive(
            "representation",
            "random_factorized",
            f"{_MASKS}:random_factorized",
            "a token sees a random 60 % of the others",
        ),
        Primitive(
            "representation",
            "permutation",
            f"{_MASKS}:permutation",
            "a token sees itself and what comes before it in a random order",
        ),
        Primitive("output", "denoise", f"{_OUTPUTS}:denoise", "the selected tokens are predicted", head="vocabulary"),
        Primitive(
            "output",
            "end_task",
            f"{_OUTPUTS}:end_task",
            "the end task's label is predicted, by a head of its own",
            head="labels",
            requires=Requirement("data", ("end_task",), "predicts the label of unlabelled text"),
        ),
        Primitive(
            "output",
            "next_token",
            f"{_OUTPUTS}:next_token",
            "the token that is read next is predicted, at every position that does not see it",
            head="vocabulary",
            labels=f"{_OUTPUTS}:next_tokens",
            requires=Requirement(
                "representation",
                ("left_to_right", "right_to_left", "permutation"),
                "predicts a token that is visible",
            ),
        ),
        Primitive(
            "output",
            "tf",
            f"{_OUTPUTS}:tf",
            "how often the selected token stands in its text, relative to its length",
            head=1,
            labels=f"{_OUTPUTS}:term_frequencies",
        ),
        Primitive(
            "output",
            "tfidf",
            f"{_OUTPUTS}:tfidf",
            "term frequency times inverse document frequency of the selected token",
            head=1,
            labels=f"{_OUTPUTS}:tfidf_values",
        ),
        Primitive(
            "output",
            "real_synthetic",
            f"{_OUTPUTS}:real_synthetic",
            "is the token the text's own, or was it changed? at every position",
            head=1,
            labels=f"{_OUTPUTS}:changed_tokens",
            requires=Requirement(
                "transform",
                tuple(transform.name for transform in _TRANSFORM_PRIMITIVES if transform.hides_changes),
                "predicts which tokens were changed, and none is, or the mask token shows it",
            ),
        ),
        Primitive(
            "output",
            "extra_label",
            f"{_OUTPUTS}:extra_label",
            "the extra data set's own label, of the text or of its words",
            head="extra_labels",
            labels=f"{_OUTPUTS}:extra_labels",
            requires=Requirement("data", ("extra_*",), "predicts the label of an extra data set, on other data"),
        ),
        *view_primitives(labelled=("end_task",)),
    ),
)
