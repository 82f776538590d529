from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from resuming import resumed_bit_equal
from tiny import MODEL, tiny_data, tiny_plan

from raysearch.distributed import Ranks
from raysearch.modalities.text.network import TextNetwork
from raysearch.models.heads import DenoiseHead, LowRank
from raysearch.objectives.objective import Objective
from raysearch.training import checkpoint
from raysearch.training.checkpoint import TrialFolder
from raysearch.training.trainer import Trial, train

KINDS = ("tied", "shared", "low_rank", "untied")
H, V, R = 32, 120, 4
ENCODERS: dict[str, dict[str, Any]] = {
    "bert": {},
    "roberta": {"max_position_embeddings": 66, "pad_token_id": 0},
    "electra": {"embedding_size": H},
    "modernbert": dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id"), 0),
}


@pytest.fixture(scope="module")
def data(tiny_task: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_data(tiny_task, tmp_path_factory.mktemp("prepared") / "data")


def network(kind: str, model_type: str = "bert") -> TextNetwork:
    torch.manual_seed(0)
    config = {**MODEL["config"], "model_type": model_type, **ENCODERS[model_type]}
    plan = replace(tiny_plan(Path(), lm_head=kind, lm_rank=R), model={"config": config})
    return TextNetwork(plan, classes=3, vocabulary_size=V).eval()


@pytest.mark.parametrize(
    ("kind", "each", "once"),
    [("tied", 1, 0), ("shared", 0, 1), ("low_rank", 1, 0), ("untied", 1, 0)],
)
def test_heads_have_as_many_parameters_as_their_kind_says(kind: str, each: int, once: int) -> None:
    own = (H * H + H) + 2 * H + V + {"low_rank": R * (H + V), "untied": V * H}.get(kind, 0)
    parted = network(kind)
    denoise = {id(p): p for head in parted.heads if isinstance(head, DenoiseHead) for p in head.parameters()}
    body = {id(p) for p in parted.body.parameters()}
    assert sum(p.numel() for key, p in denoise.items() if key not in body) == (3 * each + once) * own
    assert (id(parted.body.get_input_embeddings().weight) in denoise) == (kind != "untied")


@pytest.mark.parametrize("model_type", ENCODERS)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_head_begins_with_the_logits_of_a_tied_one(kind: str, model_type: str) -> None:
    hidden = torch.randn(5, H, generator=torch.Generator().manual_seed(1))
    expected = network("tied", model_type).heads[0](hidden)
    parted = network(kind, model_type)
    torch.testing.assert_close(parted.heads[0](hidden), expected)
    assert (parted.heads[1] is parted.heads[0]) == (kind == "shared")
    if kind == "low_rank":
        (lora,) = [module for module in parted.heads[0].modules() if isinstance(module, LowRank)]
        torch.nn.init.ones_(lora.up.weight)
        hand = lora.decoder(hidden) + hidden @ lora.down.weight.T @ lora.up.weight.T
        torch.testing.assert_close(lora(hidden), hand)
        assert not torch.allclose(parted.heads[0](hidden), expected)


def test_shared_heads_are_one_for_each_output() -> None:
    outputs = ("denoise", "next_token", "denoise", "end_task", "end_task")
    objectives = tuple(
        Objective(data="end_task", transform="none", representation="left_to_right", output=output)
        for output in outputs
    )
    plan = replace(tiny_plan(Path(), lm_head="shared"), objectives=objectives)
    heads = TextNetwork(plan, classes=3, vocabulary_size=V).heads
    assert heads[0] is heads[2]
    assert len({id(head) for head in heads}) == 4


def trained(folder: Path, data: Path, *methods: str, **settings: Any) -> torch.Tensor:
    plan = tiny_plan(data, *methods, **{"steps": 4, "dropout": 0.0, "lr": 1e-3} | settings)
    list(train(plan, folder=folder))
    values = checkpoint.load(folder / "state.safetensors")["parameters"]
    return torch.cat([value.flatten().float() for _, value in sorted(values.items())])


@pytest.mark.parametrize(("weighting", "surgery"), [("aang", "none"), ("aang", "attittud"), ("static", "pcgrad")])
@pytest.mark.parametrize("kind", ["shared", "low_rank", "untied"])
def test_products_of_layers_train_every_kind_of_head_as_backwards_do(
    data: Path, tmp_path: Path, kind: str, weighting: str, surgery: str
) -> None:
    settings = {"lm_head": kind, "micro_batches": 2}
    fast = trained(tmp_path / "fast", data, weighting, surgery, **settings)
    slow = trained(tmp_path / "slow", data, weighting, surgery, engine="backward", **settings)
    assert (fast - slow).abs().mean() < 1e-6


def heads_gradient(folder: Path, data: Path, **settings: Any) -> torch.Tensor:
    plan = tiny_plan(data, "aang", dropout=0.0, lm_head="shared", lambda_e=0.3, **settings)
    trial = Trial(plan, TrialFolder(folder), Ranks())
    trial.update.weighting.logits["all"] += torch.tensor([0.0, 1.0, 2.0, 3.0])  # type: ignore[attr-defined]
    trial.update(trial.phases[0], 1)
    return torch.cat([p.grad.flatten() for p in trial.network.head_parameters() if p.grad is not None])


@pytest.mark.parametrize("engine", ["auto", "backward"])
def test_a_shared_head_learns_from_each_task_by_its_weight(data: Path, tmp_path: Path, engine: str) -> None:
    expected = heads_gradient(tmp_path / "sum", data, lr_weights=0.0, lr_lambda=0.0)  # one backward of the weighted sum
    found = heads_gradient(tmp_path / "apart", data, engine=engine)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind", ["shared", "low_rank", "untied"])
def test_a_trial_with_any_kind_of_head_resumes_bit_equal(data: Path, tmp_path: Path, kind: str) -> None:
    resumed_bit_equal(tiny_plan(data, "aang", lm_head=kind), tmp_path)
