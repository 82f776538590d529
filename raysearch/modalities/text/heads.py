"""The heads of a text network's objectives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers import AutoModelForMaskedLM

from raysearch.modalities.text.pretrained import pretrained_source
from raysearch.modalities.text.taxonomy import TAXONOMY
from raysearch.models.heads import BorrowedHead, DenoiseHead, HuggingFaceHead, LabelHead
from raysearch.models.huggingface import build_or_load
from raysearch.objectives.primitive import BORROWED
from raysearch.plan import TrialPlan


def make_heads(plan: TrialPlan, network: Any, classes: Mapping[str, int], pooling: str) -> list[nn.Module]:
    """Returns a head for each of the plan's objectives; with `lm_head: shared` some are the same.

    `classes` is the number of labels of the end task and of each extra data set; heads for labels pool by `pooling`.
    """
    body = network.body
    template: HuggingFaceHead | None = None
    shared: dict[str, DenoiseHead] = {}
    sizes = {p.name: p.head for p in TAXONOMY.primitives if p.stage == "output"}
    sizes |= plan.primitives.get("heads", {})
    embedding = body.get_input_embeddings().weight
    heads: list[nn.Module] = []
    for objective in plan.objectives:
        size = sizes[objective.output]
        if size == "vocabulary":
            if template is None:
                template = _language_model_head(plan, embedding)
            head = DenoiseHead(template, embedding, plan.training.lm_head, plan.training.lm_rank)
            if plan.training.lm_head == "shared":
                head = shared.setdefault(objective.output, head)
            heads.append(head)
        elif size == BORROWED:
            heads.append(BorrowedHead(network))
        else:
            labels = {"labels": "end_task", "extra_labels": objective.data}
            numbers = classes[labels[size]] if size in labels else int(size)
            heads.append(LabelHead(body.config.hidden_size, numbers, nn.ReLU, plan.training.dropout, pooling))
    return heads


def _language_model_head(plan: TrialPlan, embedding: nn.Parameter) -> HuggingFaceHead:
    """Returns the head of the masked language model, its decoder tied to the embeddings."""
    model: Any = build_or_load(
        AutoModelForMaskedLM,
        plan.model,
        pretrained_source(plan.model),
        plan.training.dropout,
        overrides={"vocab_size": len(embedding)},
    )
    head = HuggingFaceHead(model)
    DenoiseHead.tie(head, embedding)
    return head
