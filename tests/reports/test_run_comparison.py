from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean, stdev

import pytest
from helpers.runs import write_run
from scipy.stats import t

from raysearch.errors import RunError
from raysearch.reports.run_comparison import RunComparison, compare_runs
from raysearch.storage.ledger import Ledger
from raysearch.storage.run import Run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    small = {"trials": 4, "baselines": 1, "moving": False}
    write_run(folder / "a", **small)
    write_run(folder / "b", **small, gain=0.03, seed=1)
    write_run(folder / "unrepeated", **small, confirm=())
    write_run(folder / "other-seeds", **small, confirm=(7, 8))
    other_data = write_run(folder / "other-data", **small)
    with Ledger.open(other_data) as ledger:
        row = Run(other_data).searches().to_pylist()[-1]
        del row["time"]
        ledger.append("searches", [row | {"data": json.dumps({"fingerprint": "cd" * 32})}])
    return folder


def compare(folder: Path, *names: str, arm: str = "search") -> RunComparison:
    return compare_runs([Run(folder / name) for name in names], arm)


def fresh(folder: Path, name: str) -> dict[int, float]:
    rows = Run(folder / name).trials().to_pylist()
    return {row["seed"]: row["score"] for row in rows if row["role"] == "confirm" and row["arm"] == "search"}


def test_verdict_is_of_paired_differences_by_seed(folder: Path) -> None:
    comparison = compare(folder, "a", "b")
    a, b = fresh(folder, "a"), fresh(folder, "b")
    d = [b[seed] - a[seed] for seed in sorted(a)]
    half = t.ppf(0.975, len(d) - 1) * stdev(d) / len(d) ** 0.5
    (verdict,) = comparison.verdicts
    assert f"scores {abs(fmean(d)):.3f} macro_f1 more (3 fresh seeds; 95 % interval" in verdict
    assert f"{fmean(d) - half:+.3f} to {fmean(d) + half:+.3f}".replace("-", "\N{MINUS SIGN}") in verdict


def test_rows_put_budgets_beside_scores(folder: Path) -> None:
    first, second = compare(folder, "a", "b").runs
    assert (first["run"], first["configurations"], first["fresh seeds"]) == ("a", 4, 3)
    assert second["mean on fresh seeds"] == pytest.approx(fmean(fresh(folder, "b").values()))
    assert first["trials"] == 4 + 3
    assert first["recommended"] == "fine_tune"


def test_differences_are_the_keys_that_differ(folder: Path) -> None:
    assert compare(folder, "a", "b").differences == ()
    (row,) = compare(folder, "a", "unrepeated").differences
    assert row == {"key": "confirm.seeds", "a": [101, 102, 103], "unrepeated": []}


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        ("unrepeated", "the search's winner of unrepeated was not repeated on fresh seeds"),
        ("other-seeds", "no fresh seed is the same in both"),
        ("other-data", "their scores are of other examples"),
    ],
)
def test_runs_that_do_not_belong_together_have_no_verdict(folder: Path, other: str, reason: str) -> None:
    (verdict,) = compare(folder, "a", other).verdicts
    assert verdict.startswith(f"{other} compared with a: nothing can be said, because {reason}")


def test_baselines_of_runs_are_compared_by_name(folder: Path) -> None:
    comparison = compare(folder, "a", "b", arm="fine_tune")
    assert [row["arm"] for row in comparison.runs] == ["fine_tune"] * 2
    assert comparison.verdicts[0].startswith("b compared with a: fine_tune scores ")


def test_wrong_arguments_are_refused(folder: Path) -> None:
    with pytest.raises(RunError, match="needs two runs"):
        compare(folder, "a")
    with pytest.raises(RunError, match="named twice"):
        compare(folder, "a", "a")
    with pytest.raises(RunError, match="no run has an arm 'fine_tun'; did you mean 'fine_tune'"):
        compare(folder, "a", "b", arm="fine_tun")
