"""The files in a trial's folder: a checkpoint, the best model, and its reports; all without pickle.

state.safetensors    the checkpoint: everything that is needed to resume, replaced each time
best.safetensors     the parameters with the best score on select-dev so far
report-<step>.arrow  the report of each evaluation, so that a resumed trial can yield it again

A checkpoint has the number of its format and the version of raysearch that wrote it. A trial is a function of its plan,
so one that finds a checkpoint of another format, or a damaged one, restarts from scratch and reports the reason: it
loses steps, but no result.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from raysearch.errors import RunError
from raysearch.storage.schemas import Report
from raysearch.version import version_of

# The format of state.safetensors. It changes with the contents of a trial, a weighting or a surgery; the first format
# had no number.
FORMAT = 2
_TENSOR = "$tensor"
_INT_KEYS = "$int_keys"


def save(path: Path, tree: dict[str, Any]) -> None:
    """Writes `tree` (dicts, lists, tensors, numbers, strings, None) so that readers see all of it or nothing."""
    tensors: dict[str, Tensor] = {}
    outline = json.dumps(_strip(tree, tensors), allow_nan=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(path.name + ".tmp")
    metadata = {"tree": outline, "format": str(FORMAT), "raysearch": version_of("raysearch")}
    save_file(tensors, scratch, metadata=metadata)
    with scratch.open("rb") as file:
        os.fsync(file.fileno())
    scratch.replace(path)


def load(path: Path, device: torch.device | None = None) -> dict[str, Any]:
    """Returns the tree that `save` wrote, on `device` (CPU if None). Raises RunError if the file cannot be read."""
    with _opened(path) as file:
        tree: dict[str, Any] = _fill(json.loads(file.metadata()["tree"]), file, device)
        return tree


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise RunError(f"{path}: not a readable checkpoint ({error})") from error


def _load_metadata(path: Path) -> dict[str, str]:
    """Returns what `save` wrote in addition to the tensors. Raises RunError if the file is damaged or truncated."""
    with _opened(path) as file:
        metadata: dict[str, str] = file.metadata()
        json.loads(metadata["tree"])
        return metadata


def _strip(node: Any, tensors: dict[str, Tensor]) -> Any:
    """Returns `node` with every tensor moved to `tensors` and replaced by its name there."""
    if isinstance(node, Tensor):
        name = str(len(tensors))
        tensors[name] = node.detach().cpu().contiguous().clone()
        return {_TENSOR: name}
    if isinstance(node, dict):
        stripped = {str(key): _strip(value, tensors) for key, value in node.items()}
        return {_INT_KEYS: stripped} if node and all(type(key) is int for key in node) else stripped
    if isinstance(node, list | tuple):
        return [_strip(value, tensors) for value in node]
    return node


def _fill(node: Any, file: Any, device: torch.device | None) -> Any:
    if isinstance(node, dict):
        if _TENSOR in node:
            tensor = file.get_tensor(node[_TENSOR])
            return tensor if device is None else tensor.to(device)
        if _INT_KEYS in node:
            return {int(key): _fill(value, file, device) for key, value in node[_INT_KEYS].items()}
        return {key: _fill(value, file, device) for key, value in node.items()}
    if isinstance(node, list):
        return [_fill(value, file, device) for value in node]
    return node


class TrialFolder:
    """The files of one trial; only rank 0 writes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state, self.best = folder / "state.safetensors", folder / "best.safetensors"

    def ready(self) -> str:
        """Creates the folder, and empties it if its checkpoint cannot be used: returns the reason in a line, or ""."""
        self.folder.mkdir(parents=True, exist_ok=True)
        reason = self._why_unusable() if self.state.exists() else ""
        if reason:
            self.clear()
            self.best.unlink(missing_ok=True)
        return reason and f"{reason}; the trial restarts from scratch"

    def _why_unusable(self) -> str:
        try:
            metadata = _load_metadata(self.state)
            if self.best.exists():
                _load_metadata(self.best)
            self.reports()
        except RunError as error:
            return str(error)
        number = metadata.get("format", "")
        if number == str(FORMAT):
            return ""
        writer = f"of format {number} by raysearch {metadata['raysearch']}" if number else "of an earlier raysearch"
        reader = f"raysearch {version_of('raysearch')} resumes from format {FORMAT}"
        return f"{self.state}: a checkpoint {writer}, and {reader}"

    def add_report(self, report: Report) -> None:
        """Stores `report` until the trial is committed."""
        batch = report.weights if report.weights is not None else pa.RecordBatch.from_pylist([])
        header = {"step": report.step, "evaluation": report.evaluation, "last": report.last}
        path = self.folder / f"report-{report.step:09d}.arrow"
        scratch = path.with_suffix(".tmp")
        batch = batch.replace_schema_metadata({"report": json.dumps(header)})
        with pa.ipc.new_file(scratch, batch.schema) as writer:
            writer.write_batch(batch)
        scratch.replace(path)

    def reports(self, through: float = math.inf) -> list[Report]:
        """Returns the reports up to step `through`, marked as replayed. Raises RunError if a file cannot be read."""
        reports = []
        for path in sorted(self.folder.glob("report-*.arrow")):
            try:
                with pa.OSFile(str(path)) as file:
                    batch = pa.ipc.open_file(file).read_all().combine_chunks()
                header = json.loads(batch.schema.metadata[b"report"])
            except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
                raise RunError(f"{path}: not a readable report ({error})") from error
            if header["step"] <= through:
                weights = batch.replace_schema_metadata(None).to_batches()[0] if batch.num_rows else None
                report = Report(header["step"], header["evaluation"], weights, replayed=True, last=header["last"])
                reports.append(report)
        return reports

    def clear(self) -> None:
        """Removes what only an unfinished trial needs; the best model stays."""
        for path in [self.state, *self.folder.glob("report-*"), *self.folder.glob("*.tmp")]:
            path.unlink(missing_ok=True)
