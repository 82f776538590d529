"""Data primitives of text: where the examples of an objective come from."""

from __future__ import annotations

from raysearch.data.prepared import Split
from raysearch.modalities.batch import OpenSplit


def end_task(open_split: OpenSplit) -> Split:
    """Opens the end task's training examples."""
    return open_split("train")


def in_domain(open_split: OpenSplit) -> Split:
    """Opens unlabelled text of the end task's domain."""
    return open_split("domain")


def out_of_domain(open_split: OpenSplit) -> Split:
    """Opens unlabelled text of another domain."""
    return open_split("out_of_domain")


def neural_lm(open_split: OpenSplit) -> Split:
    """Opens text that a language model has written (ELECTRA's row of AANG's Figure 1); raysearch generates none."""
    return open_split("neural_lm")
