"""Checkpoints of an earlier raysearch, or of a disk that was full."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.plans import OBJECTIVES, prepare_tiny_task, tiny_plan
from helpers.ranks import report_values, saved_parameters

from raysearch.config.search_config import Search
from raysearch.executors.messages import EventKind, TrialEvent
from raysearch.methods import METHODS
from raysearch.search import launch as module
from raysearch.search.launch import launch
from raysearch.storage.run import open_run
from raysearch.training import checkpoint
from raysearch.training.trainer import train

# The keys of a checkpoint. If one of them changes, checkpoint.FORMAT has to change, and so has the number here. A new
# method with a state gets a line in STATE_KEYS; the number stays, because old checkpoints are read as before.
FORMAT = 2
TRIAL_PARTS = "bases best key led optimizer parameters place rounds seconds sums surgery weighting weights"
STATE_KEYS = {
    "sums": "aux end_task steps",
    "weights": "last scores signal steps weights",
    "rounds": "optimizers round taken",
    "aang": "logits pending seen",
    "alphavil": "said w",
    "attittud": "V age",
    "auxinash": "alpha momentum p",
    "dga": "average log_alpha",
    "diw": "looks said w",
    "dwa": "means steps total",
    "evidence": "counts effects looks next sums",
    "exp3": "rewards turn",
    "factored_probes": "by_example effects has_measured measured measuring rounds said steps_since w",
    "famo": "adam before xi",
    "forkmerge": "left merges said w",
    "gates": "evidence",
    "gradnorm": "first w",
    "gradvac": "buffers rows",
    "meta_tartan": "logits pending seen",
    "nash_mtl": "rows",
    "ol_aux": "gained steps u",
    "pcd": "buffers rows",
    "probes": "looked said w",
    "rlw": "drawn",
    "ucb1": "counts means turn",
    "uncertainty": "log_variances",
}


@pytest.fixture(scope="module")
def data(tiny_task: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_tiny_task(tiny_task, tmp_path_factory.mktemp("prepared") / "data")


def rewrite_as_format(path: Path, number: int) -> None:
    """Writes a checkpoint again as one of another format, with other keys."""
    tree = checkpoint.load(path)
    del tree["led"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "FORMAT", number)
        patch.setattr(checkpoint, "version_of", lambda _: "0.0.9")
        checkpoint.save(path, tree)


def test_checkpoint_contents_are_pinned_to_the_format_number(data: Path, tmp_path: Path) -> None:
    list(train(tiny_plan(data, "alphavil", pass_steps=1, steps=12), folder=tmp_path))
    state = checkpoint.load(tmp_path / "state.safetensors")
    states = {part: state[part] for part in ("sums", "weights", "rounds")}
    for name, method in METHODS.items():
        if method.family != "schedule":
            objectives = (OBJECTIVES,) if method.family == "weighting" else ()
            instance = method.load()(*objectives, method.settings())
            if instance is not None and instance.state():
                states[name] = instance.state()
    assert " ".join(sorted(state)) == TRIAL_PARTS
    assert {part: " ".join(sorted(keys)) for part, keys in states.items()} == STATE_KEYS
    assert checkpoint.FORMAT == FORMAT


def test_trial_with_checkpoint_of_another_format_restarts(data: Path, tmp_path: Path) -> None:
    plan = tiny_plan(data, "aang", "none", "joint_then_finetune")
    whole = [report_values(report) for report in train(plan, folder=tmp_path / "whole")]
    interrupted = train(plan, folder=tmp_path / "cut")
    next(interrupted), next(interrupted)
    interrupted.close()
    rewrite_as_format(tmp_path / "cut" / "state.safetensors", 1)
    restarted = list(train(plan, folder=tmp_path / "cut"))
    assert [report_values(report) for report in restarted] == whole
    assert not any(report.replayed for report in restarted)
    assert (
        "cut/state.safetensors: a checkpoint of format 1 by raysearch 0.0.9, and raysearch"
        in restarted[0].restart_reason
    )
    assert not any(report.restart_reason for report in restarted[1:])
    ends = [saved_parameters(tmp_path / name) for name in ("whole", "cut")]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def launch_and_interrupt(search: Search, at: int) -> None:
    """Launches a search, with Ctrl-C at the report of this number."""
    reports, handle = 0, module.Recorder.handle

    def handle_then_interrupt(self: Any, event: TrialEvent) -> None:
        nonlocal reports
        handle(self, event)
        reports += event.kind is EventKind.REPORTS
        if event.kind is EventKind.REPORTS and reports == at:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module.Recorder, "handle", handle_then_interrupt)
        with pytest.raises(KeyboardInterrupt):
            launch(search, progress=False)


@pytest.mark.parametrize("damage", ["another format", "cut short"])
def test_run_with_unusable_checkpoint_restarts_only_that_trial(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str
) -> None:
    search = Search.from_dict(
        {
            "name": "digits",
            "task": "digits",
            "model": {"image": "small_cnn", "widths": [4, 8]},
            "method": {"weighting": "end_task_only"},
            "settings": {"steps": 6, "eval_every": 2, "batch_size": 8},
            "dimensions": {"lr": {"choice": [1e-3, 2e-3, 3e-3]}},
            "budget": {"trials": 3},
            "sampler": "grid",
            "executor": "in_process",
            "runs": str(tmp_path),
        }
    )
    launch_and_interrupt(search, at=5)  # the second trial's second report
    folder = tmp_path / "digits"
    first = open_run(folder).trials()
    assert first["state"].to_pylist() == ["complete"]
    (state,) = folder.glob("trials/*/state.safetensors")
    if damage == "cut short":
        state.write_bytes(state.read_bytes()[:1000])
    else:
        rewrite_as_format(state, 7)
    capsys.readouterr()
    run = launch(search)
    trials = run.trials()
    assert trials["state"].to_pylist() == ["complete"] * 3
    assert trials.slice(0, 1).equals(first)
    assert trials["attempts"].to_pylist() == [1, 2, 1]
    evaluations = run.evaluations(trials["trial_id"][1].as_py())
    assert evaluations.select(["step", "attempt"]).to_pydict() == {"step": [2, 4, 6], "attempt": [1, 1, 1]}
    (restart,) = [event for event in run.events().to_pylist() if event["event"] == "anew"]
    why = json.loads(restart["detail"])["why"]
    assert (restart["trial_id"], restart["attempt"]) == (trials["trial_id"][1].as_py(), 1)
    assert why.startswith(f"{state}: ")
    assert why.endswith("; the trial restarts from scratch")
    assert why in capsys.readouterr().err
