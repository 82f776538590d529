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
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from raysearch.errors import RunError
from raysearch.storage.durable import sync_file
from raysearch.storage.schemas import Report
from raysearch.version import version_of

# The format of state.safetensors. It changes with the contents of a trial, a weighting or a surgery; the first format
# had no number.
FORMAT = 2
CHECKSUM_BYTES = 4  # a CRC-32, little-endian
_ARROW_END = b"ARROW1"
_TENSOR = "$tensor"
_INT_KEYS = "$int_keys"


def save(path: Path, tree: dict[str, Any]) -> None:
    """Writes `tree` (dicts, lists, tensors, numbers, strings, None) so that readers see all of it or nothing."""
    tensors: dict[str, Tensor] = {}
    outline = json.dumps(_strip(tree, tensors), allow_nan=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(path.name + ".tmp")
    metadata = {"tree": outline, "format": str(FORMAT), "raysearch": version_of("raysearch")}
    metadata["crc32"] = f"{_checksum(metadata, tensors):08x}"
    save_file(tensors, scratch, metadata=metadata)
    sync_file(scratch)
    scratch.replace(path)


def load(path: Path, device: torch.device | None = None) -> dict[str, Any]:
    """Returns the tree that `save` wrote, on `device` (CPU if None). Raises RunError if the file is damaged."""
    with _opened(path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- it is no mapping
        _verify(path, file.metadata(), tensors)
        tree: dict[str, Any] = _fill(json.loads(file.metadata()["tree"]), tensors, device)
        return tree


def _checksum(metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> int:
    """Returns the CRC-32 of the metadata, and of names, types, shapes and bytes of all tensors, sorted by name."""
    entries = {name: text for name, text in metadata.items() if name != "crc32"}
    checksum = zlib.crc32(json.dumps(entries, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        checksum = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), checksum)
        if tensor.numel():
            checksum = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, checksum)
    return checksum


def _verify(path: Path, metadata: Mapping[str, str], tensors: Mapping[str, Tensor]) -> None:
    """Raises RunError unless the file has the checksum that it states; files of earlier versions state none."""
    stated = metadata.get("crc32", "")
    if stated and stated != f"{_checksum(metadata, tensors):08x}":
        raise RunError(f"{path}: damaged (its checksum is wrong)")


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
        _verify(path, metadata, {name: file.get_tensor(name) for name in file.keys()})  # noqa: SIM118 -- no mapping
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


def _fill(node: Any, file: Mapping[str, Tensor], device: torch.device | None) -> Any:
    if isinstance(node, dict):
        if _TENSOR in node:
            tensor = file[node[_TENSOR]]
            return tensor if device is None else tensor.to(device)
        if _INT_KEYS in node:
            return {int(key): _fill(value, file, device) for key, value in node[_INT_KEYS].items()}
        return {key: _fill(value, file, device) for key, value in node.items()}
    if isinstance(node, list):
        return [_fill(value, file, device) for value in node]
    return node


def _without_checksum(path: Path) -> bytes:
    """Returns the Arrow file that a report is, without the CRC-32 at its end, which those of earlier versions lack.

    Raises ValueError if the checksum is wrong.
    """
    content = path.read_bytes()
    if content.endswith(_ARROW_END):
        return content
    content, stated = content[:-CHECKSUM_BYTES], content[-CHECKSUM_BYTES:]
    if zlib.crc32(content) != int.from_bytes(stated, "little"):
        raise ValueError("its checksum is wrong")
    return content


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
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, batch.schema) as writer:
            writer.write_batch(batch)
        content = sink.getvalue().to_pybytes()
        scratch.write_bytes(content + zlib.crc32(content).to_bytes(CHECKSUM_BYTES, "little"))
        scratch.replace(path)

    def reports(self, through: float = math.inf) -> list[Report]:
        """Returns the reports up to step `through`, marked as replayed. Raises RunError if a file cannot be read."""
        reports = []
        for path in sorted(self.folder.glob("report-*.arrow")):
            try:
                batch = pa.ipc.open_file(pa.py_buffer(_without_checksum(path))).read_all().combine_chunks()
                header = json.loads(batch.schema.metadata[b"report"])
            except (pa.ArrowException, KeyError, TypeError, ValueError, OSError) as error:
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
