"""The page compares arms with each other and with a paper, and the values of each dimension, with plots."""

import re
from pathlib import Path

import pytest
from helpers.pages import ReportPage
from helpers.runs import write_study

from raysearch.reports import plots_sweep
from raysearch.reports.page import write_html
from raysearch.reports.verdicts import compare_arms, compare_values
from raysearch.storage.run import open_run

pytestmark = pytest.mark.slow  # whole trainings or pages

PAPER = {
    "source": "Dery, Dauphin & Grangier 2021, Table 2, https://arxiv.org/abs/2108.11346",
    "metric": "accuracy",
    "scores": {"search": "67.1 +- 1.31", "none": "53.6 +- 2.26"},
}
ARM_SCORES = {"search": 0.67, "none": 0.53, "pretrain": 0.645, "multitask": 0.665, "pcgrad": 0.642}
FRESH_SEEDS = (101, 102, 103, 104, 105)


def study(folder: Path, choices: dict[str, list[object]], score, **more) -> ReportPage:
    """Returns the page of a grid over these values, whose mean scores `score` gives."""
    dimensions = {name: {"choice": values} for name, values in choices.items()}
    return ReportPage(write_html(open_run(write_study(folder / "study", dimensions, score, **more))))


def plot_titles(page: ReportPage, section: str) -> list[str]:
    """Returns the labels of a section's plots."""
    inside = page.source.split(f'<section id="{section}">')[1].split("</section>")[0]
    return re.findall(r'role="img" aria-label="([^"]*)"', inside)


def test_page_states_verdicts_and_attributes_paper_scores(tmp_path):
    page = study(
        tmp_path,
        {"eta_neg": [-1.0, 0.0]},
        lambda params, arm: ARM_SCORES[arm] + 0.01 * params.get("eta_neg", 0),
        baselines=tuple(ARM_SCORES)[1:],
        confirm=FRESH_SEEDS,
        paper=PAPER,
    )
    scores = (
        r"The search's winner scores 0\.\d+ macro_f1 (more|less) than {} \(5 fresh seeds; 95 % interval \S+ to \S+\)"
    )
    assert re.search(scores.format("none") + ": it is better", page.words)
    assert re.search(scores.format("multitask") + ": no evidence that it helps", page.words)
    assert "cannot reach p" not in page.words.split("How this is computed: arms.sql")[0]
    assert "Paper's scores: Dery, Dauphin & Grangier 2021, Table 2" in page.words
    assert "They were printed there, not measured here" in page.words
    assert page.words.count("67.1 +- 1.31") == 3  # on dev, on test, and in the search as declared
    assert plot_titles(page, "arms") == ["Difference in macro_f1, search minus baseline"]


def test_arms_without_fresh_seeds_get_no_verdict(tmp_path):
    page = study(tmp_path, {"eta_neg": [-1.0, 0.0]}, lambda _, arm: ARM_SCORES[arm], baselines=("none",))
    assert "The search's winner compared with none: nothing is claimed (not repeated on fresh seeds)." in page.words
    assert plot_titles(page, "arms") == []
    assert "winner on fresh seeds" not in page.words


def test_sweep_plots_numeric_and_categorical_dimensions(tmp_path):
    page = study(
        tmp_path,
        {"m": [4, 16, 64], "basis": ["random", "canonical"]},
        lambda params, _: 0.5 + params["m"] / 640 + 0.02 * (params["basis"] == "random"),
        seeds=[0, 1],
        paper={"source": "Table 4", "metric": "accuracy", "values": {"basis": {"random": "58.72 +- 2.68"}}},
    )
    assert plot_titles(page, "sweep") == ["mean macro_f1 for each m", "mean macro_f1 for each basis"]
    assert {"basis random", "basis canonical", "4", "16", "64"} <= {text.strip() for text in page.text}
    assert "58.72 +- 2.68" in page.words
    assert 'id="dimensions"' not in page.source  # the section `sweep` has the values of a grid
    svgs = "".join(re.findall(r"<svg.*?</svg>", page.source, re.DOTALL))
    assert not re.search(r"#[0-9a-f]{6}", svgs)


def test_every_pair_of_etas_has_a_plot(tmp_path):
    eta = {name: [-1.0, 0.0] for name in ("eta_perp", "eta_pos", "eta_neg")}
    page = study(tmp_path, eta, lambda params, _: 0.5 + 0.03 * params["eta_perp"], seeds=[0])
    assert plot_titles(page, "dimensions") == [
        "macro_f1 over eta_perp and eta_pos",
        "macro_f1 over eta_perp and eta_neg",
        "macro_f1 over eta_pos and eta_neg",
    ]
    assert len(plot_titles(page, "sweep")) == 3


def points(**values: list[float]) -> list[dict[str, object]]:
    """Returns a row for every trial and dimension, with scores 0.0, 0.1, ..."""
    return [
        {"dimension": name, "trial_id": str(i), "number": v, "value": str(v), "score": i / 10, "state": "complete"}
        for name, each in values.items()
        for i, v in enumerate(each)
    ]


def test_sweep_means_and_standard_errors_match_hand_values():
    rows = points(k=[1, 1, 5, 5, 9])
    by_hand = [(1, 0.05, 0.05), (5, 0.25, 0.05), (9, 0.4, 0.0)]
    assert plots_sweep._means(rows) == [pytest.approx(row) for row in by_hand]


def test_sweep_with_third_or_partial_dimension_has_one_line():
    by = plots_sweep._by_other_dimension
    two = {"k": points(k=[1, 1, 2]), "m": points(m=[4, 8, 8])}
    assert {label: len(rows) for label, rows in by(two["k"], two, "k").items()} == {"m 4": 1, "m 8": 2}
    assert list(by(two["k"], {**two, "n": points(n=[1, 2, 3])}, "k")) == [""]
    assert list(by(two["k"], {**two, "m": points(m=[4, 8])}, "k")) == [""]
    assert list(by(two["k"], {"k": two["k"]}, "k")) == [""]


def test_eta_plot_needs_two_varying_etas():
    assert plots_sweep.eta_pairs(points(eta_pos=[0.1, 0.2], k=[1, 2]), {}, "f1") == []
    assert (
        len(plots_sweep.eta_pairs(points(eta_pos=[0.1, 0.2], eta_prim=[0.01, 0.5]), {"eta_prim": {"log": True}}, "f1"))
        == 1
    )
    assert plots_sweep.eta_pairs(points(eta_pos=[1], eta_neg=[0]), {}, "f1") == []


def test_single_arm_has_no_comparison():
    assert compare_arms([{"arm": "search", "fresh": False}], "f1") == []


def value_row(value: str, low: float | None, high: float | None) -> dict[str, object]:
    empty = dict.fromkeys(("paper", "source", "reference", "mean", "sd", "trials", "seeds", "pairs"))
    return {**empty, "dimension": "k", "value": value, "difference": -0.1, "low": low, "high": high}


@pytest.mark.parametrize(
    ("intervals", "words", "blocks"),
    [
        ([(None, None)], "No value was tried often enough", 1),
        ([(-0.2, 0.1), (None, None)], "None of 1 value is worse than the best one of its dimension", 1),
        ([(-0.2, -0.1), (-0.2, 0.1)], "1 of 2 values score less than the best one of their dimension", 2),
    ],
)
def test_values_without_a_difference_are_one_line(intervals, words, blocks):
    rows = [value_row(str(i), *bounds) for i, bounds in enumerate(intervals)]
    shown = compare_values(rows, [], {"dimensions": {"k": {}}, "sampler": "tpe"}, "f1")
    assert len(shown) == blocks
    assert shown[0].text.startswith(words)
