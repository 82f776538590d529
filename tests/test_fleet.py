"""Fleet: what a cluster must have, and what a worker does with a plan; the rest is in test_broker and test_search."""

import math
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_training import train as fake
from tiny import tiny_plan

from raysearch.config.sections import Resources
from raysearch.distributed import Ranks
from raysearch.errors import RunError
from raysearch.executors import worker_groups
from raysearch.executors.broker import Ending
from raysearch.executors.trial_runner import load, renew, run_plan
from raysearch.plan import TrialPlan
from raysearch.storage.schemas import Report
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
def test_as_many_groups_as_fit(resources: Resources, cpus: float, gpus: float, groups: int) -> None:
    assert worker_groups._fitting(resources, cpus, gpus) == groups


def test_ray_client_is_refused_with_a_way_that_works() -> None:
    with (
        pytest.raises(RunError, match=r"ray://host:10001: Ray Client is not supported.*ray job submit"),
        worker_groups.cluster("ray://host:10001", Resources(), dashboard=False),
    ):
        pass


def test_what_this_machine_cannot_give_is_refused_before_ray_is_started() -> None:
    with (
        pytest.raises(RunError, match=r"a trial takes 5000 workers x 1 CPUs; this machine has \d+ CPUs"),
        worker_groups.cluster(None, Resources(workers=5000), dashboard=False),
    ):
        pass


class Said:
    """Takes what a worker pushes; says leave from a step on."""

    def __init__(self, leave_at: float = math.inf) -> None:
        self.batches: list[list[Report]] = []
        self.leave_at = leave_at

    def __call__(self, reports: list[Report]) -> bool:
        self.batches.append(list(reports))
        return reports[-1].step >= self.leave_at

    @property
    def steps(self) -> list[int]:
        return [report.step for batch in self.batches for report in batch]


def run(folder: Path, said: Said, train: Callable[..., Any] = fake, **settings: Any) -> Ending:
    plan = tiny_plan(Path("/nowhere"), "end_task_only", **({"lr": 0.1, "dropout": 0.1} | settings))
    return run_plan(plan, folder, Ranks(), train, said)


def test_a_plan_that_takes_all_its_steps_is_complete_even_when_told_to_leave_at_the_last(tmp_path: Path) -> None:
    said = Said(leave_at=6)
    assert run(tmp_path, said) == Ending("complete", "")
    assert said.steps == [2, 4, 6]


def test_a_plan_that_is_told_to_leave_stops_there_and_goes_on_from_there(tmp_path: Path) -> None:
    said = Said(leave_at=4)
    assert run(tmp_path, said) == Ending("stopped", "stopped after step 4")
    assert said.steps == [2, 4]
    again = Said(leave_at=2)
    assert run(tmp_path, again).state == "complete"
    assert [len(batch) for batch in again.batches] == [3], (
        "what is said again comes with what is new, and never ends it"
    )
    assert [report.replayed for report in again.batches[0]] == [True, True, False]


def test_a_score_that_is_no_number_fails_the_plan_and_is_reported(tmp_path: Path) -> None:
    said = Said()
    assert run(tmp_path, said, dropout=0.81) == Ending("failed", "the score at step 2 is nan, not a number")
    assert said.steps == [2]


def test_what_training_raises_fails_the_plan_with_its_traceback(tmp_path: Path) -> None:
    ending = run(tmp_path, Said(), dropout=0.80)
    assert ending.state == "failed"
    assert ending.why.splitlines()[-1] == "OSError: the disk is full"
    assert "fake_training.py" in ending.why
    assert ending.error.startswith("OSError at ")


def test_what_a_user_presses_is_not_taken_for_a_failure(tmp_path: Path) -> None:
    def pressed(_plan: TrialPlan, **_more: Any) -> Generator[Report, bool, None]:
        raise KeyboardInterrupt
        yield

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Said(), train=pressed)


def test_the_function_that_trains_is_named_by_module_and_name() -> None:
    assert load("raysearch.training.trainer:train") is real


def test_a_process_is_put_back_to_where_a_fresh_one_begins() -> None:
    renew(7, 1)
    fresh = torch.rand(3)
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    torch.rand(5)
    renew(7, 1)
    assert torch.equal(torch.rand(3), fresh)
    assert torch.is_grad_enabled()
    assert torch.get_num_threads() == 1
