"""Data primitives: where the examples of an objective come from."""

from __future__ import annotations

from collections.abc import Callable

from raysearch.data.prepared import Split

Open = Callable[[str], Split]


def end_task(open_split: Open) -> Split:
    """The end task's own training examples."""
    return open_split("train")


def in_domain(open_split: Open) -> Split:
    """Unlabelled text of the end task's domain."""
    return open_split("domain")


def out_of_domain(open_split: Open) -> Split:
    """Unlabelled text of another domain."""
    return open_split("out_of_domain")


def neural_lm(open_split: Open) -> Split:
    """Text that a language model has written, as ELECTRA's row of AANG's Figure 1 has it; raysearch generates none."""
    return open_split("neural_lm")


DATA: dict[str, Callable[[Open], Split]] = {
    "end_task": end_task,
    "in_domain": in_domain,
    "out_of_domain": out_of_domain,
    "neural_lm": neural_lm,
}


def data_of(name: str) -> Callable[[Open], Split]:
    """The function of a data primitive; `extra_NAME` is the split of that name."""
    return DATA[name] if name in DATA else lambda open_split: open_split(name)
