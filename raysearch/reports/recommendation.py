"""What to use, in words: which arm, by how much it is better and how surely, and what would settle an open question.

The recommended arm, which is also the one that `export` writes, is found in this order.

1. Arms are compared on the fresh seeds on which their configurations were repeated (`storage.arm_choice`). The leader
   is the arm with the highest mean.
2. An arm is a candidate if no other arm is better by the 95 % interval of their paired difference, taken alone. With
   fewer than three common seeds the leader is the only candidate.
3. An ensemble that is a candidate is recommended: it was declared, and it spreads the risk of a choice that few rows
   cannot make surely. Else the simplest candidate is. Arms without auxiliary objectives are simpler than arms with
   them; of these, baselines are simpler than the search's winner; and then the arm is simpler whose training takes
   less time.

A difference is called shown, as in the report `arms`, by the test for all comparisons together (`statistics.better`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING, Any

from raysearch.formatting import format_count
from raysearch.reports.arm_comparison import (
    LEAST_SEEDS,
    MOST_SEEDS,
    Comparison,
    Scores,
    compare,
    overlap_between,
    repeated_scores,
    seeds_to_show,
)
from raysearch.reports.next_steps import Step, budget_steps, export_step, missing_steps, open_steps
from raysearch.reports.wording import for_now, name_arm, state_amount, state_basis, state_surety
from raysearch.storage.states import ENSEMBLE_ARM, MAIN_ARM

if TYPE_CHECKING:
    from raysearch.storage.arm_choice import ArmChoice, ArmScore
    from raysearch.storage.run import Run

_COLUMNS = ["arm", "role", "number", "seed", "state", "score", "seconds", "plan"]


@dataclass(frozen=True)
class Recommendation:
    """What to use and why."""

    arm: str | None  # the arm to use; None when no trial has a score
    verdict: str  # sentences, the first of which says what to use
    open_steps: tuple[Step, ...] = ()  # what would tell more
    export: Step | None = None  # how to write the model of the arm; None without one

    @property
    def steps(self) -> tuple[Step, ...]:
        """All steps, the one that writes the model last."""
        return (*self.open_steps, *([self.export] if self.export else []))


def recommend(run: Run) -> Recommendation:
    """Returns what to use of a run, as its tables are now."""
    choice, trials = run.best_arm(), run.trials().select(_COLUMNS).to_pylist()
    scores = repeated_scores(choice, trials) if choice else {}
    steps = list(missing_steps(run, has_score=choice is not None, is_repeated=bool(scores)))
    if choice is None:
        return Recommendation(None, "There is nothing to use: no trial has ended with a score.", tuple(steps))
    metric = str(run.search.get("task", {}).get("metric", "score"))
    if len(scores) < 2:
        if scores:
            verdict = _single_verdict(scores, metric, has_baselines=bool(run.search.get("baselines")))
        else:
            verdict = _unrepeated_verdict(choice, trials, metric)
        return Recommendation(choice.best.arm, verdict, tuple(steps), export_step(run))
    overlap = overlap_between(choice)
    arm = recommended_arm(scores, simplicity(choice, trials), overlap)
    verdict, comparison = _verdict(arm, scores, metric, overlap)
    if comparison.better == 0:
        steps += open_steps(run, comparison, together=len(scores) - 1)
    elif arm != MAIN_ARM:
        steps += budget_steps(run)
    return Recommendation(arm, verdict + _unrepeated_arms(choice), tuple(steps), export_step(run))


# ---- which arm ----


def simplicity(choice: ArmChoice, trials: Iterable[Mapping[str, Any]]) -> dict[str, tuple[bool, bool, float]]:
    """Returns what arms are sorted by, the simplest first: objectives, the search's winner, seconds of a training."""
    numbers = {each.arm: each.number for each in choice.ranked}
    by_arm: dict[str, list[Mapping[str, Any]]] = {}
    for row in trials:
        if numbers.get(row["arm"]) == row["number"]:
            by_arm.setdefault(row["arm"], []).append(row)
    return {
        arm: (
            any(json.loads(row["plan"] or "{}").get("objectives") for row in rows),
            arm == MAIN_ARM,
            fmean(row["seconds"] or 0.0 for row in rows),
        )
        for arm, rows in by_arm.items()
    }


def recommended_arm(scores: Scores, simplicity: Mapping[str, tuple[bool, bool, float]], overlap: float = 0.0) -> str:
    """Returns the ensemble, or else the simplest arm, if no other is better; with few seeds, that of highest mean."""
    leader = max(scores, key=lambda arm: fmean(scores[arm].values()))
    comparisons = {arm: compare(scores, arm, overlap) for arm in scores}
    if any(len(each.d) < LEAST_SEEDS for each in comparisons[leader].values()):
        return leader
    candidates = [arm for arm in scores if all(each.leans >= 0 for each in comparisons[arm].values())]
    return ENSEMBLE_ARM if ENSEMBLE_ARM in candidates else min(candidates, key=lambda arm: simplicity[arm])


# ---- in words ----


def _verdict(arm: str, scores: Scores, metric: str, overlap: float) -> tuple[str, Comparison]:
    """Returns the sentences on the recommended arm, and its comparison with the arm that the first one names."""
    means = {each: fmean(of_arm.values()) for each, of_arm in scores.items()}
    others = [each for each in means if each != arm]
    has_winner = MAIN_ARM in others and arm != ENSEMBLE_ARM
    rival = MAIN_ARM if has_winner else max(others, key=lambda each: means[each])
    comparison, leader = _pair(scores, arm, rival, overlap), max(means, key=lambda each: means[each])
    if has_winner:
        sentences = _baseline_sentence(arm, comparison, metric)
    elif arm == ENSEMBLE_ARM:
        sentences = (
            f"Use {name_arm(arm)}{for_now(comparison)}: it {state_amount(comparison, metric, rival)}, the best single "
            f"arm, {state_basis(comparison)}, {state_surety(comparison)}."
        )
        if comparison.leans == 0:
            sentences += " Averaging spreads the risk of a choice that so few rows cannot make surely."
    else:
        best_of = f", the best of {len(others)} baselines," if len(others) > 1 else ""
        sentences = (
            f"Use {name_arm(arm)}{for_now(comparison)}: it {state_amount(comparison, metric, rival)}{best_of} "
            f"{state_basis(comparison)}, {state_surety(comparison)}."
        )
    if leader not in (arm, rival):
        ahead = _pair(scores, leader, arm, overlap)
        sentences += f" {leader} {state_amount(ahead, metric, arm)} {state_basis(ahead)}, which shows no difference."
    is_open = comparison.better == 0 and len(comparison.d) >= LEAST_SEEDS
    if is_open and seeds_to_show(comparison.d, len(others), overlap) is None:
        sentences += (
            " More partitions of the same rows will not show so small a difference; more labelled rows may."
            if overlap
            else f" So small a difference would take more than {MOST_SEEDS} seeds to show."
        )
    return sentences, comparison


def _baseline_sentence(arm: str, comparison: Comparison, metric: str) -> str:
    """Returns the first sentence where a baseline is recommended: how it differs from the search's winner."""
    winner, basis = name_arm(MAIN_ARM), state_basis(comparison)
    if comparison.leans == 0 and len(comparison.d) >= LEAST_SEEDS:
        other = comparison.reversed()
        finding = f"{winner} {state_amount(other, metric)} {state_basis(other)}, which is no evidence that it helps"
        return f"Use {arm}, which is simpler: {finding}."
    return (
        f"Use {arm}{for_now(comparison)}, not {winner}: it {state_amount(comparison, metric)} {basis}, "
        f"{state_surety(comparison)}."
    )


def _single_verdict(scores: Scores, metric: str, *, has_baselines: bool) -> str:
    ((arm, of_arm),) = scores.items()
    over = format_count(len({cell.seed for cell in of_arm}), "fresh seed")
    basis = f"{fmean(of_arm.values()):.3f} {metric} on average over {over}"
    if has_baselines:
        return f"Use {name_arm(arm)} for now: it scores {basis}, and no other arm has scores on fresh seeds."
    return f"Use {name_arm(arm)} for now: it scores {basis}, but it has no baseline, so nothing shows that it helps."


def _unrepeated_verdict(choice: ArmChoice, trials: Iterable[Mapping[str, Any]], metric: str) -> str:
    tried: dict[str, set[int]] = {}
    for row in trials:
        if row["score"] is not None:
            tried.setdefault(row["arm"], set()).add(row["number"])
    best, *others = choice.ranked

    def chosen(each: ArmScore) -> str:
        return f"{each.score:.3f} as the best of {format_count(len(tried[each.arm]), 'configuration')}"

    second = f" ({name_arm(others[0].arm)}: {chosen(others[0])})" if others else ""
    return (
        f"Use {name_arm(best.arm)} for now: it scored {metric} {chosen(best)}{second}, but nothing was repeated on "
        "fresh seeds, so no difference is shown."
    )


def _unrepeated_arms(choice: ArmChoice) -> str:
    if not choice.unrepeated:
        return ""
    are = "was" if len(choice.unrepeated) == 1 else "were"
    return f" {', '.join(map(name_arm, choice.unrepeated))} {are} not repeated on fresh seeds and not compared."


def _pair(scores: Scores, first: str, second: str, overlap: float) -> Comparison:
    """Returns how two arms differ; with the search, as the report `arms` has it."""
    if second == MAIN_ARM:
        return compare(scores, second, overlap)[first].reversed()
    return compare(scores, first, overlap)[second]
