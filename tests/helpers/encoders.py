"""Small encoders with a folder of their own, as pre-trained ones have it."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from helpers.plans import MODEL, tiny_plan
from transformers import AutoConfig, AutoModel

from raysearch.data.prepared import load_metadata
from raysearch.distributed import ProcessGroup
from raysearch.modalities.opening import prepare
from raysearch.modalities.text.config import TextTask
from raysearch.plan import TrialPlan
from raysearch.training.context import TrainingContext

LAYERS = 3
SIZES = {"hidden_size": 32, "num_hidden_layers": LAYERS, "num_attention_heads": 2, "intermediate_size": 64}
POSITIONS = SIZES | {"max_position_embeddings": 66, "pad_token_id": 0}
ENCODERS: dict[str, dict[str, Any]] = {
    "bert": SIZES,
    "roberta": POSITIONS,
    "electra": SIZES | {"embedding_size": 16},
    "mpnet": POSITIONS,
    "distilbert": {"dim": 32, "n_layers": LAYERS, "n_heads": 2, "hidden_dim": 64},
    "modernbert": SIZES | dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id"), 0),
}


def prepare_encoder(task: dict[str, str], folder: Path, model_type: str = "bert") -> dict[str, Any]:
    """A randomly initialised encoder in a folder with the tokenizer of the task, as a plan declares it."""
    prepare(TextTask(**task), MODEL, folder / "words")
    place = folder / model_type
    shutil.copytree(folder / "words" / "tokenizer", place)
    size = load_metadata(folder / "words")["tokens"]["vocab_size"]
    torch.manual_seed(1)
    config = AutoConfig.for_model(model_type, vocab_size=size, **ENCODERS[model_type])
    AutoModel.from_config(config).save_pretrained(place)
    return {"path": str(place)}


def encoder_plan(
    task: dict[str, str], folder: Path, model: dict[str, Any], *methods: str, **settings: Any
) -> TrialPlan:
    """A plan that loads the encoder, with its data prepared in `folder`/data."""
    prepare(TextTask(**task), model, folder / "data")
    return replace(tiny_plan(folder / "data", *methods, **settings), model=model)


def encoder_context(plan: TrialPlan, dtype: torch.dtype = torch.float32) -> TrainingContext:
    """What training has of the plan, its network in `dtype`."""
    context = TrainingContext.from_plan(plan, ProcessGroup())
    context.network.to(dtype)
    return context
