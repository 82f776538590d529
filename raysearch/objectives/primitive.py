"""A primitive of an objective space, and a taxonomy: all primitives of one modality.

Each primitive is declared once, with a lazy target: its function is imported only when it is loaded, so that `ls`,
`show` and `check` need no torch.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

from raysearch.objectives.objective import Objective

STAGES = ("data", "transform", "representation", "output")  # in the order of an objective's name
BORROWED = "borrowed"  # the head of an output that teaches the end task's own head
DEFAULT_MODALITY = "text"  # of a task or a space without the key `kind:`
EXTRA = re.compile(r"extra_[a-z0-9_]+")  # a data primitive of the task's `extra:`, by its name there


@dataclass(frozen=True)
class Requirement:
    """A requirement of an output: one of these primitives at another stage, or there is nothing to predict."""

    stage: str
    primitives: tuple[str, ...]  # names or patterns, such as extra_*; one of them must match
    problem: str  # what is wrong with an objective that has none of them


@dataclass(frozen=True)
class Primitive:
    """A primitive: one choice at one stage of an objective space."""

    stage: str
    name: str
    target: str  # "module:function"; empty for a user's primitive, which `user_primitives.load_functions` loads
    meaning: str
    head: int | str = ""  # of an output: how many numbers its head gives, or a word that the modality's network knows
    requires: Requirement | None = None
    hides_changes: bool = False  # of a transform: it changes what it selects, and does not show where
    labels: str = ""  # of an output: "module:function" that returns what is to be predicted, where that is not usual
    paper: str = ""  # where it comes from: authors, year and address
    selects: str = ""  # of a transform: "module:function" that returns what may change, where that is not usual
    views: int = 1  # of an output: how often it sees each example, each time with a transform of its own
    is_coupled: bool = False  # of an output: its loss compares the examples of a batch with each other
    needs_guesses: bool = False  # of an output: it learns what a teacher says of an example
    needs_anchors: bool = False  # of an output: it reads the vectors of the encoder as it was before training
    draws_label_pairs: bool = False  # of an output: the examples of its batches come in pairs of one label

    def load(self) -> Callable[..., Any]:
        """Imports and returns the primitive's function."""
        function: Callable[..., Any] = load_target(self.target)
        return function


@dataclass(frozen=True)
class Taxonomy:
    """A taxonomy: all primitives of one modality."""

    modality: str
    primitives: tuple[Primitive, ...]
    has_extra_data: bool = False  # may a space name `extra_NAME` data sets of the task?
    has_user_primitives: bool = False  # may a space name a Python file of the user's primitives?
    literature: tuple[tuple[str, str], ...] = ()  # patterns of objectives' names, and what the literature calls them

    @cached_property
    def stages(self) -> dict[str, dict[str, str]]:
        """The meaning of each primitive, by stage and name."""
        return {stage: {p.name: p.meaning for p in self.primitives if p.stage == stage} for stage in STAGES}

    def find(self, stage: str, name: str) -> Primitive | None:
        """Returns the primitive of that stage and name, or None."""
        return next((p for p in self.primitives if (p.stage, p.name) == (stage, name)), None)

    def functions(self, stage: str) -> dict[str, Callable[..., Any]]:
        """Imports and returns all functions of one stage by name."""
        return {p.name: p.load() for p in self.primitives if p.stage == stage}

    def literature_name(self, objective: Objective) -> str:
        """Returns what the literature calls an objective; empty if it has no name there."""
        return next((name for pattern, name in self.literature if fnmatchcase(objective.name, pattern)), "")


def load_target(target: str) -> Any:
    """Imports and returns what a lazy target, "module:attribute", names."""
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)
