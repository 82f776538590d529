"""What to use, in words: win, lose, tie, no baseline, few seeds, nothing finished; and the commands for more."""

from __future__ import annotations

import json
import shlex
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from helpers.pages import ReportPage
from helpers.runs import write_run
from scipy import stats

from raysearch.formatting import MINUS
from raysearch.reports import query
from raysearch.reports.arm_comparison import compare, seeds_to_show
from raysearch.reports.page import write_html
from raysearch.reports.recommendation import Recommendation, recommend
from raysearch.storage.ledger import Ledger
from raysearch.storage.run import open_run

NOISE = (0.002, -0.001, 0.001, -0.002, 0.0)  # mean 0
WIDE = (0.05, -0.04, 0.03, -0.05, 0.01)  # mean 0
COSTS = {"search": 20.0, "fine_tune": 9.0, "tfidf_lr": 0.3, "tapt": 30.0, "ensemble": 0.0}  # seconds of a training


def level(mean: float, noise: tuple[float, ...] = NOISE) -> list[float]:
    return [mean + each for each in noise]


def write_arms(
    folder: Path,
    fresh: dict[str, list[float]],
    *,
    chosen: dict[str, list[float | None]] | None = None,
    with_objectives: tuple[str, ...] = ("search", "tapt"),
    finished: bool = True,
    **declared: Any,
) -> Path:
    """Writes a run whose arms have the scores `fresh` on seeds 101, 102, ...; `chosen` scored when they were chosen.

    The first of the highest scores in `chosen` is repeated.
    """
    chosen = chosen or {arm: [0.5, 0.4] for arm in fresh}
    baselines = {arm: {} for arm in chosen if arm not in ("search", "ensemble")}
    search = {"name": folder.name, "task": {"name": "mine", "metric": "macro_f1"}, "seeds": [0], "runs": "runs"}
    count = max(map(len, fresh.values()), default=0)
    search |= {"confirm": {"seeds": list(range(101, 101 + count))}} if count else {}
    search |= {"baselines": baselines} if baselines else {}
    search |= {"budget": {"trials": 2}} | declared | ({"ensemble": True} if "ensemble" in chosen else {})
    with Ledger.open(folder) as ledger:
        spec = {"search": folder.name, "spec": json.dumps(search), "fingerprint": "5" * 64}
        ledger.append("searches", [spec | {"data": json.dumps({"sizes": {"select_dev": 75}})}], durable=True)
        moment = datetime(2026, 1, 1, tzinfo=UTC)

        def commit(arm: str, role: str, number: int, seed: int, score: float | None) -> None:
            nonlocal moment
            moment += timedelta(seconds=1)
            plan = {"objectives": [{}] if arm in with_objectives else []}
            state = "failed" if score is None else "complete"
            row = {"trial_id": f"{arm}-{number}-{seed}", "arm": arm, "role": role, "number": number, "seed": seed}
            row |= {"state": state, "why": "-", "score": score, "best_step": 4, "steps": 4, "attempts": 1}
            row |= {"started": moment, "ended": moment, "seconds": COSTS[arm], "workers": 1, "device": "cpu"}
            ledger.commit(row | {"params": "{}", "plan": json.dumps(plan)})

        for arm, scores in chosen.items():
            for number, score in enumerate(scores):
                commit(arm, "search", number, 0, score)
        for arm, repeated in fresh.items():
            best = max(range(len(chosen[arm])), key=lambda i: chosen[arm][i] or 0.0)
            for seed, score in enumerate(repeated, 101):
                commit(arm, "confirm", best, seed, score)
        if finished:
            ledger.event("finished")
    return folder


@pytest.fixture
def recommended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Returns a function that recommends for a run with these tables, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAYSEARCH_RUNS", raising=False)

    def of(fresh: dict[str, list[float]], **more: Any) -> Recommendation:
        return recommend(open_run(write_arms(tmp_path / "runs" / "mine", fresh, **more)))

    return of


def interval(first: list[float], second: list[float], together: int = 1) -> str:
    """Returns the interval of the paired difference as scipy has it, in the words of a recommendation."""
    result = stats.ttest_rel(first, second).confidence_interval(1 - 0.05 / together)
    return f"95 % interval {result.low:+.3f} to {result.high:+.3f}".replace("-", MINUS)


def steps(recommendation: Recommendation) -> dict[str, str]:
    return {step.command: step.purpose for step in recommendation.steps}


# ---- which arm, and the words ----


def test_winner_that_is_better_is_recommended(recommended: Any) -> None:
    search, base = level(0.5, NOISE[::-1]), level(0.46)
    result = recommended({"search": search, "fine_tune": base})
    assert result.arm == "search"
    assert result.verdict == (
        "Use the search's winner: it scores 0.040 macro_f1 more than fine_tune "
        f"(5 fresh seeds; {interval(search, base)}), and is better."
    )
    assert steps(result) == {"raysearch export mine mine-model": "To write its model"}


def test_winner_is_compared_with_the_best_of_several(recommended: Any) -> None:
    search, best = level(0.55, NOISE[::-1]), level(0.46)
    result = recommended({"search": search, "tfidf_lr": level(0.4), "fine_tune": best, "tapt": level(0.41)})
    assert result.arm == "search"
    assert result.verdict == (
        "Use the search's winner: it scores 0.090 macro_f1 more than fine_tune, the best of 3 baselines, "
        f"(5 fresh seeds; {interval(search, best, 3)}), and is better."
    )


def test_baseline_that_is_better_is_recommended_first(recommended: Any) -> None:
    search, base = level(0.4, NOISE[::-1]), level(0.5)
    result = recommended({"search": search, "fine_tune": base})
    assert result.arm == "fine_tune"
    assert result.verdict == (
        "Use fine_tune, not the search's winner: it scores 0.100 macro_f1 more "
        f"(5 fresh seeds; {interval(base, search)}), and is better."
    )
    assert list(steps(result)) == ["raysearch export mine mine-model"]


@pytest.mark.parametrize("mean", [0.504, 0.496])
def test_ensemble_is_recommended_unless_another_arm_is_better(recommended: Any, mean: float) -> None:
    arms = {"search": level(0.5, NOISE[::-1]), "tfidf_lr": level(0.48), "ensemble": level(mean, WIDE)}
    result = recommended(arms)
    assert result.arm == "ensemble"
    words = "0.004 macro_f1 more" if mean > 0.5 else "0.004 macro_f1 less"
    assert result.verdict.startswith(
        f"Use the ensemble of all arms: it scores {words} than the search's winner, the best single arm, "
        f"(5 fresh seeds; {interval(arms['ensemble'], arms['search'], 2)}), which shows no difference. Averaging"
    )


def test_arm_that_is_better_than_the_ensemble_is_recommended(recommended: Any) -> None:
    result = recommended({"search": level(0.4), "tfidf_lr": level(0.6, NOISE[::-1]), "ensemble": level(0.5)})
    assert result.arm == "tfidf_lr"
    assert "ensemble" not in steps(result)


@pytest.mark.parametrize(
    ("mean", "words"), [(0.504, "scores 0.004 macro_f1 more"), (0.49, "scores 0.010 macro_f1 less")]
)
def test_tie_recommends_the_simpler_arm_and_more_seeds(recommended: Any, mean: float, words: str) -> None:
    search, base = level(mean, WIDE), level(0.5)
    result = recommended({"search": search, "fine_tune": base})
    assert result.arm == "fine_tune"
    assert result.verdict.startswith(
        f"Use fine_tune, which is simpler: the search's winner {words} "
        f"(5 fresh seeds; {interval(search, base)}), which is no evidence that it helps."
    )


def test_tie_that_seeds_can_settle_says_how_many(recommended: Any) -> None:
    search, base = level(0.53, WIDE), level(0.5)
    result = recommended({"search": search, "fine_tune": base})
    d = [a - b for a, b in zip(search, base, strict=True)]
    needed = next(n for n in range(6, 99) if stats.t.ppf(0.975, n - 1) * stats.tstd(d) / n**0.5 < 0.03)
    seeds = ", ".join(str(101 + i) for i in range(needed))
    command = f"raysearch resume mine --set 'confirm.seeds=[{seeds}]'"
    assert steps(result)[command] == f"About {needed} fresh seeds would settle a difference of this size"
    assert "more than 40" not in result.verdict


def test_tie_too_small_to_settle_proposes_no_seeds(recommended: Any) -> None:
    result = recommended({"search": level(0.501, WIDE), "fine_tune": level(0.5)})
    assert result.verdict.endswith(" So small a difference would take more than 40 seeds to show.")
    assert not any("confirm" in command for command in steps(result))


def test_tie_of_three_prefers_the_cheapest_without_objectives(recommended: Any) -> None:
    tied = {"search": level(0.503, WIDE), "tapt": level(0.505, WIDE[::-1]), "fine_tune": level(0.5)}
    result = recommended(tied)
    assert result.arm == "fine_tune"
    assert " tapt scores 0.005 macro_f1 more than fine_tune (5 fresh seeds; " in result.verdict
    assert "which shows no difference." in result.verdict


def test_simplest_arm_that_is_beaten_is_not_recommended(recommended: Any) -> None:
    result = recommended({"search": level(0.5, WIDE), "fine_tune": level(0.51), "tfidf_lr": level(0.4, NOISE[::-1])})
    assert result.arm == "fine_tune"


def test_difference_by_its_own_interval_alone_is_probable(recommended: Any) -> None:
    noise = (0.012, -0.008, 0.002, -0.012, 0.006)
    search, base = level(0.515, noise), level(0.5, (0.0,) * 5)
    result = recommended({"search": search, "fine_tune": base, "tfidf_lr": level(0.3), "tapt": level(0.31)})
    assert result.arm == "search"
    assert f"(5 fresh seeds; {interval(search, base, 3)}), and is probably better." in result.verdict
    assert any("confirm.seeds" in command for command in steps(result))


def test_two_seeds_conclude_nothing(recommended: Any) -> None:
    result = recommended({"search": [0.5, 0.6], "tfidf_lr": [0.45, 0.4]})
    assert result.arm == "search"
    assert result.verdict.startswith("Use the search's winner for now: it scores 0.125 macro_f1 more than tfidf_lr (2 ")
    assert result.verdict.endswith("and so few seeds show nothing.")
    assert "raysearch resume mine --set 'confirm.seeds=[101, 102, 103, 104, 105]'" in steps(result)


def test_one_seed_has_no_interval_and_asks_for_more(recommended: Any) -> None:
    result = recommended({"search": [0.4], "fine_tune": [0.45]})
    assert result.arm == "fine_tune"
    assert result.verdict == (
        "Use fine_tune for now, not the search's winner: it scores 0.050 macro_f1 more (1 fresh seed), and so few "
        "seeds show nothing."
    )
    assert "raysearch resume mine --set 'confirm.seeds=[101, 102, 103, 104, 105]'" in steps(result)


def test_equal_scores_are_the_same(recommended: Any) -> None:
    result = recommended({"search": level(0.5), "fine_tune": level(0.5)})
    assert result.arm == "fine_tune"
    assert "the search's winner scores the same macro_f1 (5 fresh seeds; " in result.verdict


def test_search_without_baselines_claims_nothing(recommended: Any) -> None:
    result = recommended({"search": level(0.5)})
    assert result.verdict == (
        "Use the search's winner for now: it scores 0.500 macro_f1 on average over 5 fresh seeds, but it has no "
        "baseline, so nothing shows that it helps."
    )
    (command,) = (each for each in steps(result) if "launch" in each)
    assert command == "raysearch launch runs/mine/search.json --fork mine-compared --set baselines=incumbents"


def test_unrepeated_search_claims_nothing_and_asks_for_seeds(recommended: Any) -> None:
    result = recommended({}, chosen={"search": [0.5, 0.6, 0.4], "fine_tune": [0.55]})
    assert result.arm == "search"
    assert result.verdict == (
        "Use the search's winner for now: it scored macro_f1 0.600 as the best of 3 configurations (fine_tune: 0.550 "
        "as the best of 1 configuration), but nothing was repeated on fresh seeds, so no difference is shown."
    )
    assert "raysearch resume mine --set 'confirm.seeds=[101, 102, 103, 104, 105]'" in steps(result)


def test_arm_that_was_not_repeated_is_named(recommended: Any) -> None:
    chosen = {"search": [0.5], "fine_tune": [0.4], "tapt": [0.45]}
    result = recommended({"search": level(0.5), "fine_tune": level(0.4, WIDE[::-1])}, chosen=chosen)
    assert result.verdict.endswith(" tapt was not repeated on fresh seeds and not compared.")


def test_search_whose_trials_all_failed_yields_to_baseline(recommended: Any) -> None:
    chosen = {"search": [None, None], "fine_tune": [0.4]}
    result = recommended({"fine_tune": level(0.4)}, chosen=chosen)
    assert result.arm == "fine_tune"
    assert result.verdict.startswith(
        "Use fine_tune for now: it scores 0.400 macro_f1 on average over 5 fresh seeds, and"
    )


def test_run_without_any_score_recommends_nothing(recommended: Any) -> None:
    result = recommended({}, chosen={"search": [None], "fine_tune": [None]})
    assert (result.arm, result.verdict) == (None, "There is nothing to use: no trial has ended with a score.")
    assert steps(result) == {"raysearch analyze mine failures": "Why the trials failed"}


def test_unfinished_run_is_to_be_resumed(recommended: Any) -> None:
    result = recommended({}, chosen={"search": [0.5], "fine_tune": [0.4]}, finished=False)
    assert steps(result)["raysearch resume mine"] == "The search is not finished; to continue it"


def test_late_winner_proposes_a_larger_budget(recommended: Any) -> None:
    chosen = {"search": [0.1, 0.2, 0.3, 0.2, 0.6], "fine_tune": [0.5]}
    fresh = {"search": level(0.501, WIDE), "fine_tune": level(0.5)}
    late = recommended(fresh, chosen=chosen, budget={"trials": 5, "seconds": 90.0})
    assert "raysearch resume mine --set budget.trials=10 --set budget.seconds=180" in steps(late)


def test_early_winner_proposes_no_larger_budget(recommended: Any) -> None:
    chosen = {"search": [0.6, 0.2, 0.3, 0.2, 0.1], "fine_tune": [0.5]}
    fresh = {"search": level(0.501, WIDE), "fine_tune": level(0.5)}
    assert not any("budget" in command for command in steps(recommended(fresh, chosen=chosen)))


def test_tie_on_few_examples_of_a_file_proposes_labels(recommended: Any) -> None:
    fresh = {"search": level(0.501, WIDE), "fine_tune": level(0.5)}
    result = recommended(fresh, task={"name": "mine", "metric": "macro_f1", "train": "rows.csv", "base": "/data"})
    command = "raysearch launch runs/mine/search.json --fork mine-more"
    assert steps(result)[command] == "Every score is of the same 75 examples; after adding labelled rows to rows.csv"


# ---- the statistics are the report's ----


def test_comparison_with_the_search_is_that_of_the_report(tmp_path: Path) -> None:
    fresh = {"search": level(0.5, WIDE), "fine_tune": level(0.47), "tfidf_lr": level(0.4, NOISE[::-1])}
    run = open_run(write_arms(tmp_path / "mine", fresh))
    rows = {row["arm"]: row for row in query.analyze(run, ["arms"])["arms"].to_pylist()}
    words = {1: "the search is better", 0: "no difference found", -1: "the baseline is better"}
    scores = {arm: dict(enumerate(values)) for arm, values in fresh.items()}
    for arm, comparison in compare(scores, "search").items():
        row = rows[arm]
        assert (comparison.low, comparison.high) == pytest.approx((row["low"], row["high"]), abs=1e-12)
        assert comparison.difference == pytest.approx(row["difference"], abs=1e-12)
        assert words[comparison.better] == row["verdict"]
        assert comparison.reversed().reversed() == comparison


def test_seeds_to_show_by_hand() -> None:
    # mean 1, sd 1: t(0.975, n - 1) / sqrt(n) < 1 first at n = 7 (2.447 / 2.646; n = 6 has 2.571 / 2.449)
    assert seeds_to_show((0.0, 1.0, 2.0), 1) == 7
    assert seeds_to_show((0.0,), 1) is None
    assert seeds_to_show((-1.0, 1.0), 1) is None


# ---- where it is shown, and that the commands are real ----


def test_page_begins_with_the_recommendation(tmp_path: Path) -> None:
    run = open_run(write_run(tmp_path / "synthetic"))
    page, result = ReportPage(write_html(run)), recommend(run)
    after_heading = page.words.split("dimensions searched ")[1]
    assert after_heading.startswith(result.verdict)
    for step in result.steps:
        assert f"{step.purpose}: {step.command}" in page.words
        assert "<code>" + step.command.replace("'", "&#39;") + "</code>" in page.source


def test_run_elsewhere_is_named_by_its_quoted_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = open_run(write_arms(tmp_path / "some where" / "mine", {"search": [0.4], "fine_tune": [0.45]}))
    for step in recommend(run).steps:
        assert shlex.split(step.command)[2] == "some where/mine"
