"""What a trial leaves in its folder: a checkpoint, the best model, and its reports; all without pickle.

state.safetensors    everything that is needed to go on, replaced at each checkpoint
best.safetensors     parameters of the best state on select-dev so far
report-<step>.arrow  what was said at each evaluation, so that a resumed trial can say it again

A checkpoint knows the number of its format and the raysearch that wrote it. A trial is a function of its plan, so one
that finds a checkpoint of another format, or a damaged one, begins anew and says so: it loses steps, and no result.
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

# Of state.safetensors: another number when a trial, a weighting or a surgery keeps other things; the first had none.
FORMAT = 2
_TENSOR = "$tensor"
_INT_KEYS = "$int_keys"


def save(path: Path, tree: dict[str, Any]) -> None:
    """Write `tree` (dicts, lists, tensors, numbers, strings, None) so that readers see all of it or nothing."""
    tensors: dict[str, Tensor] = {}
    outline = json.dumps(_strip(tree, tensors), allow_nan=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(path.name + ".tmp")
    about = {"tree": outline, "format": str(FORMAT), "raysearch": version_of("raysearch")}
    save_file(tensors, scratch, metadata=about)
    with scratch.open("rb") as file:
        os.fsync(file.fileno())
    scratch.replace(path)


def load(path: Path, device: torch.device | None = None) -> dict[str, Any]:
    """The tree that `save` wrote, on `device` (CPU if None). RunError names the file when it cannot be read."""
    with _opened(path) as file:
        tree: dict[str, Any] = _fill(json.loads(file.metadata()["tree"]), file, device)
        return tree


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise RunError(f"{path}: not a checkpoint that can be read ({error})") from error


def _about(path: Path) -> dict[str, str]:
    """What `save` wrote beside the tensors; RunError names the file when it cannot be read, or is cut short."""
    with _opened(path) as file:
        about: dict[str, str] = file.metadata()
        json.loads(about["tree"])
        return about


def _strip(node: Any, tensors: dict[str, Tensor]) -> Any:
    """`node` with every tensor moved to `tensors` and named in its place."""
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
        """Make the folder, and empty it of an attempt that cannot be gone on with: one line that says why, or ""."""
        self.folder.mkdir(parents=True, exist_ok=True)
        why = self._unusable() if self.state.exists() else ""
        if why:
            self.clear()
            self.best.unlink(missing_ok=True)
        return why and f"{why}; the trial begins anew"

    def _unusable(self) -> str:
        try:
            about = _about(self.state)
            if self.best.exists():
                _about(self.best)
            self.reports()
        except RunError as error:
            return str(error)
        number = about.get("format", "")
        if number == str(FORMAT):
            return ""
        written = f"of format {number} by raysearch {about['raysearch']}" if number else "of an earlier raysearch"
        here = f"raysearch {version_of('raysearch')} goes on from format {FORMAT}"
        return f"{self.state}: a checkpoint {written}, and {here}"

    def add_report(self, report: Report) -> None:
        """Keep `report` until the trial is committed."""
        batch = report.weights if report.weights is not None else pa.RecordBatch.from_pylist([])
        said = {"step": report.step, "evaluation": report.evaluation, "last": report.last}
        path = self.folder / f"report-{report.step:09d}.arrow"
        scratch = path.with_suffix(".tmp")
        batch = batch.replace_schema_metadata({"report": json.dumps(said)})
        with pa.ipc.new_file(scratch, batch.schema) as writer:
            writer.write_batch(batch)
        scratch.replace(path)

    def reports(self, through: float = math.inf) -> list[Report]:
        """The reports up to step `through`, marked as replayed. RunError names a file that cannot be read."""
        found = []
        for path in sorted(self.folder.glob("report-*.arrow")):
            try:
                with pa.OSFile(str(path)) as file:
                    batch = pa.ipc.open_file(file).read_all().combine_chunks()
                said = json.loads(batch.schema.metadata[b"report"])
            except (pa.ArrowException, KeyError, TypeError, ValueError) as error:
                raise RunError(f"{path}: not a report that can be read ({error})") from error
            if said["step"] <= through:
                weights = batch.replace_schema_metadata(None).to_batches()[0] if batch.num_rows else None
                found.append(Report(said["step"], said["evaluation"], weights, replayed=True, last=said["last"]))
        return found

    def clear(self) -> None:
        """Remove what only an unfinished trial needs; the best model stays."""
        for path in [self.state, *self.folder.glob("report-*"), *self.folder.glob("*.tmp")]:
            path.unlink(missing_ok=True)
