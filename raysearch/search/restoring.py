"""Restoring the studies of all arms from what a run's tables hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from raysearch.errors import RunError
from raysearch.plan import SHORT_KEY, TrialPlan
from raysearch.search.arm_study import ArmStudy, Result
from raysearch.search.race import Drop
from raysearch.storage.cells import Cell
from raysearch.storage.states import TrialRole


@dataclass(frozen=True)
class Restored:
    """What a study knows of earlier sessions beside the studies of its arms."""

    results: dict[str, Result]  # by trial, in the order in which they were committed
    unfinished: list[TrialPlan]  # handed out and without a result, in the order of handing out
    drops: dict[str, Drop]  # by the trial whose result led to it


def restore_arms(
    arms: Mapping[str, ArmStudy], committed: Sequence[Mapping[str, Any]], planned: Sequence[TrialPlan]
) -> Restored:
    """Restores arms from `committed` rows of the table of trials and all plans ever handed out.

    Races take the results in the order in which they were committed, and so decide as they did. Raises RunError for a
    trial of another arm.
    """
    plans = {plan.trial_id: plan for plan in planned}
    results: dict[str, Result] = {}
    for row in committed:
        plan = plans.get(row["trial_id"]) or plans.setdefault(row["trial_id"], TrialPlan.from_json(row["plan"]))
        if '"score_step":' not in row["plan"] and plan.arm in arms:
            arms[plan.arm].scores_at_found_step = False  # a run of an earlier version goes on as it has begun
        results[row["trial_id"]] = Result(row["state"], row["score"], row["steps"] or 0, row.get("best_step") or 0)
    for trial_id, plan in plans.items():
        if plan.arm not in arms:
            raise RunError(f"{trial_id} belongs to an arm that the search does not have")
    drops: dict[str, Drop] = {}
    for trial_id, result in results.items():
        plan = plans[trial_id]
        if plan.role == TrialRole.SEARCH and (drop := arms[plan.arm].race.take(plan.number, result.counted)):
            drops[trial_id] = drop
    seconds = {row["trial_id"]: float(row.get("seconds") or 0.0) for row in committed}
    _restore_configurations(arms, plans, results, seconds)
    return Restored(results, [plan for trial_id, plan in plans.items() if trial_id not in results], drops)


def _restore_configurations(
    arms: Mapping[str, ArmStudy],
    plans: Mapping[str, TrialPlan],
    results: Mapping[str, Result],
    seconds: Mapping[str, float],
) -> None:
    configurations: dict[tuple[str, int], tuple[TrialPlan, dict[Cell, Result | None]]] = {}
    for trial_id, plan in plans.items():
        arm, result = arms[plan.arm], results.get(trial_id)
        arm.keys.add(trial_id[-SHORT_KEY:])
        if plan.role != TrialRole.SEARCH:
            arm.finals[plan.number, plan.role, plan.cell] = result
        else:
            arm.trial_seconds += [seconds[trial_id]] if result is not None else []
            configurations.setdefault((plan.arm, plan.number), (plan, {}))[1][plan.cell] = result
    for (name, number), (plan, by_cell) in sorted(configurations.items(), key=lambda item: item[0]):
        arms[name].restore(number, plan.params, by_cell)
