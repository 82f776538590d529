"""What is known of a search's data and machine before it starts: facts, and sentences with a remedy. Torch-free.

`check` reads the declared files for it. `launch` has the facts from the prepared data.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raysearch.config.environment import local_resources
from raysearch.config.incumbents import absent_incumbents
from raysearch.config.loading import ParsedSearch
from raysearch.config.method_validation import check_examples
from raysearch.config.parameters import DEFAULTS
from raysearch.config.search_config import Search
from raysearch.config.selection_rules import decide_selection
from raysearch.errors import MissingFileError, SpecError
from raysearch.formatting import format_count
from raysearch.modalities import load_modality
from raysearch.search.signal_notes import signal_notes

if TYPE_CHECKING:
    from raysearch.data.doctor import DataFacts

MAX_LENGTH = "max_length"


@dataclass(frozen=True)
class Findings:
    """What there is, by name, and what will mislead, a sentence each."""

    facts: dict[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    has_folds: bool = False  # configurations are scored on folds of all labelled rows


def examine(parsed: ParsedSearch, data_root: Path | None) -> Findings:
    """Reads the files of a search's task, as a launch would, and returns what is to be said of them.

    A task without files has nothing to be read. Files of the catalog's searches lie below a data root, and are noted as
    missing if there is none. Raises SpecError for data that cannot be used, and for a missing file at its line.
    """
    search = parsed.search
    has_place = bool(search.task.base or data_root or os.environ.get("RAYSEARCH_DATA"))
    left_out = [*absence_notes(parsed), *draw_notes(search)]
    try:
        findings = _examine(parsed, data_root)
        return replace(findings, notes=[*findings.notes, *left_out])
    except SpecError as error:
        if has_place or not isinstance(error, MissingFileError):
            raise parsed.with_location(error) from None
        return Findings(notes=[f"its data were not checked: {error.problem}", *machine_notes(search), *left_out])


def _examine(parsed: ParsedSearch, data_root: Path | None) -> Findings:
    search = parsed.search
    if search.task.train is None:
        return Findings(notes=machine_notes(search))
    from raysearch.data import doctor
    from raysearch.data.pipeline import find_files
    from raysearch.data.splits import count_leaks

    modality = load_modality(search.task.modality)
    preparation = modality.preparation
    splits = preparation.read_splits(search.task, find_files(preparation, search.task, data_root))
    labels = modality.label_names(search.task, splits)
    lengths, is_estimated = modality.token_lengths(search.stored_for, splits)
    facts = doctor.gather_facts(splits, lengths, is_estimated=is_estimated)
    metadata: dict[str, Any] = {"labels": labels, "sizes": facts.rows}
    metadata["leaks"] = count_leaks({name: examples.keys for name, examples in splits.items()})
    notes = preparation.notes(splits, metadata)
    selection, why = decide_selection(search, facts.rows)
    check_examples(search, parsed.node, facts.rows, selection.folds)
    has_folds = selection.folds > 0
    described = doctor.describe(facts, search.task.metric, is_cross_validated=has_folds)
    if why:
        described |= {"selection": why[0]}
    return Findings(described, [*notes, *data_notes(search, facts), *machine_notes(search)], has_folds)


def launch_notes(search: Search, facts: DataFacts | None, *, local: bool) -> list[str]:
    """Returns what a launch says beside the notes of the prepared data; `local`: trials run on this machine."""
    notes = data_notes(search, facts) if facts is not None else []
    return [*notes, *draw_notes(search), *(machine_notes(search) if local else [])]


def data_notes(search: Search, facts: DataFacts) -> list[str]:
    """Returns the data doctor's warnings on a search, given the facts of its data."""
    from raysearch.data import doctor

    length, has_folds = _max_length(search), _has_folds(search, facts)
    notes = doctor.warn(facts, search.task.metric, max_length=length, is_cross_validated=has_folds)
    return [*notes, *signal_notes(search, facts.rows)]


def absence_notes(parsed: ParsedSearch) -> list[str]:
    """Returns a sentence for each shipped baseline that a search which asks for all of them cannot have."""
    search, declared = parsed.search, parsed.node.value.get("baselines")
    absent = absent_incumbents(declared, search.task, search.model)
    return [f"without the baseline {name}: {problem}" for name, problem in absent.items()]


def draw_notes(search: Search) -> list[str]:
    """Returns a sentence if arms that can be tuned try unequally many configurations, and nothing else is equal."""
    tuned = {name: arm.trials for name, arm in search.arms.items() if arm.dimensions and arm.trials is not None}
    if search.budget.compute is not None or len(set(tuned.values())) < 2:
        return []
    counts = ", ".join(f"{name} {trials}" for name, trials in tuned.items())
    remedy = "give them equally many `trials`, or all the same `budget: {compute: SECONDS}`"
    return [f"arms try unequally many configurations ({counts}), which favours those with more: {remedy}"]


def machine_notes(search: Search) -> list[str]:
    """Returns a sentence if this machine has GPUs and the search asks for none."""
    gpus = local_resources()[1]
    if not gpus or search.resources.gpus:
        return []
    remedy = "--set resources.gpus=1 gives each trial one"
    return [f"this machine has {format_count(gpus, 'GPU')} and trials ask for none; {remedy}"]


def _has_folds(search: Search, facts: DataFacts) -> bool:
    """Returns whether configurations are scored on folds of all labelled rows."""
    return decide_selection(search, facts.rows)[0].folds > 0


def _max_length(search: Search) -> int | None:
    """Returns the tokens to which texts are cut, the largest number if it is searched; None without texts."""
    if MAX_LENGTH in (*load_modality(search.task.modality).unused_settings, *search.stored_for.unused_settings):
        return None
    dimension = search.dimensions.get(MAX_LENGTH)
    if dimension is not None and dimension.values:
        return max(int(value) for value in dimension.values)
    return int(search.settings.get(MAX_LENGTH, DEFAULTS[MAX_LENGTH]))
