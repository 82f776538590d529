"""Text tasks, prepared: from a user's texts to the tokenised splits that every trial reads.

A split is one Arrow file: `tokens`, the ids of every text, and `label` or, of a data set with a tag for each word,
`tags`. The texts of the end task's splits and of its domain lie in files of their own, `texts/SPLIT.arrow`, with `text`
alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raysearch.data.parquet import stored_class_names
from raysearch.data.prepared import ORIGINALS, UNHASHED, read_split, write_split
from raysearch.data.row_readers import hidden_note, is_hidden
from raysearch.data.splits import EXTRA_PREFIX, UNLABELLED, declared_fractions, leak_notes, sort_labels, split_parts
from raysearch.errors import SpecError, did_you_mean, shorten, shorten_list
from raysearch.modalities.text import docstrings
from raysearch.modalities.text.readers import TextRows, read_hub_data_set, read_text_rows
from raysearch.modalities.text.token_labels import TaggedRows, encode_tags, read_tagged_rows

if TYPE_CHECKING:
    from raysearch.modalities.text.config import TextTask
    from raysearch.modalities.text.tokenizer import TaskTokenizer


REST = "rest"  # `domain: rest`: the rows of train that have no label
BUILT_IN = {"docstrings": docstrings.load_rows}
DATA_VERSION = "1"
SMALLEST_UNKNOWN = 1e-3  # share of unknown tokens that is worth a note
WITH_TEXTS = ("train", "meta_dev", "select_dev", "test", "domain")  # splits whose texts are stored, too


@dataclass(frozen=True)
class TextSplit:
    """Tokenised texts, mapped from disk; `tokens[offsets[i]:offsets[i + 1]]` is text i."""

    offsets: NDArray[np.int64]  # (n + 1,)
    tokens: NDArray[np.int32]
    labels: NDArray[np.int32] | None  # (n,), None for unlabelled text
    tags: NDArray[np.int32] | None = None  # of each token, NO_TAG where it has none; None for texts without tags
    texts: pa.Array | None = None  # the texts themselves (n,); None where they are not stored

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The number of tokens of each text (n,)."""
        return np.diff(self.offsets)

    def row(self, i: int) -> NDArray[np.int32]:
        """Returns the token ids of text `i`, special ones included."""
        return self.tokens[self.offsets[i] : self.offsets[i + 1]]

    def texts_of(self, rows: Sequence[int]) -> list[str]:
        """Returns the texts with these indices. Raises SpecError if the prepared data hold none."""
        if self.texts is None:
            raise SpecError("the run's prepared data hold no texts, because an older version has written them; fork it")
        texts: list[str] = self.texts.take(pa.array(rows, pa.int64())).to_pylist()
        return texts


class TextPreparation:
    """How texts are read, split and stored; a `data.pipeline.Preparation`."""

    folder_suffixes: Collection[str] = ()

    def __init__(self) -> None:
        self.tokenizer_notes: list[str] = []  # on the tokenizer of the splits that were written

    def files(self, task: TextTask) -> dict[str, str | None]:
        """Returns the declared path of each part; train, dev, test and domain are always among the parts."""
        files = {part: getattr(task, part) for part in ("train", "dev", "test", "domain")}
        files["domain"] = None if task.domain == REST else task.domain
        files |= {part: name for part in ("out_of_domain", "neural_lm") if (name := getattr(task, part)) is not None}
        return files | {f"{EXTRA_PREFIX}{name}": extra.train for name, extra in task.extra.items()}

    def source(self, task: TextTask, model: Mapping[str, Any], digests: Mapping[str, str | None]) -> dict[str, Any]:
        """Returns all that the prepared texts depend on and that is known before they are read."""
        source: dict[str, Any] = {"task": task.name, "metric": task.metric, **digests, "hub": task.hub}
        source["embedded"] = docstrings.versions() if task.embedded else None
        source["columns"] = {"text": task.text, "label": task.label}
        source["fractions"] = {"split": declared_fractions(task.split), "meta_dev": task.meta_dev}
        word_pieces = model.get("config") or {}
        source["tokenizer"] = (
            model.get("package") or model.get("path") or {"word pieces": word_pieces.get("vocab_size")}
        )
        source["version"] = DATA_VERSION
        if task.extra:
            source["extra"] = {name: [extra.kind, *extra.columns] for name, extra in task.extra.items()}
        return source

    def read_splits(self, task: TextTask, paths: Mapping[str, Path | None]) -> dict[str, TextRows]:
        """Reads the texts and splits them. Raises SpecError for data that cannot be used."""
        return split_parts(_read_parts(task, paths), task.split, task.meta_dev, lambda rows: rows.labels)

    def write_splits(
        self, folder: Path, task: TextTask, model: Mapping[str, Any], splits: Mapping[str, TextRows]
    ) -> dict[str, Any]:
        """Writes the tokenizer and the tokenised splits, and returns their metadata."""
        from raysearch.modalities.text.tokenizer import make_tokenizer

        labels = train_labels(splits)
        texts = [text for name in ("train", "domain") if name in splits for text in splits[name].texts]
        tokenizer = make_tokenizer(model, texts, folder / "tokenizer")
        metadata: dict[str, Any] = {"task": task.name, "metric": task.metric, "labels": labels}
        metadata["sizes"] = {name: len(rows) for name, rows in splits.items()}
        extra = {name: _extra_metadata(rows) for name, rows in splits.items() if name.startswith(EXTRA_PREFIX)}
        metadata |= {"extra": extra} if extra else {}
        label_names = dict.fromkeys(splits, labels) | {name: extra[name]["labels"] for name in extra}
        metadata["splits"] = {
            name: _write_split(folder, name, rows, label_names[name], tokenizer) for name, rows in splits.items()
        }
        self.tokenizer_notes = [*tokenizer.notes, *_token_notes(folder, splits, tokenizer)]
        metadata |= {"tokens": tokenizer.tokens, "prefix": tokenizer.prefix, "suffix": tokenizer.suffix}
        texts_of = {name: splits[name].texts for name in WITH_TEXTS if name in splits}
        return metadata | {UNHASHED: {"texts": _write_texts(folder / ORIGINALS, texts_of)}}

    def notes(self, splits: Mapping[str, TextRows], metadata: Mapping[str, Any]) -> list[str]:
        """Returns a sentence each for leaks, texts with two labels, and labels without held-out texts."""
        notes = list(dict.fromkeys(note for rows in splits.values() for note in rows.notes))
        notes += self.tokenizer_notes
        notes += leak_notes(metadata["leaks"], metadata["sizes"], "rows have a text that also stands")
        train = splits["train"]
        sources = [place.source for place in splits["domain"].places] if "domain" in splits else []
        if unlabelled := sources.count(train.source):
            notes.append(f"{unlabelled} rows of {train.source} have no label: they are unlabelled text of the domain")
        if conflicts := len({*zip(train.texts, train.labels, strict=True)}) - len(set(train.texts)):
            notes.append(f"{conflicts} train texts carry more than one label")
        for name in ("select_dev", "test"):
            absent = sorted(set(metadata["labels"]) - set(splits[name].labels)) if name in splits else []
            if absent:
                notes.append(f"no {name} row has the label {shorten_list(absent)}")
        return notes

    def decode(self, batch: pa.RecordBatch) -> TextSplit:
        """Returns the split that an Arrow file's batch holds, without a copy."""
        tokens = batch.column("tokens")
        labels = batch.column("label").to_numpy() if "label" in batch.schema.names else None
        tags = batch.column("tags").values.to_numpy() if "tags" in batch.schema.names else None
        texts = batch.column("text") if "text" in batch.schema.names else None
        return TextSplit(tokens.offsets.to_numpy().astype(np.int64), tokens.values.to_numpy(), labels, tags, texts)


def _read_parts(task: TextTask, paths: Mapping[str, Path | None]) -> dict[str, TextRows]:
    """Returns the rows of those parts that the task has: train, perhaps dev, test, domain and others."""
    parts: dict[str, TextRows] = {}
    if task.embedded:
        if task.name not in BUILT_IN:
            problem = f"{task.name!r} is not a built-in task; give train or hub{did_you_mean(task.name, BUILT_IN)}"
            raise SpecError(problem, key="task.train")
        parts = BUILT_IN[task.name]()
    elif task.hub:
        parts = read_hub_data_set(task.hub, task.text, task.label)
        if "train" not in parts:
            raise SpecError(f"data set {task.hub!r} has no train split", key="task.hub")
    train = paths.get("train")
    class_names = stored_class_names(train, task.label) if train is not None else []
    for part, path in paths.items():
        if path is not None and part.startswith(EXTRA_PREFIX):
            extra = task.extra[part.removeprefix(EXTRA_PREFIX)]
            parts[part] = (read_tagged_rows if extra.kind == "token" else read_text_rows)(path, *extra.columns)
        elif path is not None:
            label = None if part in UNLABELLED else task.label
            may_be_hidden = part in ("dev", "test")
            parts[part] = read_text_rows(
                path,
                task.text,
                label,
                needs_labels=False,
                may_be_hidden=may_be_hidden,
                class_names=class_names if may_be_hidden else (),
            )
    return parts if task.embedded else _with_unlabelled_rows(task, _without_hidden(parts))


def _without_hidden(parts: Mapping[str, TextRows]) -> dict[str, TextRows]:
    """Returns the parts without a dev or test whose labels are not published, and a note in their place."""
    train = parts["train"]
    hidden = [part for part in ("dev", "test") if part in parts and is_hidden(parts[part].labels, set(train.labels))]
    notes = [hidden_note(Path(parts[part].source).name, part) for part in hidden]
    rest = {part: rows for part, rows in parts.items() if part not in hidden}
    for rows in (rest[part] for part in ("dev", "test") if part in rest):
        if "" in rows.labels:
            raise rows.places[rows.labels.index("")].error("label", "the label is empty")
    return rest | {"train": replace(train, notes=(*train.notes, *notes))}


def _with_unlabelled_rows(task: TextTask, parts: Mapping[str, TextRows]) -> dict[str, TextRows]:
    """Returns the parts with those rows of train that have no label as text of the domain.

    Raises SpecError if there are none and they are the declared domain, and if no row has a label.
    """
    train, unlabelled = parts["train"].split_unlabelled()
    if not len(train):
        raise SpecError(f"no row has a label in the column {task.label!r}", file=train.source)
    if len(unlabelled):
        domain = parts["domain"].extend(unlabelled) if "domain" in parts else unlabelled
        return {**parts, "train": train, "domain": domain}
    if task.domain == REST:
        raise SpecError(
            "every row of train has a label: there is no rest; name a file, or leave it out", key="task.domain"
        )
    return dict(parts)


def train_labels(splits: Mapping[str, TextRows]) -> list[str]:
    """Returns the labels of train, in order. Raises SpecError for a held-out row with another label."""
    names = sort_labels(splits["train"].labels)
    known = set(names)
    if len(names) < 2:
        raise SpecError(f"only one label, {names[0]!r}; a task has at least two", file=splits["train"].source)
    for name in ("meta_dev", "select_dev", "test"):
        if name not in splits:
            continue
        for place, label in zip(splits[name].places, splits[name].labels, strict=True):
            if label not in known:
                problem = f"{shorten(label)!r} is not a label of the training rows{did_you_mean(label, names)}"
                raise place.error("label", problem)
    return names


def _extra_metadata(rows: TextRows) -> dict[str, Any]:
    """Returns the kind and the labels of a further data set. Raises SpecError if it has fewer than two."""
    is_tagged = isinstance(rows, TaggedRows)
    labels = rows.tag_names if isinstance(rows, TaggedRows) else sort_labels(rows.labels)
    if len(labels) < 2:
        raise SpecError(f"only one label, {labels[0]!r}; there must be at least two", file=rows.source)
    return {"kind": "token" if is_tagged else "sentence", "labels": labels}


def _write_split(
    folder: Path, name: str, rows: TextRows, label_names: Sequence[str], tokenizer: TaskTokenizer
) -> dict[str, Any]:
    class_of = {label: i for i, label in enumerate(label_names)}
    tokens, offsets = tokenizer.encode(rows.texts)
    if offsets[-1] > np.iinfo(np.int32).max:
        raise SpecError(f"{offsets[-1]} tokens in {name}: more than the 2^31 that one split can hold", file=rows.source)
    arrow_offsets = pa.array(offsets.astype(np.int32))
    columns = {"tokens": pa.ListArray.from_arrays(arrow_offsets, pa.array(tokens))}
    digest = hashlib.sha256(offsets.tobytes() + tokens.tobytes())
    if isinstance(rows, TaggedRows):
        tags = encode_tags(rows, tokenizer, class_of)
        columns["tags"] = pa.ListArray.from_arrays(arrow_offsets, pa.array(tags))
        digest.update(tags.tobytes())
    elif name not in UNLABELLED:
        labels = np.array([class_of[label] for label in rows.labels], dtype=np.int32)
        columns["label"] = pa.array(labels)
        digest.update(labels.tobytes())
    write_split(folder / f"{name}.arrow", pa.RecordBatch.from_pydict(columns))
    lengths = np.diff(offsets)
    middle, long = (int(x) for x in np.quantile(lengths, (0.5, 0.95))) if len(lengths) else (0, 0)
    return {"rows": len(rows), "sha256": digest.hexdigest(), "tokens_p50": middle, "tokens_p95": long}


def _token_notes(folder: Path, names: Iterable[str], tokenizer: TaskTokenizer) -> list[str]:
    """Returns notes on texts without tokens, and on train's unknown tokens if they are at least SMALLEST_UNKNOWN."""
    splits = {name: cast(TextSplit, read_split(folder, name, TextPreparation().decode)) for name in names}
    notes = []
    for name, split in splits.items():
        if empty := int((split.lengths <= tokenizer.prefix + tokenizer.suffix).sum()):
            notes.append(f"{name}: texts without a token, such as those of invisible characters: {empty}")
    tokens = splits["train"].tokens
    unknown = int(np.count_nonzero(tokens == tokenizer.unknown)) if tokenizer.unknown is not None else 0
    share = unknown / max(1, int(np.count_nonzero(~np.isin(tokens, tokenizer.tokens["special"]))) + unknown)
    if share >= SMALLEST_UNKNOWN:
        notes.append(f"{share:.1%} of train's tokens are unknown to the tokenizer")
    return notes


def _write_texts(folder: Path, splits: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Writes the texts of each split to a file of its own, and returns the sha256 of each."""
    folder.mkdir()
    digests = {}
    for name, texts in splits.items():
        write_split(folder / f"{name}.arrow", pa.RecordBatch.from_pydict({"text": pa.array(texts, pa.large_string())}))
        digest = hashlib.sha256()
        for text in texts:
            encoded = text.encode()
            digest.update(len(encoded).to_bytes(8, "little") + encoded)
        digests[name] = digest.hexdigest()
    return digests
