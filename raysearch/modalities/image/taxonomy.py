"""The primitives of images: AANG's taxonomy (Dery et al. 2023, section 3), with patches for tokens."""

from __future__ import annotations

from raysearch.modalities.view_taxonomy import view_primitives
from raysearch.objectives.primitive import Primitive, Requirement, Taxonomy

_PRIMITIVES = "raysearch.modalities.image.primitives"

TAXONOMY = Taxonomy(
    modality="image",
    primitives=(
        Primitive("data", "end_task", f"{_PRIMITIVES}:end_task_images", "the end task's training images"),
        Primitive("data", "auxiliary", f"{_PRIMITIVES}:auxiliary_images", "images with labels of their own"),
        Primitive("transform", "none", f"{_PRIMITIVES}:none", "images stay as they are"),
        Primitive(
            "transform",
            "crop_flip",
            f"{_PRIMITIVES}:crop_flip",
            "images are shifted by up to an eighth of the side, half of them mirrored",
        ),
        Primitive("transform", "patch_mask", f"{_PRIMITIVES}:patch_mask", "drawn patches become the mean colour"),
        Primitive("transform", "noise", f"{_PRIMITIVES}:noise", "Gaussian noise is added to every pixel"),
        Primitive("transform", "rotate", f"{_PRIMITIVES}:rotate", "images are rotated by 0 to 3 quarter turns"),
        Primitive(
            "transform",
            "colour",
            f"{_PRIMITIVES}:colour",
            "brightness, contrast and the strength of each channel change by up to 40 %",
            paper="Chen et al. 2020, SimCLR, https://arxiv.org/abs/2002.05709",
        ),
        Primitive(
            "transform",
            "cut_out",
            f"{_PRIMITIVES}:cut_out",
            "images are shifted and mirrored, and a square of half the side becomes the mean colour",
            paper="DeVries and Taylor 2017, Cutout, https://arxiv.org/abs/1708.04552",
        ),
        Primitive("representation", "full", f"{_PRIMITIVES}:full", "the encoder sees the whole image"),
        Primitive(
            "representation",
            "masked_patches",
            f"{_PRIMITIVES}:masked_patches",
            "half of the patches are hidden from the encoder",
        ),
        Primitive(
            "output",
            "reconstruct",
            f"{_PRIMITIVES}:reconstruct",
            "the changed or hidden pixels are reconstructed, or all if there are none",
            head="pixels",
        ),
        Primitive(
            "output",
            "rotation",
            f"{_PRIMITIVES}:rotation",
            "the number of quarter turns is predicted",
            head=4,
            labels=f"{_PRIMITIVES}:quarter_turns",
            requires=Requirement("transform", ("rotate",), "predicts the rotation of images that are not rotated"),
        ),
        Primitive(
            "output",
            "end_task",
            "raysearch.modalities.losses:label_loss",
            "the end task's label is predicted, by a head of its own",
            head="labels",
            requires=Requirement("data", ("end_task",), "predicts the end task's label of auxiliary images"),
        ),
        Primitive(
            "output",
            "auxiliary_label",
            "raysearch.modalities.losses:label_loss",
            "the auxiliary images' own label is predicted",
            head="auxiliary_labels",
            requires=Requirement("data", ("auxiliary",), "predicts an auxiliary label of the end task's images"),
        ),
        *view_primitives(labelled=("end_task",)),
    ),
)
