from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.plans import MODEL, prepare_tiny_task, tiny_plan
from helpers.resume import assert_resume_is_bit_equal

from raysearch.distributed import ProcessGroup
from raysearch.modalities.text.network import TextNetwork
from raysearch.models.heads import DenoiseHead, LowRank
from raysearch.objectives.objective import Objective
from raysearch.training import checkpoint
from raysearch.training.checkpoint import TrialFolder
from raysearch.training.trainer import Trial, train

HEAD_TYPES = ("tied", "shared", "low_rank", "untied")
H, V, R = 32, 120, 4
ENCODERS: dict[str, dict[str, Any]] = {
    "bert": {},
    "roberta": {"max_position_embeddings": 66, "pad_token_id": 0},
    "electra": {"embedding_size": H},
    "modernbert": dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id"), 0),
}


@pytest.fixture(scope="module")
def data(tiny_task: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare_tiny_task(tiny_task, tmp_path_factory.mktemp("prepared") / "data")


def network(head_type: str, model_type: str = "bert") -> TextNetwork:
    torch.manual_seed(0)
    config = {**MODEL["config"], "model_type": model_type, **ENCODERS[model_type]}
    plan = replace(tiny_plan(Path(), lm_head=head_type, lm_rank=R), model={"config": config})
    return TextNetwork(plan, classes=3, vocabulary_size=V).eval()


@pytest.mark.parametrize(
    ("head_type", "each", "once"),
    [("tied", 1, 0), ("shared", 0, 1), ("low_rank", 1, 0), ("untied", 1, 0)],
)
def test_lm_heads_have_the_parameter_count_of_their_type(head_type: str, each: int, once: int) -> None:
    head_size = (H * H + H) + 2 * H + V + {"low_rank": R * (H + V), "untied": V * H}.get(head_type, 0)
    text_network = network(head_type)
    denoise = {id(p): p for head in text_network.heads if isinstance(head, DenoiseHead) for p in head.parameters()}
    body = {id(p) for p in text_network.body.parameters()}
    assert sum(p.numel() for key, p in denoise.items() if key not in body) == (3 * each + once) * head_size
    assert (id(text_network.body.get_input_embeddings().weight) in denoise) == (head_type != "untied")


@pytest.mark.parametrize("model_type", ENCODERS)
@pytest.mark.parametrize("head_type", HEAD_TYPES)
def test_every_lm_head_type_starts_with_tied_logits(head_type: str, model_type: str) -> None:
    hidden = torch.randn(5, H, generator=torch.Generator().manual_seed(1))
    expected = network("tied", model_type).heads[0](hidden)
    text_network = network(head_type, model_type)
    torch.testing.assert_close(text_network.heads[0](hidden), expected)
    assert (text_network.heads[1] is text_network.heads[0]) == (head_type == "shared")
    if head_type == "low_rank":
        (lora,) = [module for module in text_network.heads[0].modules() if isinstance(module, LowRank)]
        torch.nn.init.ones_(lora.up.weight)
        by_hand = lora.decoder(hidden) + hidden @ lora.down.weight.T @ lora.up.weight.T
        torch.testing.assert_close(lora(hidden), by_hand)
        assert not torch.allclose(text_network.heads[0](hidden), expected)


def test_shared_lm_head_has_one_head_per_output() -> None:
    outputs = ("denoise", "next_token", "denoise", "end_task", "end_task")
    objectives = tuple(
        Objective(data="end_task", transform="none", representation="left_to_right", output=output)
        for output in outputs
    )
    plan = replace(tiny_plan(Path(), lm_head="shared"), objectives=objectives)
    heads = TextNetwork(plan, classes=3, vocabulary_size=V).heads
    assert heads[0] is heads[2]
    assert len({id(head) for head in heads}) == 4


def trained_parameters(folder: Path, data: Path, *methods: str, **settings: Any) -> torch.Tensor:
    plan = tiny_plan(data, *methods, **{"steps": 4, "dropout": 0.0, "lr": 1e-3} | settings)
    list(train(plan, folder=folder))
    values = checkpoint.load(folder / "state.safetensors")["parameters"]
    return torch.cat([value.flatten().float() for _, value in sorted(values.items())])


@pytest.mark.slow
@pytest.mark.parametrize(("weighting", "surgery"), [("aang", "none"), ("aang", "attittud"), ("static", "pcgrad")])
@pytest.mark.parametrize("head_type", ["shared", "low_rank", "untied"])
def test_factored_training_of_lm_heads_equals_backward_engine(
    data: Path, tmp_path: Path, head_type: str, weighting: str, surgery: str
) -> None:
    settings = {"lm_head": head_type, "micro_batches": 2}
    fast = trained_parameters(tmp_path / "fast", data, weighting, surgery, **settings)
    slow = trained_parameters(tmp_path / "slow", data, weighting, surgery, engine="backward", **settings)
    assert (fast - slow).abs().mean() < 1e-6


def heads_gradient(folder: Path, data: Path, **settings: Any) -> torch.Tensor:
    plan = tiny_plan(data, "aang", dropout=0.0, lm_head="shared", lambda_e=0.3, **settings)
    trial = Trial(plan, TrialFolder(folder), ProcessGroup())
    trial.update.weighting.logits["all"] += torch.tensor([0.0, 1.0, 2.0, 3.0])  # type: ignore[attr-defined]
    trial.update(trial.phases[0], 1)
    return torch.cat([p.grad.flatten() for p in trial.network.head_parameters() if p.grad is not None])


@pytest.mark.parametrize("engine", ["auto", "backward"])
def test_shared_lm_head_gradient_is_the_weighted_sum_of_tasks(data: Path, tmp_path: Path, engine: str) -> None:
    expected = heads_gradient(tmp_path / "sum", data, lr_weights=0.0, lr_lambda=0.0)  # one backward of the weighted sum
    actual = heads_gradient(tmp_path / "apart", data, engine=engine)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.slow
@pytest.mark.parametrize("head_type", ["shared", "low_rank", "untied"])
def test_trial_with_every_lm_head_type_resumes_bit_equal(data: Path, tmp_path: Path, head_type: str) -> None:
    assert_resume_is_bit_equal(tiny_plan(data, "aang", lm_head=head_type), tmp_path)
