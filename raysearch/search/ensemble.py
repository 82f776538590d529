"""The arm `ensemble`: the models of several arms averaged, by weights that held-out rows give.

No model is trained for it. The members are the configurations that stand for the other arms (`storage.arm_choice`).
Their weights (`models.averaging`) come from what their trials of role search gave for the rows that scored them. On
the fresh seeds the members are repeated anyway, and what they gave there scores the ensemble: these seeds took no part
in choosing members or weights. So it can be compared with the arms that it is made of.

Its rows of the table of trials are written when everything else has ended:

    role confirm   a row for each fresh seed, with selection for each fold, of the metric of the averaged outputs
    role search    the same for the cells of the search, where each row's weights come from other rows
    plan           the members: arm, number and weight

A search that goes on later may have other members or weights; the ensemble then has a new number.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from raysearch.config.search_config import Search
from raysearch.models.averaging import average, fit_weights, log_probabilities
from raysearch.search.resume import load_stored_search
from raysearch.storage.arm_choice import best_arm
from raysearch.storage.cells import NO_FOLD, Cell, cell_of
from raysearch.storage.ledger import Ledger
from raysearch.storage.run import Run, open_run
from raysearch.storage.states import ENSEMBLE_ARM, TrialRole, TrialState
from raysearch.training.metrics import score

PARTS = 5  # of the rows; the weights that score a part come from the others
Key = tuple[str, Cell]  # role and cell


@dataclass(frozen=True)
class Outputs:
    """What the members gave for the rows of a cell."""

    rows: NDArray[np.int64]  # (n,)
    labels: NDArray[np.int64]  # (n,)
    log_p: NDArray[np.float64]  # (n, M, C)


@dataclass(frozen=True)
class Ensemble:
    """The members with their weights, and the ensemble's score on every cell."""

    members: tuple[dict[str, Any], ...]  # arm, number and weight
    scores: dict[Key, float]


def record_ensemble(ledger: Ledger, folder: Path) -> str:
    """Writes the ensemble's rows that are missing, if the search declares one; returns a remark, or "".

    It may be called again: what is written depends on the other arms' results alone.
    """
    search = load_stored_search(folder)
    if search is None or not search.ensemble:
        return ""
    ledger.flush()
    run = open_run(folder)
    table = run.trials()
    trials = table.to_pylist()
    choice = best_arm(table, search.cells, list(search.arms))
    outputs, arms = _outputs(
        search, run, trials, {(each.arm, each.number) for each in choice.ranked} if choice else set()
    )
    if any(each.labels.ndim > 1 for each in outputs.values()):
        return "no ensemble: it averages classifiers with one label, and this task has several"
    if len(arms) < 2:
        count = f"{len(arms)} of {len(search.arms)} arms have results on every seed of the search and of confirm"
        return f"no ensemble: {count}"
    ensemble = fit_ensemble(outputs, arms, search.task.metric)
    earlier = [row for row in trials if row["arm"] == ENSEMBLE_ARM]
    number = max((row["number"] for row in earlier), default=0)
    if earlier and not any(_members(row) == list(ensemble.members) for row in earlier if row["number"] == number):
        number += 1
    done = {row["trial_id"] for row in earlier}
    for row in _rows(search, ensemble, number):
        if row["trial_id"] not in done:
            ledger.commit(row)
    return ""


def _members(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    members: list[dict[str, Any]] = json.loads(row["plan"])["members"]
    return members


# ---- what the members gave ----


def _outputs(
    search: Search, run: Run, trials: Sequence[Mapping[str, Any]], chosen: Collection[tuple[str, int]]
) -> tuple[dict[Key, Outputs], list[tuple[str, int]]]:
    """Returns outputs by role and cell, and the members: those `chosen`, as arm and number, that have every output."""
    needed = [(str(TrialRole.SEARCH), cell) for cell in search.cells]
    needed += [(str(role), cell) for role, cell in search.final_cells if role == TrialRole.CONFIRM]
    by_member: dict[tuple[str, int], dict[Key, str]] = {}
    for row in trials:
        if (row["arm"], row["number"]) in chosen and row["state"] == TrialState.COMPLETE:
            by_member.setdefault((row["arm"], row["number"]), {})[row["role"], cell_of(row)] = row["trial_id"]
    stored = _stored(run, [trial for by_key in by_member.values() for trial in by_key.values()])
    members = [
        member
        for arm in search.arms
        for member, by_key in by_member.items()
        if member[0] == arm and all(by_key.get(key) in stored for key in needed)
    ]
    outputs = {}
    for key in needed if members else []:
        parts = [stored[by_member[member][key]] for member in members]
        log_p = np.stack([log_probabilities(logits) for _, _, logits in parts], axis=1)
        outputs[key] = Outputs(parts[0][0], parts[0][1], log_p)
    return outputs, members


def _stored(run: Run, trial_ids: Sequence[str]) -> dict[str, tuple[Any, Any, Any]]:
    """Returns rows (n,), labels (n,) and logits (n, C) of each trial that has predictions, sorted by row."""
    table = run.predictions(*trial_ids)
    trials = np.array(table["trial_id"].to_pylist())
    rows, targets, outputs = (table[name].to_pylist() for name in ("row", "target", "outputs"))
    stored = {}
    for trial in trial_ids:
        places = sorted(np.flatnonzero(trials == trial).tolist(), key=lambda place: rows[place])
        if places:
            labels = np.array([targets[place] for place in places]).astype(np.int64)
            labels = labels[:, 0] if labels.shape[1] == 1 else labels
            stored[trial] = (np.array([rows[p] for p in places]), labels, np.array([outputs[p] for p in places]))
    return stored


# ---- weights and scores ----


def fit_ensemble(outputs: Mapping[Key, Outputs], members: Sequence[tuple[str, int]], metric: str) -> Ensemble:
    """Returns the ensemble of members, given their outputs by role and cell."""
    of_search = {key: each for key, each in outputs.items() if key[0] == TrialRole.SEARCH}
    weights = _weights(of_search.values(), lambda rows: np.ones(len(rows), dtype=np.bool_))
    by_part = [_weights(of_search.values(), partial(_is_outside, part)) for part in range(PARTS)]
    scores = {}
    for key, each in outputs.items():
        logits = average(each.log_p, weights)
        if key in of_search:
            part = each.rows % PARTS
            for number in np.unique(part):
                logits[part == number] = average(each.log_p[part == number], by_part[number])
        scores[key] = score(metric, torch.from_numpy(each.labels), torch.from_numpy(logits))
    listed = [
        {"arm": arm, "number": number, "weight": round(float(weight), 4)}
        for (arm, number), weight in zip(members, weights, strict=True)
        if weight > 0
    ]
    return Ensemble(tuple(listed), scores)


def _weights(
    outputs: Iterable[Outputs], takes: Callable[[NDArray[np.int64]], NDArray[np.bool_]]
) -> NDArray[np.float64]:
    """Returns the weights by the rows that `takes`; equal ones where there are none."""
    chosen = [(each, takes(each.rows)) for each in outputs]
    log_p = np.concatenate([each.log_p[mask] for each, mask in chosen])
    labels = np.concatenate([each.labels[mask] for each, mask in chosen])
    rows = np.unique(np.concatenate([each.rows[mask] for each, mask in chosen]))
    if not len(rows):
        return np.full(log_p.shape[1], 1 / log_p.shape[1])
    return fit_weights(log_p, labels, len(rows))


def _is_outside(part: int, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
    outside: NDArray[np.bool_] = rows % PARTS != part
    return outside


# ---- its rows ----


def _rows(search: Search, ensemble: Ensemble, number: int) -> Iterable[dict[str, Any]]:
    """Yields a row of the table of trials for every cell."""
    digest = hashlib.sha256(json.dumps(ensemble.members, sort_keys=True).encode()).hexdigest()[:6]
    for (role, cell), value in ensemble.scores.items():
        fold = f"f{cell.fold}-" if cell.fold != NO_FOLD else ""
        plan = {
            "arm": ENSEMBLE_ARM,
            "number": number,
            "role": role,
            "seed": cell.seed,
            "folds": search.selection.folds,
            "fold": cell.fold,
            "members": list(ensemble.members),
            "objectives": [],
            "settings": {},
        }
        yield {
            "trial_id": f"{ENSEMBLE_ARM}-{number:04d}-s{cell.seed}-{fold}{digest}",
            "arm": ENSEMBLE_ARM,
            "role": role,
            "number": number,
            "seed": cell.seed,
            "state": str(TrialState.COMPLETE),
            "why": "the members' outputs were averaged",
            "score": value,
            "best_step": 0,
            "steps": 0,
            "attempts": 1,
            "started": datetime.now(UTC),
            "ended": datetime.now(UTC),
            "seconds": 0.0,
            "workers": 1,
            "device": "cpu",
            "params": "{}",
            "plan": json.dumps(plan, sort_keys=True, separators=(",", ":")),
        }
