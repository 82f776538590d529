"""Tables, prepared: from a user's rows, or drawn ones, to the splits that every trial reads.

A split is one Arrow file: `features`, float32 (d,) of every row, and `label`: a class, or a number in standard
deviations from the mean of its table (of train's, for the end task's splits). data.json has those, the names of
features and labels, and mean and standard deviation of each of train's features, by which a batch is normalised.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raysearch.data.prepared import (
    FRACTIONS,
    SPLITS,
    PreparedData,
    Split,
    count_leaks,
    is_up_to_date,
    leak_notes,
    load_prepared_data,
    resolve_path,
    sort_labels,
    split_by_hash,
    write_atomically,
)
from raysearch.errors import SpecError, did_you_mean
from raysearch.modalities.table import planted
from raysearch.modalities.table.readers import TableRows, read_table

if TYPE_CHECKING:
    from raysearch.modalities.table.config import TableTask

DATA_VERSION = "1"


@dataclass(frozen=True)
class TableSplit:
    """Rows mapped from disk."""

    features: NDArray[np.float32]  # (n, d) as they are
    labels: NDArray[Any] | None  # (n,) int32 classes, or float32 numbers

    def __len__(self) -> int:
        return len(self.features)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """All alike (n,)."""
        return np.zeros(len(self), dtype=np.int64)

    def row(self, i: int) -> NDArray[np.float32]:
        """Features (d,) of row `i`."""
        features: NDArray[np.float32] = self.features[i]
        return features


def prepare_table(task: TableTask, folder: Path, data_root: Path | None) -> PreparedData:
    """See `tasks.prepare`."""
    given = {part: getattr(task, part) for part in ("train", "dev", "test")}
    paths = {part: resolve_path(name, f"task.{part}", task.base, data_root) for part, name in given.items() if name}
    for name, extra in task.extra.items():
        paths[f"extra_{name}"] = resolve_path(extra.train, f"task.extra.{name}.train", task.base, data_root)
    source = _source(task, paths)
    if is_up_to_date(folder, source):
        return load_prepared_data(folder)
    splits = _drawn(task) if task.planted is not None else _dealt(task, _read(task, paths))
    return write_atomically(folder, lambda draft: _write(draft, task, splits, source))


def opened_table(batch: pa.RecordBatch) -> Split:
    """A split of the one batch of its file, not copied."""
    column = batch.column("features")
    features = column.flatten().to_numpy().reshape(len(column), column.type.list_size)
    return TableSplit(features, batch.column("label").to_numpy())


# ---- reading ----


def _source(task: TableTask, paths: Mapping[str, Path]) -> dict[str, Any]:
    """What the prepared data is a function of."""
    declared = {name: part for name, part in task.to_plain().items() if name != "base"}
    about: dict[str, Any] = {part: hashlib.sha256(path.read_bytes()).hexdigest() for part, path in paths.items()}
    plain: dict[str, Any] = json.loads(json.dumps(about | {"task": declared, "version": DATA_VERSION}))
    return plain


def _drawn(task: TableTask) -> dict[str, TableRows]:
    about = task.planted
    assert about is not None
    names = tuple(f"x{i}" for i in range(about.dim))
    return {
        name: TableRows("planted", names, table.features.astype(np.float32), table.labels.tolist())
        for name, table in planted.draw_tables(about).items()
    }


def _read(task: TableTask, paths: Mapping[str, Path]) -> dict[str, TableRows]:
    """The tables; all have the features of train."""
    others = frozenset({task.label, *(extra.label for extra in task.extra.values())})
    parts: dict[str, TableRows] = {}
    features = task.features
    for part, path in paths.items():
        label = task.extra[part.removeprefix("extra_")].label if part.startswith("extra_") else task.label
        numbers = task.kind_of(part) == "number"
        parts[part] = read_table(path, label, numbers=numbers, features=features, others=others)
        features = features or parts[part].names
    return parts


# ---- dealing out ----


def _dealt(task: TableTask, parts: dict[str, TableRows]) -> dict[str, TableRows]:
    given = task.split or {}
    shares = {name: float(given.get(name, share)) for name, share in FRACTIONS.items() if name not in parts}
    whole = parts["train"]
    if sum(shares.values()) >= 1:
        raise SpecError("the fractions leave nothing to train on", key="task.split")
    parts = parts | _cut(whole, {name: share for name, share in shares.items() if share}, "split", rest="train")
    if "dev" not in parts:
        raise SpecError("no dev rows to select on; give dev, or a fraction for it in split", key="task.dev")
    dev = parts.pop("dev")
    splits = parts | _cut(dev, {"meta_dev": task.meta_dev}, "meta_dev", rest="select_dev")
    for name, source in (("train", whole.source), ("select_dev", dev.source)):
        if not len(splits[name]):
            raise SpecError(f"no rows are left for {name}; give more rows or other fractions", file=source)
    extra = [name for name in splits if name.startswith("extra_")]
    return {name: splits[name] for name in (*SPLITS, *extra) if name in splits}


def _cut(rows: TableRows, shares: Mapping[str, float], salt: str, rest: str) -> dict[str, TableRows]:
    keys = rows.keys
    dealt = split_by_hash(keys, shares, salt)
    names = {name: name for name in shares} | {rest: ""}
    return {name: rows.take([i for i, key in enumerate(keys) if dealt[key] == to]) for name, to in names.items()}


# ---- labels ----


def _labels(name: str, splits: Mapping[str, TableRows], train: str) -> dict[str, Any]:
    """What is said of a label: its classes, or one column with mean and standard deviation."""
    rows = splits[train]
    if isinstance(rows.labels[0], str):
        classes = sort_labels(map(str, rows.labels))
        if len(classes) < 2:
            raise SpecError(f"only one class, {classes[0]!r}; there must be at least two", file=rows.source)
        for split in ("meta_dev", "select_dev", "test") if train == "train" else ():
            for label in splits[split].labels if split in splits else ():
                if label not in classes:
                    problem = f"{label!r} is no class of the training rows{did_you_mean(str(label), classes)}"
                    raise SpecError(problem, file=splits[split].source, key=split)
        return {"kind": "class", "labels": classes}
    values = np.array(rows.labels, dtype=np.float64)
    if not values.std() > 0:
        raise SpecError(f"all labels are {values[0]:g}: there is nothing to learn", file=rows.source)
    return {"kind": "number", "labels": [name], "mean": float(values.mean()), "std": float(values.std())}


def _encoded(rows: TableRows, about: Mapping[str, Any]) -> NDArray[Any]:
    if about["kind"] == "class":
        number = {label: i for i, label in enumerate(about["labels"])}
        return np.array([number[str(label)] for label in rows.labels], dtype=np.int32)
    values = (np.array(rows.labels, dtype=np.float64) - about["mean"]) / about["std"]
    return np.asarray(values.astype(np.float32))


# ---- writing ----


def _write(folder: Path, task: TableTask, splits: Mapping[str, TableRows], source: Mapping[str, Any]) -> None:
    train = splits["train"]
    label = _labels(task.label, splits, "train")
    extra = {name: _labels(name, splits, name) for name in splits if name.startswith("extra_")}
    about: dict[str, Any] = {"task": task.name, "kind": "table", "metric": task.metric, "labels": label["labels"]}
    about |= {"label": label, "extra": extra, "features": list(train.names)}
    about |= _moments(train.features)
    about["sizes"] = {name: len(rows) for name, rows in splits.items()}
    about["splits"] = {
        name: _write_split(folder / f"{name}.arrow", rows.features, _encoded(rows, extra.get(name, label)))
        for name, rows in splits.items()
    }
    about["fingerprint"] = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    about["meta_dev_from"] = "dev"
    keys = {name: rows.keys for name, rows in splits.items()}
    about["duplicates"] = {name: len(found) - len(set(found)) for name, found in keys.items()}
    about["leaks"] = count_leaks(keys)
    scored = {where: count for where, count in about["leaks"].items() if " in extra_" not in where}
    about["notes"] = leak_notes(scored, about["sizes"], "rows have features that also stand")
    about["source"] = source
    (folder / "data.json").write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _moments(features: NDArray[np.float32]) -> dict[str, list[float]]:
    mean, deviation = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    return {"mean": mean.round(6).tolist(), "std": np.where(deviation > 1e-6, deviation, 1.0).round(6).tolist()}


def _write_split(path: Path, features: NDArray[np.float32], labels: NDArray[Any]) -> dict[str, Any]:
    flat = np.ascontiguousarray(features)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), flat.shape[1])
    batch = pa.RecordBatch.from_pydict({"features": lists, "label": pa.array(labels)})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    digest = hashlib.sha256(flat.tobytes())
    digest.update(labels.tobytes())
    return {"rows": len(flat), "sha256": digest.hexdigest()}
