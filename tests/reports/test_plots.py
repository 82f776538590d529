"""Plots of a run: axes whose labels differ, trials at their own scores, weights on their own scale."""

from __future__ import annotations

import random
from typing import Any

import pytest

from raysearch.reports import plots, plots_weights
from raysearch.reports.axis import LEAST_TICKS, MOST_TICKS, Axis, log_ticks, round_ticks, short_number
from raysearch.reports.chart import Chart


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
    axis = plots.score_axis(rows, "f1")
    chart = Chart("scores", "scores", Axis(), axis)
    plots.scatter_states(chart, rows, "nth")
    return {mark.marker: list(mark.y) for mark in chart.marks}, axis.low, axis.high


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
    for words, is_turned in ((["a", "b"], False), ([f"a_long_choice_{i}" for i in range(4)], True)):
        axis, rows = plots.words_as_places([{"value": word} for word in words], words)
        assert [row["number"] for row in rows] == [pytest.approx(i - 0.12) for i in range(len(words))]
        svg = Chart("words", "words", axis, Axis(low=0, high=1)).svg
        assert ("rotate(-25" in svg) == is_turned
        assert all(word.replace("_", " ") in svg for word in words)


def test_round_ticks_have_labels_that_differ_and_few_places() -> None:
    rng = random.Random(0)
    for _ in range(300):
        low = rng.uniform(-1, 1) * 10 ** rng.uniform(-3, 4)
        high = low + 10 ** rng.uniform(-3, 4)
        ticks = round_ticks(low, high, 6)
        assert 1 <= len(ticks) <= 6
        assert all(low - 1e-6 * (high - low) <= value <= high + 1e-6 * (high - low) for value, _ in ticks)
        assert len({label for _, label in ticks}) == len(ticks)
    assert round_ticks(0, 3.2, 6, whole=True) == [(0, "0"), (1, "1"), (2, "2"), (3, "3")]


def test_chart_names_trials_by_place_and_escapes_texts() -> None:
    chart = Chart("a<b", "label <b>", Axis(label="<i>"), Axis(words=("<u>", "v")), title="<script>")
    chart.points([1, 2], [0, 1], "s1", trials=[7, None])
    chart.line([1, 2], [0, 1], "s2", trial=3, label="<em>")
    assert 'data-trials="7 "' in chart.svg
    assert 'data-trials="3"' in chart.svg
    assert not any(tag in chart.svg for tag in ("<b>", "<i>", "<u>", "<em>", "<script>"))


def test_thinned_rows_keep_the_best_and_their_order() -> None:
    rows = [{"score": None if i % 5 == 0 else float(i % 97)} for i in range(1000)]
    thinned = plots.thinned(rows, 90)
    assert len(thinned) == 90
    assert [rows.index(row) for row in thinned[:3]] == sorted(rows.index(row) for row in thinned[:3])
    assert sum(row["score"] == 96.0 for row in thinned) == sum(row["score"] == 96.0 for row in rows)
    assert plots.thinned(rows[:50], 90) == rows[:50]


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
    tops: list[float | None] = []
    monkeypatch.setattr(Chart, "svg", property(lambda chart: tops.append(chart.y.high)))
    rows = [
        {"stage": "output", "name": name, "step": step, "weight": weight, "best_step": 2}
        for name, weight in (("a", 0.98), ("b", 0.02))
        for step in (1, 2)
    ]
    assert len(plots_weights.trajectories(rows)) == 1
    assert tops == [pytest.approx(0.98 * 1.08)]
