"""Text tasks: from a user's rows to the splits that every trial reads."""

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
    UNLABELLED,
    PreparedData,
    count_leaks,
    is_up_to_date,
    leak_notes,
    load_prepared_data,
    resolve_path,
    sort_labels,
    split_by_hash,
    write_atomically,
)
from raysearch.data.row_readers import TextRows, read_hub_data_set, read_text_rows
from raysearch.errors import SpecError, did_you_mean
from raysearch.modalities.text import docstrings
from raysearch.modalities.text.token_labels import TaggedRows, encode_tags, read_tagged_rows

if TYPE_CHECKING:
    from raysearch.modalities.text.config import TextTask
    from raysearch.modalities.text.tokenizer import TaskTokenizer


EMBEDDED = {"docstrings": docstrings.load_rows}
DATA_VERSION = "1"


@dataclass(frozen=True)
class TextSplit:
    """Tokenised texts, mapped from disk; `tokens[offsets[i]:offsets[i + 1]]` is text i."""

    offsets: NDArray[np.int64]  # (n + 1,)
    tokens: NDArray[np.int32]
    labels: NDArray[np.int32] | None  # (n,), None for domain text
    tags: NDArray[np.int32] | None = None  # of each token, NO_TAG where it has none; None for texts without

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each text (n,)."""
        return np.diff(self.offsets)

    def row(self, i: int) -> NDArray[np.int32]:
        """Token ids of text `i`, special ones included."""
        return self.tokens[self.offsets[i] : self.offsets[i + 1]]


def prepare_text(task: TextTask, model: Mapping[str, Any], folder: Path, data_root: Path | None) -> PreparedData:
    """The splits of a text task in `folder`, as `opening.prepare` says."""
    paths = {part: _find(task, part, data_root) for part in ("train", "dev", "test", "domain")}
    for part in ("out_of_domain", "neural_lm"):
        if getattr(task, part) is not None:
            paths[part] = _find(task, part, data_root)
    for name, about in task.extra.items():
        paths[f"extra_{name}"] = resolve_path(about.train, f"task.extra.{name}.train", task.base, data_root)
    source = _source(task, model, paths)
    if is_up_to_date(folder, source):
        return load_prepared_data(folder)
    parts = _read(task, paths)
    splits = _deal(task, parts)
    labels = _label_names(splits)
    return write_atomically(folder, lambda draft: _write(draft, task, model, splits, labels, source))


def opened_text(batch: pa.RecordBatch) -> TextSplit:
    """A split of text, of its columns."""
    lists = batch.column("tokens")
    labels = batch.column("label").to_numpy() if "label" in batch.schema.names else None
    tags = batch.column("tags").values.to_numpy() if "tags" in batch.schema.names else None
    return TextSplit(lists.offsets.to_numpy().astype(np.int64), lists.values.to_numpy(), labels, tags)


# ---- reading ----


def _find(task: TextTask, part: str, data_root: Path | None) -> Path | None:
    given: str | None = getattr(task, part)
    return None if given is None else resolve_path(given, f"task.{part}", task.base, data_root)


def _source(task: TextTask, model: Mapping[str, Any], paths: Mapping[str, Path | None]) -> dict[str, Any]:
    """What the prepared data is a function of, as far as it can be told without reading the rows."""
    files = {part: hashlib.sha256(path.read_bytes()).hexdigest() if path else None for part, path in paths.items()}
    embedded = docstrings.versions() if task.embedded else None
    columns = {"text": task.text, "label": task.label}
    fractions = {"split": _fractions(task), "meta_dev": task.meta_dev}
    tokens = model.get("package") or model.get("path") or {"word pieces": model["config"].get("vocab_size")}
    about: dict[str, Any] = {"task": task.name, "metric": task.metric, **files, "hub": task.hub, "embedded": embedded}
    about |= {"columns": columns, "fractions": fractions, "tokenizer": tokens, "version": DATA_VERSION}
    if task.extra:
        about["extra"] = {name: [extra.kind, *extra.columns] for name, extra in task.extra.items()}
    plain: dict[str, Any] = json.loads(json.dumps(about))
    return plain


def _fractions(task: TextTask) -> dict[str, float]:
    given: Mapping[str, float] = task.split or {}
    return {part: float(given.get(part, default)) for part, default in FRACTIONS.items()}


def _read(task: TextTask, paths: Mapping[str, Path | None]) -> dict[str, TextRows]:
    """Rows by part: train, dev, test, domain; those that the task has."""
    if task.embedded:
        if task.name not in EMBEDDED:
            problem = f"{task.name!r} is no embedded task; give train or hub{did_you_mean(task.name, EMBEDDED)}"
            raise SpecError(problem, key="task.train")
        parts = dict(EMBEDDED[task.name]())
    elif task.hub:
        parts = read_hub_data_set(task.hub, task.text, task.label)
        if "train" not in parts:
            raise SpecError(f"data set {task.hub!r} has no train split", key="task.hub")
    else:
        parts = {}
    for part, path in paths.items():
        if path is not None and part.startswith("extra_"):
            extra = task.extra[part.removeprefix("extra_")]
            parts[part] = (read_tagged_rows if extra.kind == "token" else read_text_rows)(path, *extra.columns)
        elif path is not None:
            parts[part] = read_text_rows(path, task.text, None if part in UNLABELLED else task.label)
    return parts


# ---- dealing out ----


def _part(rows: TextRows, dealt: Mapping[str, str], name: str) -> TextRows:
    return rows.take([i for i, text in enumerate(rows.texts) if dealt[text] == name])


def _deal(task: TextTask, parts: dict[str, TextRows]) -> dict[str, TextRows]:
    """The splits, of the parts that the task came in."""
    parts = dict(parts)
    shares = {part: share for part, share in _fractions(task).items() if part not in parts}
    if shares:
        if sum(shares.values()) >= 1:
            raise SpecError("the fractions leave nothing to train on", key="task.split")
        whole = parts["train"]
        dealt = split_by_hash(whole.texts, shares, "split")
        parts |= {name: _part(whole, dealt, name) for name in shares} | {"train": _part(whole, dealt, "")}
    dev = parts.pop("dev", None)
    if dev is None:
        raise SpecError("no dev rows to select on; give dev, or a fraction for it in split", key="task.dev")
    dealt = split_by_hash(dev.texts, {"meta_dev": task.meta_dev}, "meta_dev")
    splits = {**parts, "meta_dev": _part(dev, dealt, "meta_dev"), "select_dev": _part(dev, dealt, "")}
    for name in ("train", "select_dev"):
        if not len(splits.get(name, ())):
            source = parts["train"].source if name == "train" else dev.source
            raise SpecError(f"no rows are left for {name}; give more rows or other fractions", file=source)
    names = (*SPLITS, *(name for name in splits if name.startswith("extra_")))
    return {name: splits[name] for name in names if name in splits}


def _label_names(splits: Mapping[str, TextRows]) -> list[str]:
    """The labels of train, in order (numbers by value); raises SpecError for a label that train does not have."""
    names = sort_labels(splits["train"].labels)
    if len(names) < 2:
        raise SpecError(f"only one label, {names[0]!r}; a task has at least two", file=splits["train"].source)
    known = set(names)
    for name in ("meta_dev", "select_dev", "test"):
        rows = splits.get(name)
        for i, label in enumerate(rows.labels if rows else ()):
            if rows is not None and label not in known:
                raise rows.error(i, "label", f"{label!r} is no label of the training rows{did_you_mean(label, names)}")
    return names


# ---- writing ----


def _write(
    folder: Path,
    task: TextTask,
    model: Mapping[str, Any],
    splits: Mapping[str, TextRows],
    labels: list[str],
    source: Mapping[str, Any],
) -> None:
    from raysearch.modalities.text.tokenizer import make_tokenizer

    texts = [text for name in ("train", "domain") if name in splits for text in splits[name].texts]
    vocabulary = make_tokenizer(model, texts, folder / "tokenizer")
    number = {label: i for i, label in enumerate(labels)}
    about: dict[str, Any] = {"task": task.name, "metric": task.metric, "labels": labels}
    about["sizes"] = {name: len(rows) for name, rows in splits.items()}
    extra = {name: _extra(rows) for name, rows in splits.items() if name.startswith("extra_")}
    about |= {"extra": extra} if extra else {}
    numbers = {name: {label: i for i, label in enumerate(own["labels"])} for name, own in extra.items()}
    about["splits"] = {
        name: _write_split(folder, name, rows, numbers.get(name, number), vocabulary) for name, rows in splits.items()
    }
    about |= {"tokens": vocabulary.tokens, "prefix": vocabulary.prefix, "suffix": vocabulary.suffix}
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    about["fingerprint"] = digest.hexdigest()
    about["meta_dev_from"] = "dev"
    about["duplicates"] = {name: len(rows) - len(set(rows.texts)) for name, rows in splits.items()}
    about["leaks"] = count_leaks({name: rows.texts for name, rows in splits.items()})
    about["notes"] = _notes(splits, labels, about)
    about["source"] = source
    (folder / "data.json").write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _extra(rows: TextRows) -> dict[str, Any]:
    """The kind and the labels of a further data set; SpecError for fewer than two."""
    tagged = isinstance(rows, TaggedRows)
    labels = rows.names if isinstance(rows, TaggedRows) else sort_labels(rows.labels)
    if len(labels) < 2:
        raise SpecError(f"only one label, {labels[0]!r}; there must be at least two", file=rows.source)
    return {"kind": "token" if tagged else "sentence", "labels": labels}


def _write_split(
    folder: Path, name: str, rows: TextRows, number: Mapping[str, int], vocabulary: TaskTokenizer
) -> dict[str, Any]:
    tokens, offsets = vocabulary.encode(rows.texts)
    if offsets[-1] > np.iinfo(np.int32).max:
        raise SpecError(f"{offsets[-1]} tokens in {name}: more than the 2^31 that one split can hold", file=rows.source)
    lists = pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(tokens))
    columns = {"tokens": lists}
    digest = hashlib.sha256(offsets.tobytes() + tokens.tobytes())
    if isinstance(rows, TaggedRows):
        tags = encode_tags(rows, vocabulary, number)
        columns["tags"] = pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(tags))
        digest.update(tags.tobytes())
    elif name not in UNLABELLED:
        labels = np.array([number[label] for label in rows.labels], dtype=np.int32)
        columns["label"] = pa.array(labels)
        digest.update(labels.tobytes())
    batch = pa.RecordBatch.from_pydict(columns)
    with pa.OSFile(str(folder / f"{name}.arrow"), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    lengths = np.diff(offsets)
    middle, long = (int(x) for x in np.quantile(lengths, (0.5, 0.95))) if len(lengths) else (0, 0)
    return {"rows": len(rows), "sha256": digest.hexdigest(), "tokens_p50": middle, "tokens_p95": long}


def _notes(splits: Mapping[str, TextRows], labels: list[str], about: Mapping[str, Any]) -> list[str]:
    notes = leak_notes(about["leaks"], about["sizes"], "rows have a text that also stands")
    train = splits["train"]
    if conflicts := len({*zip(train.texts, train.labels, strict=True)}) - len(set(train.texts)):
        notes.append(f"{conflicts} train texts carry more than one label")
    for name in ("select_dev", "test"):
        absent = sorted(set(labels) - set(splits[name].labels)) if name in splits else []
        if absent:
            notes.append(f"no {name} row has the label {', '.join(absent)}")
    return notes
