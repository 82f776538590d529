from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest
from helpers.runs import write_run

import raysearch
from raysearch.reports.recommendation import recommend
from raysearch.storage.run import Run as StoredRun


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for name in ("a", "b"):
        write_run(folder / name, trials=6, baselines=1, moving=False)
    return folder


def test_trials_with_params_have_a_typed_column_each(folder: Path) -> None:
    run = raysearch.open_run("a", folder)
    table = run.trials(params=True)
    assert table.column_names[: len(run.trials().column_names)] == run.trials().column_names
    for row in table.to_pylist():
        drawn = json.loads(row["params"])
        names = ("surgery", "eta_neg", "k", "lr", "include.transform.mask")
        assert {name: row[name] for name in names} == {name: drawn.get(name) for name in names}
    assert table.schema.field("lr").type == pa.float64()
    assert table.schema.field("k").type == pa.int64()
    assert table.schema.field("include.transform.mask").type == pa.bool_()


def test_param_that_is_named_like_a_column_gets_a_prefix(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trials = raysearch.open_run("a", folder).trials().slice(0, 3)
    drawn = [json.dumps({"steps": 3, "mixed": 1}), json.dumps({"steps": 2.5, "mixed": "a"}), "{}"]
    place = trials.column_names.index("params")
    trials = trials.set_column(place, "params", pa.array(drawn))
    monkeypatch.setattr("raysearch.storage.run.read_table", lambda *_: trials)
    table = StoredRun(Path("nowhere")).trials(params=True)
    assert table["params.steps"].to_pylist() == [3.0, 2.5, None]
    assert table["mixed"].to_pylist() == ["1", "a", None]


def test_verdict_and_compare_are_those_of_the_command_line(folder: Path) -> None:
    run, other = raysearch.open_run("a", folder), raysearch.open_run("b", folder)
    assert run.verdict() == recommend(run).verdict
    assert run.compare(other).verdicts == run.compare("b").verdicts == raysearch.compare_runs([run, other]).verdicts
    assert [each.name for each in raysearch.list_runs(folder)] == ["b", "a"]
    assert set(run.analyze("arms")) == {"arms"}
    assert run.log()[-1].endswith("closed")


def test_html_shows_escaped_names(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "<b>x").mkdir()
    (folder / "a").rename(tmp_path / "<b>x" / "<i>a")
    run = raysearch.open_run("<i>a", tmp_path / "<b>x")
    html = run._repr_html_()
    (tmp_path / "<b>x" / "<i>a").rename(folder / "a")
    assert "<i>" not in html
    assert "&lt;i&gt;a" in html
    assert "fine_tune" in html


def test_search_and_space_show_their_counts() -> None:
    assert "24 objectives for text" in raysearch.load_space("aang_td")._repr_html_()
    html = raysearch.load_search("smoke")._repr_html_()
    assert all(word in html for word in ("search smoke", "fine_tune", "eta_neg", "docstrings, macro_f1"))


def test_every_public_name_is_found_and_listed() -> None:
    assert set(raysearch.__all__) <= set(dir(raysearch))
    assert all(getattr(raysearch, name).__doc__ for name in raysearch.__all__)
