"""The models that stay on disk are those of the best trials, and everybody names the same best trial."""

from pathlib import Path
from typing import Any

import pytest
from helpers.plans import MODEL

from raysearch.config.search_config import Search
from raysearch.reports import query
from raysearch.search import session as module
from raysearch.search.launch import launch
from raysearch.search.model_files import ModelFiles
from raysearch.storage.run import Run


def declared(**more: Any) -> Search:
    search = {
        "name": "tied",
        "task": {"name": "t", "train": "t.jsonl", "dev": "d.jsonl"},
        "model": MODEL,
        "method": {"weighting": "end_task_only"},
        "settings": {"steps": 8, "eval_every": 2, "batch_size": 8},
        "dimensions": {"lr": {"choice": [0.5, 0.1]}, "patience": {"choice": [5, 6, 7]}},  # the stub ignores patience
        "sampler": "grid",
        "budget": {"trials": 6},
        "executor": "in_process",
        "seeds": [3, 0],
        "keep": 1,
    }
    return Search.from_dict(search | more)


class Committer:
    """Commits trials to ModelFiles one by one, each with a folder, and says which folders are left."""

    def __init__(self, folder: Path, **more: Any) -> None:
        self.folder, self.models = folder, ModelFiles(declared(**more), folder)

    def commit(
        self, number: int, seed: int, score: float | None, state: str = "complete", role: str = "search"
    ) -> set[str]:
        trial_id = f"{number}-{seed}" if role == "search" else f"{role}-{number}-{seed}"
        (self.folder / "trials" / trial_id).mkdir(parents=True)
        row = {"trial_id": trial_id, "arm": "search", "role": role, "number": number, "seed": seed}
        row |= {"state": state, "score": score, "params": "{}"}
        self.models.add(row)
        self.models.tidy([row])
        return {path.name for path in (self.folder / "trials").iterdir()}


def test_model_of_an_unfinished_configuration_stays(tmp_path: Path) -> None:
    committer = Committer(tmp_path)
    committer.commit(0, 3, 0.5)
    assert committer.commit(0, 0, 0.5) == {"0-3"}
    assert committer.commit(1, 3, 0.5) == {"0-3", "1-3"}
    assert committer.commit(1, 0, 0.75) == {"1-0"}


def test_model_of_a_tied_later_configuration_is_removed(tmp_path: Path) -> None:
    committer = Committer(tmp_path)
    for number in (1, 0, 2):
        for seed in (0, 3):
            left = committer.commit(number, seed, 0.5)
    assert left == {"0-3"}
    best = committer.models.best("search")
    assert best is not None
    assert best["trial_id"] == "0-3"


def test_models_of_stopped_trials_give_way_to_complete_ones(tmp_path: Path) -> None:
    committer = Committer(tmp_path, seeds=[0])
    assert committer.commit(0, 0, 0.9, "stopped") == {"0-0"}
    assert committer.commit(1, 0, None, "failed") == {"0-0"}
    assert committer.commit(2, 0, 0.1) == {"2-0"}


@pytest.mark.parametrize(("keep", "left"), [(0, set()), (2, {"0-0", "1-0"}), (-1, {"0-0", "1-0", "2-0"})])
def test_models_of_the_declared_number_stay(keep: int, left: set[str], tmp_path: Path) -> None:
    committer = Committer(tmp_path, keep=keep, seeds=[0])
    for number in range(3):
        committer.commit(number, 0, 0.5)
    assert committer.commit(0, 9, 0.99, role="confirm") == left
    committer = Committer(tmp_path / "confirmed", keep=0, seeds=[0], confirm={"seeds": [9], "keep": True})
    (tmp_path / "confirmed").mkdir()
    assert committer.commit(0, 9, 0.99, role="confirm") == {"confirm-0-9"}


def test_everybody_names_the_same_best_trial(
    tiny_task: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    panels: list[module.Progress] = []

    class RecordedProgress(module.Progress):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            panels.append(self)

    monkeypatch.setattr(module, "Progress", RecordedProgress)
    search = declared(task=tiny_task, runs=str(tmp_path), confirm={"seeds": [7]})
    run: Run = launch(search, train="helpers.stub_training:train", progress=False)
    best = run.best()
    tied = [row for row in run.trials().to_pylist() if row["score"] == best["score"] and row["role"] == "search"]
    assert len(tied) == 3 * 2
    assert (best["number"], best["seed"]) == (min(row["number"] for row in tied), 3)
    assert panels[0].progress is not None
    live = panels[0].progress().best
    assert live is not None
    assert live[1] == best["trial_id"] == run.status()["best"]["trial_id"]
    assert run.configurations()["trial_id"][0].as_py() == best["trial_id"]
    assert query.analyze(run, ["leaderboard"])["leaderboard"]["trial_id"][0].as_py() == best["trial_id"]
    assert query.open_views(run)["best"]["trial_id"].to_pylist() == [best["trial_id"]]
    assert [row["number"] for row in run.trials().to_pylist() if row["role"] == "confirm"] == [best["number"]]
    assert [path.name for path in (run.path / "trials").iterdir()] == [best["trial_id"]]
