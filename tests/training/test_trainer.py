import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.plans import (
    AANG_OFFICIAL,
    LEARNED_WEIGHTINGS,
    OBJECTIVES,
    fast_weighting_settings,
    prepare_tiny_task,
    tiny_plan,
)
from helpers.ranks import report_values, saved_parameters
from helpers.resume import assert_resume_is_bit_equal

from raysearch.distributed import ProcessGroup
from raysearch.methods import methods_of
from raysearch.methods.schedule.phases import Phase
from raysearch.modalities.loading import load_space
from raysearch.modalities.opening import open_splits
from raysearch.modalities.text.config import ExtraTask
from raysearch.objectives.objective import Objective
from raysearch.storage.schemas import EVALUATIONS
from raysearch.training import checkpoint
from raysearch.training.checkpoint import TrialFolder
from raysearch.training.optimizer import rate_factor
from raysearch.training.trainer import Trial, train

METHODS_TO_RUN = [
    *(
        (w, s)
        for w, method in methods_of("weighting").items()
        for s in ("none", "attittud")
        if (w, s) != ("end_task_only", "attittud") and not method.merges_branches
    ),
    *(("static", s) for s in methods_of("surgery") if s not in ("none", "attittud")),
    ("aang", "pcgrad"),
]


@pytest.fixture(scope="module")
def data(tiny_task: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_tiny_task(tiny_task, tmp_path_factory.mktemp("prepared") / "data")


@pytest.mark.slow
@pytest.mark.parametrize(("weighting", "surgery"), METHODS_TO_RUN)
def test_method_trains_to_the_last_step_and_reports_all_columns(
    data: Path, tmp_path: Path, weighting: str, surgery: str
) -> None:
    plan = tiny_plan(data, weighting, surgery, "joint_then_finetune")
    reports = list(train(plan, folder=tmp_path))
    assert [report.step for report in reports] == [2, 4, 6, 8, 10]
    assert [report.last for report in reports] == [False] * 4 + [True]
    assert [report.evaluation["phase"] for report in reports] == ["joint"] * 3 + ["finetune"] * 2
    columns = set(EVALUATIONS.names) - {"trial_id", "attempt", "time"}
    assert all(set(report.evaluation) == columns for report in reports)
    assert reports[-1].evaluation["best"] == max(report.evaluation["score"] for report in reports)


OBJECTIVES_OF_EVERY_TYPE = [
    "in_domain/delete/bidirectional/denoise",
    "neural_lm/noisy_embeds/random_factorized/denoise",
    "out_of_domain/none/permutation/next_token",
    "end_task/mask/right_to_left/next_token",
    "end_task/replace/bidirectional/real_synthetic",
    "end_task/none/left_to_right/tf",
    "in_domain/bert/bidirectional/tfidf",
    "extra_topic/none/bidirectional/extra_label",
    "extra_pos/noisy_embeds/bidirectional/extra_label",
]


@pytest.fixture(scope="module")
def data_of_every_type(tiny_task: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Returns the prepared tiny task with every kind of data that objectives can have."""
    folder = tmp_path_factory.mktemp("data_of_every_type")
    rows = [json.loads(line) for line in Path(tiny_task["domain"]).read_text().splitlines()]
    words = [
        {"words": row["text"].split(), "tags": ["LONG" if len(w) > 4 else "O" for w in row["text"].split()]}
        for row in rows
    ]
    (folder / "pos.jsonl").write_text("".join(json.dumps(row) + "\n" for row in words))
    extra = {"topic": {"train": tiny_task["train"]}, "pos": {"train": str(folder / "pos.jsonl"), "kind": "token"}}
    more = {"out_of_domain": tiny_task["domain"], "neural_lm": tiny_task["domain"]}
    task = {**tiny_task, **more, "extra": {name: ExtraTask(**fields) for name, fields in extra.items()}}
    return prepare_tiny_task(task, folder / "data")


@pytest.mark.parametrize("engine", ["auto", "backward"])
def test_objectives_of_every_type_train_with_either_engine(
    data_of_every_type: Path, tmp_path: Path, engine: str
) -> None:
    stages = ("data", "transform", "representation", "output")
    objectives = tuple(
        Objective(**dict(zip(stages, name.split("/"), strict=True))) for name in OBJECTIVES_OF_EVERY_TYPE
    )
    settings = {
        "steps": 2,
        "aux_batch_size": 36,
        "dropout": 0.0,
        "engine": engine,
        "objectives_per_step": len(OBJECTIVES_OF_EVERY_TYPE),
    }
    plan = replace(tiny_plan(data_of_every_type, "aang", **settings), objectives=objectives)
    (report,) = train(plan, folder=tmp_path)
    assert report.evaluation["aux_loss"] > 0
    rows = report.weights.to_pylist() if report.weights is not None else []
    scores = {row["name"]: row["score"] for row in rows if row["kind"] == "objective" and row["step"] == 1}
    assert scores.keys() == set(OBJECTIVES_OF_EVERY_TYPE)
    assert all(score not in (None, 0.0) for score in scores.values())


@pytest.mark.slow
def test_space_of_hundreds_of_objectives_trains(data_of_every_type: Path, tmp_path: Path) -> None:
    objectives = load_space("aang_full").objectives
    plan = replace(tiny_plan(data_of_every_type, steps=2, objectives_per_step=6), objectives=objectives)
    (report,) = train(plan, folder=tmp_path)
    assert report.evaluation["aux_loss"] > 0


@pytest.mark.parametrize("surgery", methods_of("surgery"))
def test_pretraining_reports_nothing_before_fine_tuning(data: Path, tmp_path: Path, surgery: str) -> None:
    plan = tiny_plan(data, "static", surgery, "pretrain_then_finetune")
    reports = list(train(plan, folder=tmp_path))
    assert [(report.step, report.evaluation["phase"]) for report in reports] == [
        (6, "finetune"), (8, "finetune"), (10, "finetune"),
    ]  # fmt: skip


def test_train_is_deterministic_and_depends_on_the_seed(data: Path, tmp_path: Path) -> None:
    plan = tiny_plan(data, "aang", "attittud")
    first, second = ([report_values(r) for r in train(plan, folder=tmp_path / name)] for name in "ab")
    assert first == second
    other = [report_values(r) for r in train(tiny_plan(data, "aang", "attittud", seed=1), folder=tmp_path / "c")]
    assert other != first


@pytest.mark.slow
@pytest.mark.parametrize(
    ("weighting", "surgery"),
    [("aang", "attittud"), ("meta_tartan", "none"), ("aang", "none"), *((w, "none") for w in LEARNED_WEIGHTINGS)],
)
@pytest.mark.parametrize("stop_after", [1, 3, 4])
def test_train_resume_is_bit_equal(data: Path, tmp_path: Path, weighting: str, surgery: str, stop_after: int) -> None:
    more = (
        {"basis_every": 3}
        if surgery == "attittud"
        else AANG_OFFICIAL
        if weighting == "aang"
        else fast_weighting_settings(weighting)
    )
    plan = tiny_plan(data, weighting, surgery, "joint_then_finetune", **more)
    whole = list(train(plan, folder=tmp_path / "whole"))
    interrupted = train(plan, folder=tmp_path / "cut")
    before = [next(interrupted) for _ in range(stop_after)]
    interrupted.close()
    after = list(train(plan, folder=tmp_path / "cut"))
    assert [report_values(report) for report in after] == [report_values(report) for report in whole]
    assert [report.replayed for report in after] == [True] * len(before) + [False] * (len(whole) - len(before))
    ends = saved_parameters(tmp_path / "whole"), saved_parameters(tmp_path / "cut")
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_train_resume_between_checkpoints_repeats_lost_steps(data: Path, tmp_path: Path) -> None:
    plan = tiny_plan(data, "aang", "none", checkpoint_every=1)
    whole = [report_values(report) for report in train(plan, folder=tmp_path / "whole")]
    interrupted = train(plan, folder=tmp_path / "cut")
    next(interrupted)
    saved = (tmp_path / "cut" / "state.safetensors").read_bytes()
    next(interrupted)
    interrupted.close()
    (tmp_path / "cut" / "state.safetensors").write_bytes(saved)  # as if the second checkpoint had not been reached
    assert [report_values(report) for report in train(plan, folder=tmp_path / "cut")] == whole


def test_train_stop_ends_the_trial(data: Path, tmp_path: Path) -> None:
    trial = train(tiny_plan(data), folder=tmp_path)
    next(trial)
    with pytest.raises(StopIteration):
        trial.send(True)


@pytest.mark.parametrize("schedule", ["joint", "joint_then_finetune"])
def test_train_with_score_step_keeps_the_network_of_that_step(data: Path, tmp_path: Path, schedule: str) -> None:
    plan = tiny_plan(data, "static", "none", schedule, steps=8, eval_every=2, dropout=0.0, lr=5e-3)
    trial = train(plan, folder=tmp_path / "stopped")
    while next(trial).step < 4:
        pass
    expected = checkpoint.load(tmp_path / "stopped" / "state.safetensors")["parameters"]
    scored = replace(plan, score_step=4)
    reports = list(train(scored, folder=tmp_path / "whole"))
    assert [report.step for report in reports][:4] == [2, 4, 6, 8]
    assert len({report.evaluation["best"] for report in reports[1:]}) == 1
    assert reports[-1].evaluation["best"] == reports[1].evaluation["score"]
    best = checkpoint.load(tmp_path / "whole" / "best.safetensors")
    assert best["step"] == 4
    assert all(torch.equal(value, expected[name]) for name, value in best["parameters"].items())
    assert plan.key != scored.key


def test_train_patience_ends_the_phase(data: Path, tmp_path: Path) -> None:
    plan = tiny_plan(data, "end_task_only", lr=1e-12, head_lr=1e-12, patience=2, steps=40)
    reports = list(train(plan, folder=tmp_path))
    assert [report.step for report in reports] == [2, 4, 6]
    assert reports[-1].last


def test_train_non_finite_loss_raises(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ArithmeticError, match=r"step \d+: the loss is not finite"):
        list(train(tiny_plan(data, lr=1e30, head_lr=1e30, clip=0.0), folder=tmp_path))


def test_train_with_checkpoint_of_another_plan_is_rejected(data: Path, tmp_path: Path) -> None:
    list(train(tiny_plan(data), folder=tmp_path))
    with pytest.raises(ValueError, match="belongs to another plan"):
        list(train(tiny_plan(data, seed=5), folder=tmp_path))


def test_splits_cannot_open_the_test_split(data: Path) -> None:
    with pytest.raises(ValueError, match="may not open the test split"):
        open_splits(data)("test")


def test_train_with_lambda_e_one_equals_fine_tuning(data: Path, tmp_path: Path) -> None:
    alone = [r.evaluation["loss"] for r in train(tiny_plan(data, "end_task_only", dropout=0.0), folder=tmp_path / "a")]
    whole = tiny_plan(data, "static", lambda_e=1.0, dropout=0.0)
    assert [r.evaluation["loss"] for r in train(whole, folder=tmp_path / "b")] == pytest.approx(alone, abs=1e-6)


def test_attittud_with_unit_eta_equals_multitask(data: Path, tmp_path: Path) -> None:
    plain = [r.evaluation["loss"] for r in train(tiny_plan(data, dropout=0.0), folder=tmp_path / "a")]
    unit = tiny_plan(data, "static", "attittud", eta_perp=1.0, eta_pos=1.0, eta_neg=1.0, dropout=0.0)
    assert [r.evaluation["loss"] for r in train(unit, folder=tmp_path / "b")] == pytest.approx(plain, abs=1e-5)


def test_attittud_with_zero_eta_and_eta_prim_equals_fine_tuning(data: Path, tmp_path: Path) -> None:
    settings = {"dropout": 0.0, "clip": 0.0}
    alone = [r.evaluation["loss"] for r in train(tiny_plan(data, "end_task_only", **settings), folder=tmp_path / "a")]
    zero = tiny_plan(data, "eta_prim", "attittud", eta_perp=0.0, eta_pos=0.0, eta_neg=0.0, eta_prim=1.0, **settings)
    assert [r.evaluation["loss"] for r in train(zero, folder=tmp_path / "b")] == pytest.approx(alone, abs=1e-6)


def test_learning_rate_factor_rises_and_falls_linearly() -> None:
    phase = Phase(name="joint", steps=10, lr=1.0, head_lr=1.0)
    assert [rate_factor(step, phase, 0.2) for step in (1, 2, 3, 10)] == pytest.approx([0.5, 1.0, 8 / 9, 1 / 9])


@pytest.mark.parametrize("weighting", LEARNED_WEIGHTINGS)
def test_learned_weights_change_and_are_logged(data: Path, tmp_path: Path, weighting: str) -> None:
    plan = tiny_plan(data, weighting, **fast_weighting_settings(weighting))
    reports = list(train(plan, folder=tmp_path))
    logged = [row for report in reports if report.weights is not None for row in report.weights.to_pylist()]
    rows = [row for row in logged if row["kind"] != "signal"]
    first, last = rows[0]["step"], rows[-1]["step"]
    by_step = {
        step: [r["weight"] for r in rows if r["step"] == step and r["kind"] == "objective"] for step in (1, last)
    }
    assert first == 1
    assert last > 1
    assert by_step[1] != by_step[last]
    assert reports[-1].evaluation["lambda_e"] == pytest.approx(rows[-6]["weight"])


def test_constant_weights_are_logged_once(data: Path, tmp_path: Path) -> None:
    reports = list(train(tiny_plan(data), folder=tmp_path))
    assert {row["step"] for r in reports if r.weights is not None for row in r.weights.to_pylist()} == {1}


def test_weights_are_logged_for_every_objective_and_step(data: Path, tmp_path: Path) -> None:
    reports = list(train(tiny_plan(data, "aang", objectives_per_step=2), folder=tmp_path))
    rows = [row for report in reports if report.weights is not None for row in report.weights.to_pylist()]
    objectives = [row for row in rows if row["kind"] == "objective"]
    assert len(objectives) == 6 * len(OBJECTIVES)
    scored = [row for row in objectives if row["score"] is not None]
    assert len(scored) == 6 * 2
    assert {row["stage"] for row in rows if row["kind"] == "primitive"} == {
        "data", "transform", "representation", "output",
    }  # fmt: skip


def test_weights_every_limits_how_often_weights_are_logged(data: Path, tmp_path: Path) -> None:
    settings = {"meta_every": 2, "weights_every": 3, "steps": 12, "checkpoint_every": 1}
    reports = list(train(tiny_plan(data, "aang", **settings), folder=tmp_path))
    rows = [row for report in reports if report.weights is not None for row in report.weights.to_pylist()]
    assert sorted({row["step"] for row in rows}) == [1, 4, 8, 12]  # at first, then as soon as something was learned
    assert all(math.isfinite(row["weight"]) for row in rows)


def test_retrain_restarts_parameters_with_the_learned_weights(data: Path, tmp_path: Path) -> None:
    plan = tiny_plan(data, "aang", "none", "joint_then_retrain", lr=3e-3, checkpoint_every=1, lr_weights=0.5)
    reports = list(train(plan, folder=tmp_path / "both"))
    assert [(r.step, r.evaluation["phase"]) for r in reports] == [
        (2, "joint"), (4, "joint"), (6, "joint"), (8, "retrain"), (10, "retrain"),
    ]  # fmt: skip
    trial = Trial(plan, TrialFolder(tmp_path / "by hand"), ProcessGroup())
    first = {name: value.clone() for name, value in trial.network.named_parameters()}
    trial.runner.begin(trial.phases[0])
    for _ in range(6):
        trial.runner.advance(trial.phases[0])
    learned = trial.update.weighting.weights().clone()
    assert any(not torch.equal(first[name], value) for name, value in trial.network.named_parameters())
    trial.runner.begin(trial.phases[1])
    assert all(torch.equal(first[name], value) for name, value in trial.network.named_parameters())
    assert torch.equal(trial.update.weighting.weights(), learned)


@pytest.mark.slow
@pytest.mark.parametrize("stop_after", [2, 3, 4])
def test_retrain_resume_is_bit_equal(data: Path, tmp_path: Path, stop_after: int) -> None:
    assert_resume_is_bit_equal(tiny_plan(data, "aang", "none", "joint_then_retrain"), tmp_path, after=stop_after)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_train_outputs_that_are_not_finite_raise(data: Path, tmp_path: Path, value: float) -> None:
    trial = Trial(tiny_plan(data, "end_task_only", steps=4, eval_every=2), TrialFolder(tmp_path), ProcessGroup())
    first = next(trial.run())
    with torch.no_grad():
        next(iter(trial.network.end_task.parameters())).fill_(value)
    with pytest.raises(ArithmeticError, match=r"^step 2: outputs on \d+ of \d+ dev examples are not finite"):
        trial._evaluate(trial.phases[0])
    assert trial.runner.position.best == {"score": first.evaluation["score"], "step": 2}
