"""Data primitives: where the examples of an objective come from."""

from __future__ import annotations

from collections.abc import Callable

from raysearch.tasks import Split

Open = Callable[[str], Split]


def end_task(open_split: Open) -> Split:
    """The end task's own training examples."""
    return open_split("train")


def in_domain(open_split: Open) -> Split:
    """Unlabelled text of the end task's domain."""
    return open_split("domain")


DATA: dict[str, Callable[[Open], Split]] = {"end_task": end_task, "in_domain": in_domain}
