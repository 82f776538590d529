"""What a cluster must have, and what a worker does with a plan; the rest is in test_broker and test_launch."""

import math
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.plans import tiny_plan
from helpers.stub_training import train as stub_train

from raysearch.config.sections import Resources
from raysearch.distributed import ProcessGroup
from raysearch.errors import RunError
from raysearch.executors import ray_cluster
from raysearch.executors.capacity import Host, fitting_groups
from raysearch.executors.messages import TrialOutcome
from raysearch.executors.trial_runner import load_train_function, reset_process_state, run_plan
from raysearch.plan import TrialPlan
from raysearch.storage.schemas import Report
from raysearch.storage.states import TrialState
from raysearch.training.trainer import train as real


@pytest.mark.parametrize(
    ("resources", "cpus", "gpus", "groups"),
    [
        (Resources(), 2, 0, 2),
        (Resources(workers=2), 2, 0, 1),
        (Resources(workers=2), 5, 0, 2),
        (Resources(cpus=0.1), 2, 0, 20),
        (Resources(groups=1), 8, 0, 1),
        (Resources(groups=9), 2, 0, 2),
        (Resources(workers=3), 2, 0, 0),
        (Resources(gpus=1), 16, 2, 2),
        (Resources(cpus=0, gpus=0.5), 1, 1, 2),
        (Resources(gpus=1), 16, 0, 0),
    ],
)
def test_worker_group_count_fits_the_resources(resources: Resources, cpus: float, gpus: float, groups: int) -> None:
    assert fitting_groups(resources, [Host("n", "a", cpus=cpus, gpus=gpus)]) == groups


def test_ray_client_address_is_rejected_with_alternative() -> None:
    with (
        pytest.raises(RunError, match=r"ray://host:10001: Ray Client is not supported.*ray job submit"),
        ray_cluster.open_cluster("ray://host:10001", Resources(), dashboard=False),
    ):
        pass


def test_insufficient_local_resources_are_rejected_before_ray() -> None:
    with (
        pytest.raises(RunError, match=r"a trial takes 5000 workers x 1 CPUs; this machine has \d+ CPUs"),
        ray_cluster.open_cluster(None, Resources(workers=5000), dashboard=False),
    ):
        pass


class ReportRecorder:
    """Takes the reports of a worker, and asks it to stop from a step on."""

    def __init__(self, stop_at: float = math.inf) -> None:
        self.batches: list[list[Report]] = []
        self.stop_at = stop_at

    def __call__(self, reports: list[Report]) -> bool:
        self.batches.append(list(reports))
        return reports[-1].step >= self.stop_at

    @property
    def steps(self) -> list[int]:
        return [report.step for batch in self.batches for report in batch]


def run(
    folder: Path, recorder: ReportRecorder, train: Callable[..., Any] = stub_train, **settings: Any
) -> TrialOutcome:
    plan = tiny_plan(Path("/nowhere"), "end_task_only", **({"lr": 0.1, "dropout": 0.1} | settings))
    return run_plan(plan, folder, ProcessGroup(), train, recorder)


def test_plan_stopped_at_its_last_step_is_complete(tmp_path: Path) -> None:
    recorder = ReportRecorder(stop_at=6)
    assert run(tmp_path, recorder) == TrialOutcome(TrialState.COMPLETE, "")
    assert recorder.steps == [2, 4, 6]


def test_stopped_plan_resumes_from_its_last_step(tmp_path: Path) -> None:
    recorder = ReportRecorder(stop_at=4)
    assert run(tmp_path, recorder) == TrialOutcome(TrialState.STOPPED, "stopped after step 4")
    assert recorder.steps == [2, 4]
    again = ReportRecorder(stop_at=2)
    assert run(tmp_path, again).state == "complete"
    assert [len(batch) for batch in again.batches] == [3], (
        "replayed reports come with the new one, and never stop the trial"
    )
    assert [report.replayed for report in again.batches[0]] == [True, True, False]


def test_nan_score_fails_the_plan_and_is_reported(tmp_path: Path) -> None:
    recorder = ReportRecorder()
    outcome = run(tmp_path, recorder, dropout=0.81)
    assert outcome == TrialOutcome(TrialState.FAILED, "the score at step 2 is nan, not a number")
    assert recorder.steps == [2]


def test_training_error_fails_the_plan_with_traceback(tmp_path: Path) -> None:
    outcome = run(tmp_path, ReportRecorder(), dropout=0.80)
    assert outcome.state == "failed"
    assert outcome.why.splitlines()[-1] == "OSError: the disk is full"
    assert "helpers/stub_training.py" in outcome.why
    assert outcome.error.startswith("OSError at ")


def test_keyboard_interrupt_is_not_a_plan_failure(tmp_path: Path) -> None:
    def interrupted_train(_plan: TrialPlan, **_more: Any) -> Generator[Report, bool, None]:
        raise KeyboardInterrupt
        yield

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, ReportRecorder(), train=interrupted_train)


def test_train_function_is_loaded_by_module_and_name() -> None:
    assert load_train_function("raysearch.training.trainer:train") is real


def test_reset_process_state_restores_a_fresh_process() -> None:
    reset_process_state(7, 1)
    fresh = torch.rand(3)
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    torch.rand(5)
    reset_process_state(7, 1)
    assert torch.equal(torch.rand(3), fresh)
    assert torch.is_grad_enabled()
    assert torch.get_num_threads() == 1
