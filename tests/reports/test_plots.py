"""Plots of a run: axes whose labels differ, trials at their own scores, weights on their own scale."""

from __future__ import annotations

import random
from typing import Any

import pytest
from matplotlib.figure import Figure

from raysearch.reports import plots, plots_weights
from raysearch.reports.plots import LEAST_TICKS, MOST_TICKS, log_ticks, short_number


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (1e-4, 1e-2, [1e-4, 1e-3, 1e-2]),
        (1e-4, 2e-3, [1e-4, 3e-4, 1e-3]),
        (2e-4, 1e-3, [2e-4, 5e-4, 1e-3]),
        (1.5e-3, 2.5e-3, None),
        (1, 64, [1, 3, 10, 30]),
    ],
)
def test_log_ticks_are_few_and_round(low: float, high: float, ticks: list[float] | None) -> None:
    assert ticks is None or log_ticks(low, high) == pytest.approx(ticks)


def test_log_ticks_have_different_labels_within_bounds() -> None:
    rng = random.Random(0)
    for _ in range(300):
        low = 10 ** rng.uniform(-8, 3)
        high = low * 10 ** rng.uniform(0.02, 7)
        ticks = log_ticks(low, high)
        assert (LEAST_TICKS if high > 1.2 * low else 2) <= len(ticks) <= MOST_TICKS
        assert all(low * 0.999 <= tick <= high * 1.001 for tick in ticks)
        assert len({short_number(tick) for tick in ticks}) == len(ticks)


def test_numbers_of_a_logarithmic_axis_are_short() -> None:
    numbers = [3e-4, 1.5e-3, 0.01, 0.5, 20, 1e5]
    assert [short_number(number) for number in numbers] == ["3e-4", "1.5e-3", "0.01", "0.5", "20", "1e5"]


def heights(rows: list[dict[str, Any]]) -> tuple[dict[str, list[float]], float, float]:
    """Returns where the trials of each colour are drawn, and the ends of the axis."""
    axes = Figure().subplots()
    plots.scatter_states(axes, rows, "nth", rows)
    drawn = {line.get_marker(): list(line.get_ydata()) for line in axes.get_lines()}
    return drawn, *axes.get_ylim()


def test_stopped_trial_is_drawn_at_its_score_even_the_highest() -> None:
    rows = [{"nth": 1, "state": "complete", "score": 0.5}, {"nth": 2, "state": "complete", "score": 0.6}]
    rows += [{"nth": 3, "state": "stopped", "score": 0.9}, {"nth": 4, "state": "stopped", "score": 0.1}]
    rows += [{"nth": 5, "state": "failed", "score": None}]
    drawn, low, high = heights(rows)
    high_stop, low_stop = drawn["v"]
    assert high_stop == 0.9
    assert low < low_stop == drawn["x"][0] < 0.5  # at the edge, which has no score
    assert high > 0.9


def test_words_that_would_run_together_are_turned() -> None:
    for words, angle in ((["a", "b"], 0), ([f"a_long_choice_{i}" for i in range(4)], 25)):
        axes = Figure().subplots()
        rows = [{"value": word, "score": 0.5, "state": "complete", "number": None} for word in words]
        plots.words_as_places(axes, rows, words)
        assert {label.get_rotation() for label in axes.get_xticklabels()} == {angle}


def weight_rows(late: list[float], sd: float | None) -> list[dict[str, Any]]:
    return [
        {"name": f"a/{i}/b/c", "early": 0.125, "late": weight, "late_sd": sd, "trials": 4}
        for i, weight in enumerate(late)
    ]


def test_ranking_draws_weights_and_the_equal_one() -> None:
    late = [0.135, 0.13, 0.127, 0.125, 0.125, 0.123, 0.12, 0.115]
    svg = plots_weights.ranking(weight_rows(late, 0.01))
    assert "weight in % (equal: 12.5 %)" in svg
    finding = plots_weights.ranking_finding(weight_rows(late, 0.03))
    assert finding == (
        "Late weights are between 11.5 and 13.5 %, where equal is 12.5 %: no objective stands out from what differs "
        "between trials."
    )
    assert "2 of 8 differ from equal" in plots_weights.ranking_finding(weight_rows(late, 0.0095))
    assert "one trial does not say" in plots_weights.ranking_finding(weight_rows(late, None))


def test_weights_are_drawn_below_the_top_of_the_axis(monkeypatch: pytest.MonkeyPatch) -> None:
    tops: list[float] = []
    monkeypatch.setattr(plots_weights, "_label_ends", lambda axes, *_: tops.append(axes.get_ylim()[1]))
    rows = [
        {"stage": "output", "name": name, "step": step, "weight": weight, "best_step": 2}
        for name, weight in (("a", 0.98), ("b", 0.02))
        for step in (1, 2)
    ]
    assert len(plots_weights.trajectories(rows)) == 1
    assert tops == [pytest.approx(0.98 * 1.08)]
