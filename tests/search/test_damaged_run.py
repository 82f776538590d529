"""Damage to a run's files is told in one line that names the file, and costs no more than what was in it."""

import json
import random
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from helpers.plans import MODEL

from raysearch.config.search_config import Search
from raysearch.data import prepared
from raysearch.errors import RunError, SpecError
from raysearch.search.launch import launch
from raysearch.search.resume import load_stored_search
from raysearch.storage.rebuilding import REBUILT
from raysearch.storage.run import open_run
from raysearch.storage.schemas import TABLES, Report
from raysearch.training import checkpoint
from raysearch.training.checkpoint import TrialFolder

STUB_TRAINING = "helpers.stub_training:train"


@pytest.fixture(scope="module")
def finished(tiny_task: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four trials, one of which has failed, that is finished."""
    declared = {
        "name": "damaged",
        "task": tiny_task,
        "model": MODEL,
        "method": {"weighting": "end_task_only"},
        "settings": {"steps": 8, "eval_every": 2, "batch_size": 8},
        "dimensions": {"dropout": {"choice": [0.1, 0.2, 0.3, 0.80]}},
        "sampler": "grid",
        "budget": {"trials": 4},
        "executor": "in_process",
        "keep": -1,
        "runs": str(tmp_path_factory.mktemp("runs")),
    }
    return launch(Search.from_dict(declared), train=STUB_TRAINING, progress=False).path


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    shutil.copytree(finished, tmp_path / "runs" / "damaged")
    return tmp_path / "runs" / "damaged"


def problem_of(act: Callable[[], object]) -> str:
    """Returns the one line of what a call raises; empty if it raises nothing."""
    line = ""
    try:
        act()
    except (RunError, SpecError) as error:
        line = str(error)
    assert "\n" not in line
    return line


def resume(folder: Path) -> str:
    """Resumes a run as `raysearch resume` does; returns the error's line, or an empty one."""

    def act() -> None:
        search = load_stored_search(folder)
        assert search is not None
        again = replace(search, runs=str(folder.parent))
        launch(again, name=folder.name, train=STUB_TRAINING, progress=False)

    return problem_of(act)


def flip(file: Path, place: int, bit: int = 0) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1 << bit
    file.write_bytes(content)


def rows(folder: Path) -> dict[str, dict[str, Any]]:
    return {row["trial_id"]: row for row in open_run(folder).trials().to_pylist()}


# ---- tables ----


def test_lost_rows_of_trials_are_made_again_not_trained_again(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = rows(run)
    (run / "tables" / "trials" / "part-00000.parquet").unlink()
    with pytest.raises(RunError, match=r"trials/part-00000\.parquet: is missing, and with it rows of trials"):
        open_run(run).status()
    assert resume(run) == ""
    after = rows(run)
    assert after.keys() == before.keys()
    exact = ("arm", "role", "number", "seed", "state", "score", "best_step", "steps", "attempts", "plan", "params")
    for trial_id, row in before.items():
        assert {name: after[trial_id][name] for name in exact} == {name: row[name] for name in exact}
        assert after[trial_id]["why"].startswith(REBUILT)
    events = open_run(run).events().to_pylist()
    assert [event["event"] for event in events].count("started") == 4
    assert any("tables/trials/part-00000.parquet" in event["detail"] for event in events)
    del capsys


def test_lost_part_among_others_is_named(run: Path) -> None:
    part = run / "tables" / "events" / "part-00000.parquet"
    shutil.copy(part, part.with_name("part-00001.parquet"))
    part.unlink()
    with pytest.raises(RunError, match=r"events/part-00000\.parquet: is missing"):
        open_run(run).events()


@pytest.mark.parametrize("table", ["evaluations", "weights"])
def test_lost_part_of_another_table_costs_its_rows_alone(run: Path, table: str) -> None:
    before = rows(run)
    (run / "tables" / table / "part-00000.parquet").unlink()
    assert resume(run) == ""
    assert rows(run) == before
    assert open_run(run).status()["state"] == "finished"


@pytest.mark.parametrize("table", ["trials", "events"])
def test_flipped_bytes_of_a_part_are_one_line_or_no_change(run: Path, table: str) -> None:
    part, chance = run / "tables" / table / "part-00000.parquet", random.Random(0)
    content, expected = part.read_bytes(), getattr(open_run(run), table)()
    footer = range(len(content) - 3000, len(content))
    for place in [*chance.sample(range(len(content)), 150), *chance.sample(footer, 150)]:
        flip(part, place, chance.randrange(8))
        answers: list[pa.Table] = []
        problem = problem_of(lambda answers=answers: answers.append(getattr(open_run(run), table)()))  # type: ignore[misc]
        assert f"tables/{table}" in problem or answers[0].equals(expected)
        part.write_bytes(content)


# ---- search.json ----


def test_flipped_digit_of_the_search_is_refused_with_a_remedy(run: Path) -> None:
    file = run / "search.json"
    file.write_text(file.read_text().replace('"batch_size": 8', '"batch_size": 9'))
    assert "search.json: damaged or edited" in resume(run)
    file.write_text(file.read_text()[:100])
    assert "remove it, and the search in the run's tables is used" in resume(run)
    file.unlink()
    assert resume(run) == ""
    assert json.loads(file.read_text())["settings"]["batch_size"] == 8


# ---- prepared data ----

DAMAGE: dict[str, Callable[[Path], None]] = {
    "truncated": lambda file: file.write_bytes(file.read_bytes()[:-40]),
    "flipped": lambda file: flip(file, file.stat().st_size // 2),
    "emptied": lambda file: file.write_bytes(b""),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["data.json", "train.arrow", "select_dev.arrow", "texts/train.arrow"])
def test_damaged_data_are_one_line_that_names_the_file(run: Path, name: str, damage: str) -> None:
    DAMAGE[damage](run / "data" / name)

    def read() -> None:
        prepared.load_metadata(run / "data")
        prepared.read_batch(run / "data", Path(name).stem)

    remedy = r"; put it back, or remove .*/data: the data are prepared again from your files"
    assert re.search(rf"data/{name}: damaged \(.*\){remedy}", problem_of(read))


def test_removed_data_are_prepared_again_as_they_were(run: Path) -> None:
    before = {file.name: file.read_bytes() for file in (run / "data").glob("*.arrow")}
    shutil.rmtree(run / "data")
    assert resume(run) == ""
    assert {file.name: file.read_bytes() for file in (run / "data").glob("*.arrow")} == before


def test_data_of_an_earlier_version_are_read_without_checksums(run: Path) -> None:
    (run / "data" / "digests.json").unlink()
    prepared.read_batch(run / "data", "train")


# ---- checkpoints ----


def test_flipped_bytes_of_a_checkpoint_never_change_a_number(tmp_path: Path) -> None:
    file, chance = tmp_path / "best.safetensors", random.Random(0)
    tree = {"step": 4, "parameters": {"w": torch.randn(40, 3), "b": torch.zeros(0), "n": torch.arange(5)}, "score": 0.5}
    checkpoint.save(file, tree)
    content = file.read_bytes()
    damaged = 0
    for place in chance.sample(range(len(content)), 300):
        flip(file, place, chance.randrange(8))
        try:
            loaded = checkpoint.load(file)
            torch.testing.assert_close(loaded, tree, rtol=0, atol=0)
        except RunError:
            damaged += 1
        file.write_bytes(content)
    assert damaged > 250
    assert checkpoint.load(file)["step"] == 4


def test_trial_with_a_damaged_checkpoint_starts_from_scratch(tmp_path: Path) -> None:
    files = TrialFolder(tmp_path / "trial")
    for name in ("state", "best"):
        files.ready()
        checkpoint.save(files.state, {"w": torch.ones(9)})
        checkpoint.save(files.best, {"w": torch.ones(9)})
        assert files.ready() == ""
        flip(getattr(files, name), getattr(files, name).stat().st_size - 3)
        assert "damaged (its checksum is wrong); the trial restarts from scratch" in files.ready()
        assert not files.state.exists()
        assert not files.best.exists()


def test_flipped_bytes_of_a_report_are_one_line(tmp_path: Path) -> None:
    files = TrialFolder(tmp_path)
    weights = pa.RecordBatch.from_pylist([{"step": 1, "weight": 0.5}])
    files.add_report(Report(2, {"step": 2, "score": 0.5}, weights))
    (file,) = tmp_path.glob("report-*.arrow")
    content, (expected,) = file.read_bytes(), files.reports()
    for place in range(0, len(content), 7):
        flip(file, place)
        with pytest.raises(RunError, match="not a readable report"):
            files.reports()
        file.write_bytes(content)
    file.write_bytes(content[:-4])  # as earlier versions wrote it
    assert files.reports()[0].evaluation == expected.evaluation


def test_tables_of_a_run_are_those_that_the_test_knows(run: Path) -> None:
    assert {folder.name for folder in (run / "tables").iterdir()} == set(TABLES)
