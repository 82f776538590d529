from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.plans import prepare_tiny_task, tiny_plan

from raysearch.distributed import ProcessGroup
from raysearch.gradients.task_gradients import DenseTaskGradients
from raysearch.methods.weighting.loss_balancing import FAMO
from raysearch.training import checkpoint
from raysearch.training.checkpoint import TrialFolder
from raysearch.training.step.task_backward import TaskBackward, TaskBackwardResult
from raysearch.training.step.task_forward import TaskForward
from raysearch.training.trainer import Trial, train


@pytest.fixture(scope="module")
def data(tiny_task: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_tiny_task(tiny_task, tmp_path_factory.mktemp("prepared") / "data")


def parameters_after_training(
    folder: Path, data: Path, *methods: str, **settings: Any
) -> tuple[torch.Tensor, list[dict[str, Any]]]:
    """Returns all parameters after a few steps, and every row of the weights table."""
    plan = tiny_plan(data, *methods, **{"steps": 4, "dropout": 0.0, "lr": 1e-3} | settings)
    reports = list(train(plan, folder=folder))
    values = checkpoint.load(folder / "state.safetensors")["parameters"]
    rows = [row for report in reports if report.weights is not None for row in report.weights.to_pylist()]
    return torch.cat([value.flatten().float() for _, value in sorted(values.items())]), rows


PER_TASK_CASES = [
    ("static", "attittud", {}),
    ("static", "attittud", {"basis_every": 3}),
    ("static", "attittud", {"basis": "randomized_svd"}),
    ("static", "attittud", {"basis": "range_finder", "scope": "per_layer"}),
    ("static", "attittud", {"scope": "all", "basis_rows": "same"}),
    ("static", "attittud", {"scope": "last", "last_layers": 1}),
    ("meta_tartan", "none", {}),
    ("meta_tartan", "none", {"similarity": "dot"}),
    ("aang", "none", {"meta_every": 2}),
    ("aang", "none", {"sample_every": "micro_step", "micro_batches": 2, "objectives_per_step": 2}),
    ("aang", "none", {"weight_form": "hierarchical", "batch_split": "hierarchical", "task_clip": 0.5}),
    ("aang", "attittud", {"dev_head_split": "train", "through_softmax": True, "lambda_form": "scalar"}),
    ("meta_tartan", "none", {"through_softmax": True, "batch_split": "equal", "task_clip": 0.5}),
    ("aang", "attittud", {}),
    ("static", "pcgrad", {}),
    ("aang", "upgrad", {"conflict_between": "sum"}),
    ("gradnorm", "none", {}),
    ("ol_aux", "none", {"ol_aux_steps": 1}),
    ("exp3", "none", {"objectives_per_step": 2}),
    ("ucb1", "none", {"objectives_per_step": 2}),
    ("dga", "none", {"dga_every": 1}),
    ("auxinash", "none", {"preference_every": 1}),
    ("auxinash", "attittud", {}),
    ("auxinash", "gcs", {}),
    ("famo", "attittud", {}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("weighting", "surgery", "settings"), PER_TASK_CASES, ids=str)
def test_update_layer_products_match_one_backward_per_gradient(
    data: Path, tmp_path: Path, weighting: str, surgery: str, settings: dict[str, Any]
) -> None:
    fast, weights = parameters_after_training(tmp_path / "fast", data, weighting, surgery, **settings)
    slow, expected = parameters_after_training(
        tmp_path / "slow", data, weighting, surgery, engine="backward", **settings
    )
    # AdamW divides by the gradient's size: where that is rounding, so is the step; hence the mean
    assert (fast - slow).abs().mean() < 1e-6
    for row, other in zip(weights, expected, strict=True):
        assert row["weight"] == pytest.approx(other["weight"], abs=1e-5)
        assert row["score"] == pytest.approx(other["score"], abs=1e-4)


FOLDS = {"dev_folds": 3, "evidence_every": 1}
FOLD_CASES = [
    ("aang", "attittud", {"dev_head": "closed_form", "dev_folds": 3, "meta_batch_size": 0}),
    ("evidence", "pcgrad", FOLDS | {"evidence_start": "zero", "evidence_margin": -2.0}),
    ("evidence", "none", FOLDS | {"similarity": "dot", "engine": "jvp"}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("weighting", "surgery", "settings"), FOLD_CASES, ids=str)
def test_update_with_closed_form_heads_is_the_same_by_engine(
    data: Path, tmp_path: Path, weighting: str, surgery: str, settings: dict[str, Any]
) -> None:
    _, weights = parameters_after_training(tmp_path / "fast", data, weighting, surgery, **settings)
    plain = settings | {"engine": "backward"}
    _, expected = parameters_after_training(tmp_path / "slow", data, weighting, surgery, **plain)
    for row, other in zip(weights, expected, strict=True):
        # evidence and signal are similarities in units of a standard error, of which a few looks leave little
        is_ratio = weighting == "evidence" or row["kind"] == "signal"
        assert row["weight"] == pytest.approx(other["weight"], abs=5e-3 if is_ratio else 1e-5)
        assert (row["score"] is None) == (other["score"] is None)
        size = 100 if settings.get("similarity") == "dot" else 1  # of a product, beside a cosine
        assert (row["score"] or 0.0) == pytest.approx(other["score"] or 0.0, abs=1e-4 * size, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("weighting", "surgery"),
    [
        ("static", "none"),
        ("static", "attittud"),
        ("aang", "attittud"),
        ("static", "gcs"),
        ("uncertainty", "none"),
        ("gradnorm", "none"),
    ],
)
def test_update_micro_batches_match_the_whole_batch(data: Path, tmp_path: Path, weighting: str, surgery: str) -> None:
    whole, _ = parameters_after_training(tmp_path / "whole", data, weighting, surgery)
    parts, _ = parameters_after_training(tmp_path / "parts", data, weighting, surgery, micro_batches=3)
    assert (whole - parts).abs().mean() < 1e-6


def test_update_with_delayed_weights_refuses_micro_batches(data: Path, tmp_path: Path) -> None:
    plan = tiny_plan(data, "famo", micro_batches=2)
    with pytest.raises(ValueError, match="'famo' weighs a step by its own losses: micro_batches must be 1"):
        list(train(plan, folder=tmp_path))


@pytest.mark.parametrize(("weighting", "surgery"), [("aang", "attittud"), ("static", "pcgrad")])
def test_update_in_bfloat16_is_close_to_float32(data: Path, tmp_path: Path, weighting: str, surgery: str) -> None:
    whole, _ = parameters_after_training(tmp_path / "whole", data, weighting, surgery)
    lower, _ = parameters_after_training(tmp_path / "lower", data, weighting, surgery, precision="bfloat16")
    assert 0 < (whole - lower).abs().mean() < 1e-3


def test_attittud_unit_eta_matches_multitask_parameters(data: Path, tmp_path: Path) -> None:
    unit = {"eta_perp": 1.0, "eta_pos": 1.0, "eta_neg": 1.0}
    cut, _ = parameters_after_training(tmp_path / "cut", data, "static", "attittud", **unit)
    plain, _ = parameters_after_training(tmp_path / "plain", data, "static", "none")
    assert (cut - plain).abs().mean() < 1e-7


def test_attittud_unit_average_differs_from_canonical_basis(data: Path, tmp_path: Path) -> None:
    pcgrad = {"basis": "unit_average", "k": 1, "eta_perp": 1.0, "eta_pos": 1.0, "eta_neg": 0.0}
    cut, _ = parameters_after_training(tmp_path / "cut", data, "static", "attittud", **pcgrad)
    canonical, _ = parameters_after_training(
        tmp_path / "canonical", data, "static", "attittud", **pcgrad | {"basis": "canonical"}
    )
    assert (cut - canonical).abs().mean() > 1e-5


@pytest.mark.parametrize(("weighting", "surgery"), [("static", "none"), ("aang", "attittud")])
def test_update_recomputed_activations_match_stored_ones(
    data: Path, tmp_path: Path, weighting: str, surgery: str
) -> None:
    stored, _ = parameters_after_training(tmp_path / "stored", data, weighting, surgery)
    recomputed, _ = parameters_after_training(tmp_path / "recomputed", data, weighting, surgery, recompute=True)
    assert (stored - recomputed).abs().mean() < 1e-7


def test_update_modules_without_a_layer_rule_are_logged_once(
    data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    from raysearch.gradients import layer_rules

    monkeypatch.delitem(layer_rules.GRADIENT_RULES, torch.nn.LayerNorm)
    slow, _ = parameters_after_training(tmp_path / "slow", data, "static", "attittud")
    (warning,) = [record.getMessage() for record in caplog.records if "no gradient rule" in record.getMessage()]
    assert "(LayerNorm)" in warning
    monkeypatch.undo()
    fast, _ = parameters_after_training(tmp_path / "fast", data, "static", "attittud")
    assert (slow - fast).abs().mean() < 1e-6


def test_task_clip_scales_each_gradient_before_weighting(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = tiny_plan(data, "aang", dropout=0.0, engine="backward", task_clip=0.7, lambda_e=0.3)
    trial = Trial(plan, TrialFolder(tmp_path), ProcessGroup())
    results: list[TaskBackwardResult] = []
    compute = trial.update.per_task.backward.compute

    def record_result(*arguments: Any) -> TaskBackwardResult:
        results.append(compute(*arguments))
        return results[-1]

    monkeypatch.setattr(trial.update.per_task.backward, "compute", record_result)
    trial.update(trial.phases[0], 1)
    (gradients,) = (result.gradients for result in results)
    assert isinstance(gradients, DenseTaskGradients)
    g = gradients.g
    factors = [min(1.0, 0.7 / float(row.norm())) for row in g]
    assert min(factors) < 1
    coefficients = [0.3, *[0.7 / 3] * 3]
    expected = sum(c * k * row for c, k, row in zip(coefficients, factors, g, strict=True))
    gradient = torch.cat([p.grad.flatten() for p in trial.network.body_parameters()])
    torch.testing.assert_close(gradient, expected)


def record_passes(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Returns a list that grows by an entry with every forward pass of the body and every backward pass."""
    passes: list[str] = []
    hidden, grad = trial.network.hidden, torch.autograd.grad

    def forward(*inputs: Any) -> torch.Tensor:
        passes.append(f"forward of {len(inputs[0])}")
        return hidden(*inputs)

    def backward(*arguments: Any, **options: Any) -> Any:
        passes.append("backward")
        return grad(*arguments, **options)

    monkeypatch.setattr(trial.network, "hidden", forward)
    monkeypatch.setattr(torch.autograd, "grad", backward)
    return passes


@pytest.mark.parametrize(
    ("weighting", "still"),
    [("static", {}), ("aang", {"lr_weights": 0.0, "lr_lambda": 0.0}), ("meta_tartan", {"lr_tasks": 0.0})],
)
@pytest.mark.parametrize("more", [{}, {"task_clip": 10.0}])
def test_update_with_fixed_weights_costs_one_backward(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weighting: str, still: dict[str, Any], more: Any
) -> None:
    if weighting == "static" and more:
        pytest.skip("has none")
    trial = Trial(tiny_plan(data, weighting, **still, **more), TrialFolder(tmp_path), ProcessGroup())
    passes = record_passes(trial, monkeypatch)
    trial.update(trial.phases[0], 1)
    assert [entry.split()[0] for entry in passes] == ["forward", "backward"]


@pytest.mark.parametrize("split", ["meta_dev", "train"])
def test_dev_gradients_forward_each_dev_batch_once(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, split: str
) -> None:
    settings = {"dev_head_split": split, "dev_head_examples": 7, "meta_batch_size": 5, "dev_head_tolerance": 0.0}
    trial = Trial(tiny_plan(data, "aang", **settings), TrialFolder(tmp_path), ProcessGroup())
    passes = record_passes(trial, monkeypatch)
    trial.update.dev_gradients.compute("dev_head", 1)
    assert passes == ["forward of 7", "forward of 5", "backward"]


@pytest.mark.parametrize(
    ("weighting", "forwards", "evaluations"),
    [("static", 1, 0), ("uncertainty", 1, 0), ("dwa", 1, 0), ("rlw", 1, 0), ("famo", 2, 0), ("gradnorm", 1, 1)],
)
def test_update_computes_only_what_the_weighting_requires(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weighting: str, forwards: int, evaluations: int
) -> None:
    calls = {"forwards": 0, "backwards": 0, "evaluations": 0}

    def counting(owner: Any, name: str, what: str) -> None:
        original = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            calls[what] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    counting(TaskForward, "losses", "forwards")
    counting(TaskForward, "gradient", "backwards")
    counting(TaskBackward, "compute", "evaluations")
    parameters_after_training(tmp_path, data, weighting)
    assert calls == {"forwards": 4 * forwards, "backwards": 4 * (1 - evaluations), "evaluations": 4 * evaluations}


def test_famo_recomputes_losses_with_the_same_dropout(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[float]] = []
    monkeypatch.setattr(FAMO, "learn", lambda *step: seen.append(step[2].losses.tolist()))
    monkeypatch.setattr(FAMO, "observe_after_update", lambda *step: seen.append(step[2].tolist()))
    parameters_after_training(tmp_path, data, "famo", dropout=0.3, lr=1e-30, head_lr=1e-30)
    assert seen[0::2] == [pytest.approx(after, abs=1e-6) for after in seen[1::2]]
    assert seen[0] != seen[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("weighting", "surgery", "engine"),
    [("aang", "none", "products"), ("meta_tartan", "attittud", "jvp"), ("aang", "none", "difference")],
)
def test_engines_match_one_backward_per_gradient(
    data: Path, tmp_path: Path, weighting: str, surgery: str, engine: str
) -> None:
    settings: dict[str, Any] = {"similarity": "dot", "micro_batches": 2, "dropout": 0.1}
    whole, weights = parameters_after_training(tmp_path / "a", data, weighting, surgery, engine=engine, **settings)
    repeated, _ = parameters_after_training(tmp_path / "b", data, weighting, surgery, engine=engine, **settings)
    assert torch.equal(whole, repeated)
    settings["dropout"] = 0.0
    fast, weights = parameters_after_training(tmp_path / "fast", data, weighting, surgery, engine=engine, **settings)
    slow, expected = parameters_after_training(
        tmp_path / "slow", data, weighting, surgery, engine="backward", **settings
    )
    assert (fast - slow).abs().mean() < (1e-4 if engine == "difference" else 1e-6)
    scores = [[row["score"] for row in rows if row["score"] is not None] for rows in (weights, expected)]
    assert len(scores[0]) == len(scores[1]) > 8
    both = torch.tensor(scores, dtype=torch.float64)
    assert torch.corrcoef(both)[0, 1] > 0.999
    if engine != "difference":
        torch.testing.assert_close(*both, rtol=1e-3, atol=1e-5)


def test_micro_batches_of_auxinash_train_through_fine_tuning(data: Path, tmp_path: Path) -> None:
    whole, _ = parameters_after_training(tmp_path / "whole", data, "auxinash", "none", "joint_then_finetune")
    parts, _ = parameters_after_training(
        tmp_path / "parts", data, "auxinash", "none", "joint_then_finetune", micro_batches=2
    )
    assert (whole - parts).abs().mean() < 1e-6
