"""An exported text model as ONNX too: model.onnx, which runs without torch and transformers.

    input_ids, attention_mask   (b, S) int64, as the folder's tokenizer gives them; any number of texts, any length
    logits                      (b, C) float32

Weights of more than 1.5 GB lie in model.onnx.data beside it. The packages are those of the extra `onnx`.
"""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from raysearch.data.prepared import Split
from raysearch.errors import RunError
from raysearch.modalities.base import OnnxWriter
from raysearch.modalities.text.batches import pad_texts
from raysearch.modalities.text.export import load_classifier_module
from raysearch.modalities.text.primitives.transforms import vocabulary_of
from raysearch.plan import TrialPlan

FILE = "model.onnx"
PACKAGES = ("onnx", "onnxruntime", "onnxscript")
TOLERANCE = 1e-4  # largest allowed difference between a logit of model.onnx and the exported model's
TEXTS = 16  # that both compute


class _Logits(nn.Module):
    """A classifier whose output is the logits alone."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        logits: Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        return logits.float()


def onnx_writer(plan: TrialPlan) -> OnnxWriter:
    """Returns what writes model.onnx into the folder of the plan's exported model.

    Raises RunError for a bag of words, and where a package is missing.
    """
    if plan.model.keys() & {"tfidf", "topics"}:
        raise RunError("a bag of words has no ONNX form here; export without --onnx")
    for name in PACKAGES:
        try:
            importlib.import_module(name)
        except ImportError as error:
            problem = f"an ONNX export needs the package {error.name or name}; pip install 'raysearch[onnx]'"
            raise RunError(problem) from error
    return partial(save_onnx, longest=plan.training.max_length)


def save_onnx(folder: Path, split: Split, metadata: Mapping[str, Any], longest: int) -> float:
    """Writes model.onnx into the folder of an exported model; returns its largest difference to that one's logits.

    Both compute padded texts of the split. Raises RunError where the model cannot be converted or the logits differ.
    """
    model = _Logits(load_classifier_module(folder)).eval()
    tokens, mask = padded_texts(split, longest, metadata)
    _convert(model, tokens, mask, folder / FILE)
    difference = _largest_difference(model, tokens, mask, folder / FILE)
    if not difference <= TOLERANCE:
        raise RunError(f"the logits of {FILE} differ by {difference:.2g} from the model's; export without --onnx")
    return difference


def padded_texts(split: Split, longest: int, metadata: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Returns tokens (n, S) and mask (n, S) of texts of a split; text i of n keeps its first (i + 1) / n tokens.

    So there is padding, whatever the texts' lengths; at least two tokens of each stay.
    """
    vocabulary = vocabulary_of(metadata)
    rows = [i % len(split) for i in range(min(TEXTS, max(2, len(split))))]
    tokens = pad_texts(split, rows, vocabulary, longest)
    lengths = (tokens != vocabulary.pad).sum(dim=1)
    shortened = (lengths * torch.arange(1, len(rows) + 1) / len(rows)).ceil().long().clamp(min=2)
    tokens = tokens.masked_fill(torch.arange(tokens.shape[1]) >= shortened[:, None], vocabulary.pad)
    return tokens, (tokens != vocabulary.pad).long()


def _convert(model: nn.Module, tokens: Tensor, mask: Tensor, file: Path) -> None:
    """Writes `model` as ONNX, with any batch size and length."""
    shape = {0: torch.export.Dim("batch"), 1: torch.export.Dim("length")}
    try:
        with _without_remarks():
            program: Any = torch.onnx.export(
                model,
                (tokens, mask),
                input_names=["input_ids", "attention_mask"],
                output_names=["logits"],
                dynamic_shapes=(shape, shape),
                dynamo=True,  # the older exporter writes the example's mask as a constant
                verbose=False,
            )
        for node in program.model.graph.all_nodes():
            node.metadata_props.clear()  # stack traces, with this machine's paths
        program.save(file, external_data=False)
    except Exception as error:  # the exporter raises anything; a user reads one line
        problem = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise RunError(f"the model cannot be written as ONNX; export without --onnx ({problem})") from error


@contextmanager
def _without_remarks() -> Iterator[None]:
    """Hides what torch's exporter remarks on its own code: deprecations, dimensions' names, torchvision's absence."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _largest_difference(model: nn.Module, tokens: Tensor, mask: Tensor, file: Path) -> float:
    """Returns the largest difference of a logit, over the texts as one batch and each without its padding."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    lengths = mask.sum(dim=1).tolist()
    batches = [(tokens, mask)]
    batches += [(tokens[i : i + 1, :n], mask[i : i + 1, :n]) for i, n in enumerate(lengths)]
    differences = []
    with torch.no_grad():
        for ids, real in batches:
            (logits,) = session.run(["logits"], {"input_ids": ids.numpy(), "attention_mask": real.numpy()})
            differences.append((model(ids, real) - torch.from_numpy(logits)).abs().max())
    return float(torch.stack(differences).max())
