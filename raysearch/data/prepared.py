"""A folder of prepared data: one Arrow file for each split, and data.json, which holds what else is known of them.

    train.arrow, ...         the examples as networks read them
    texts/train.arrow, ...   what they were made from, row by row, where a modality keeps it

The driver writes the folder once for a run; workers map the splits into memory.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from raysearch.data.doctor import DataFacts
from raysearch.data.folders import list_folder
from raysearch.data.splits import SPLITS
from raysearch.errors import MissingFileError, SpecError, did_you_mean
from raysearch.storage.durable import checksum_of, sync_file, sync_folder
from raysearch.storage.names import is_plain

METADATA, DIGESTS = "data.json", "digests.json"
_checked: set[tuple[str, int, int]] = set()  # path, size and time of files whose checksum this process has compared
ORIGINALS = "texts"  # the folder of what examples were made from; folders of earlier versions lack it
UNHASHED = "unhashed"  # of a modality's metadata: what the fingerprint leaves out


@dataclass(frozen=True)
class PreparedData:
    """What the driver needs to know of a folder of prepared data."""

    folder: Path
    task: str
    metric: str
    labels: tuple[str, ...]
    fingerprint: str  # sha256 of the splits, the labels, the metric and how the examples are read
    sizes: dict[str, int]  # examples of each split
    notes: tuple[str, ...]  # what is unusual about the data, a sentence each
    facts: DataFacts | None = None  # what the data doctor counted; None for data that an earlier version prepared


class Split(Protocol):
    """The examples of one split, mapped from disk."""

    @property
    def labels(self) -> NDArray[Any] | None:
        """Classes (n,), or 0 and 1 for each of several labels (n, L); None for unlabelled examples."""

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The length of each example (n,): examples of similar length are best evaluated together."""

    def __len__(self) -> int: ...

    def row(self, i: int) -> NDArray[Any]:
        """Returns example `i` as it is stored."""


class RowsOfSplit:
    """Some examples of a split, as a split without labels."""

    labels: NDArray[Any] | None = None

    def __init__(self, split: Split, rows: NDArray[np.int64]) -> None:
        self.split, self.rows = split, rows

    @property
    def lengths(self) -> NDArray[np.int64]:
        """The length of each example (n,)."""
        lengths: NDArray[np.int64] = np.asarray(self.split.lengths)[self.rows]
        return lengths

    def __len__(self) -> int:
        return len(self.rows)

    def row(self, i: int) -> NDArray[Any]:
        """Returns example `i` as it is stored."""
        return self.split.row(int(self.rows[i]))

    def texts_of(self, rows: Sequence[int]) -> list[str]:
        """Returns the texts with these numbers, of a split that has texts."""
        texts: list[str] = cast(Any, self.split).texts_of(self.rows[list(rows)].tolist())
        return texts


class Splits:
    """The splits that a trial may read, each mapped once; test is not among them."""

    def __init__(self, folder: Path, decode: Callable[[pa.RecordBatch], Split]) -> None:
        self.folder = folder
        self._decode = decode
        self._open: dict[str, Split] = {}

    def __call__(self, name: str) -> Split:
        """Returns one split by name."""
        if name == "test":
            raise ValueError("a trial may not open the test split")
        if name not in self._open:
            self._open[name] = read_split(self.folder, name, self._decode)
        return self._open[name]

    def rows(self, name: str) -> NDArray[np.int64]:
        """Returns the numbers of a split's examples (n,), by which different trainings tell that they are the same."""
        return np.arange(len(self(name)))


def load_prepared_data(folder: Path) -> PreparedData:
    """Returns what data.json in `folder` says. Raises SpecError if there is none."""
    metadata = load_metadata(folder)
    return PreparedData(
        folder=folder,
        task=metadata["task"],
        metric=metadata["metric"],
        labels=tuple(metadata["labels"]),
        fingerprint=metadata["fingerprint"],
        sizes=metadata["sizes"],
        notes=tuple(metadata["notes"]),
        facts=DataFacts.from_plain(metadata["facts"]) if "facts" in metadata else None,
    )


def load_metadata(folder: Path) -> dict[str, Any]:
    """Returns the content of data.json. Raises SpecError if there is none."""
    try:
        check_digest(folder, METADATA)
        metadata: dict[str, Any] = json.loads((folder / METADATA).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SpecError("holds no prepared data (no data.json)", file=str(folder)) from None
    except ValueError as error:
        raise error if isinstance(error, SpecError) else _damage(folder, METADATA, "it is no JSON") from None
    return metadata


def is_up_to_date(folder: Path, source: Mapping[str, Any]) -> bool:
    """Returns whether `folder` holds data prepared from `source`. Raises SpecError if it was prepared from another."""
    if not (folder / "data.json").exists():
        return False
    stored = load_metadata(folder)["source"]
    if stored != source:
        changed = [name for name in source if stored.get(name) != source[name]]
        problem = f"was prepared from other data or settings ({', '.join(changed)} changed); use another run name"
        raise SpecError(problem, file=str(folder))
    return True


def write_atomically(folder: Path, write: Callable[[Path], None]) -> PreparedData:
    """Creates `folder` with all that `write` puts into the folder that it is given; creates nothing if it fails."""
    draft = folder.parent / f".{folder.name}.draft"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    try:
        write(draft)
        write_digests(draft)
    except BaseException:
        shutil.rmtree(draft)
        raise
    draft.replace(folder)  # replaces an empty folder; the system refuses to replace any other
    sync_folder(folder.parent)
    return load_prepared_data(folder)


def write_split(path: Path, batch: pa.RecordBatch) -> None:
    """Writes a split as an Arrow file of one batch."""
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)


def read_split(folder: Path, name: str, decode: Callable[[pa.RecordBatch], Split]) -> Split:
    """Maps one split into memory. Raises SpecError if there is no such split."""
    return decode(read_batch(folder, name))


def read_batch(folder: Path, name: str) -> pa.RecordBatch:
    """Maps the columns of one split into memory, those of its file in ORIGINALS too, if it has one.

    Raises SpecError if there is no such split.
    """
    path = folder / f"{name}.arrow"
    if not is_plain(name) or not path.exists():
        known = [split for split in SPLITS if (folder / f"{split}.arrow").exists()]
        raise SpecError(f"no split {name!r}{did_you_mean(name, known)}", file=str(folder))
    batch = _map_batch(folder, path.name)
    originals = folder / ORIGINALS / f"{name}.arrow"
    if originals.exists():
        further = _map_batch(folder, f"{ORIGINALS}/{name}.arrow")
        for column, values in zip(further.schema, further.columns, strict=True):
            batch = batch.append_column(column, values)
    return batch


def _map_batch(folder: Path, name: str) -> pa.RecordBatch:
    check_digest(folder, name)
    try:
        return pa.ipc.open_file(pa.memory_map(str(folder / name))).get_batch(0)
    except (pa.ArrowException, OSError) as error:
        raise _damage(folder, name, " ".join(str(error).split())[:200]) from None


# ---- checksums ----


def write_digests(folder: Path) -> None:
    """Writes the size and the CRC-32 of every file of a folder to its DIGESTS, and waits until the disk has all."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    digests = {str(file.relative_to(folder)): [file.stat().st_size, checksum_of(file)] for file in files}
    (folder / DIGESTS).write_text(json.dumps(digests, indent=1) + "\n", encoding="utf-8")
    for path in [*files, folder / DIGESTS]:
        sync_file(path)


def check_digest(folder: Path, name: str) -> None:
    """Raises SpecError if a file of prepared data is damaged; each is read once a process.

    Folders of earlier versions have no checksums.
    """
    path = folder / name
    try:
        now = path.stat()
        key = (str(path.absolute()), now.st_size, now.st_mtime_ns)
        if key in _checked or not (folder / DIGESTS).exists():
            return
        digests = json.loads((folder / DIGESTS).read_text(encoding="utf-8"))
        size, checksum = digests.get(name, [now.st_size, None])
    except FileNotFoundError:
        return  # whoever reads it says so
    except (ValueError, TypeError, AttributeError):
        raise _damage(folder, DIGESTS, "it holds no checksums") from None
    if size != now.st_size or (checksum is not None and checksum_of(path) != checksum):
        raise _damage(folder, name, "its checksum is wrong")
    _checked.add(key)


def _damage(folder: Path, name: str, reason: str) -> SpecError:
    remedy = f"put it back, or remove {folder}: the data are prepared again from your files"
    return SpecError(f"damaged ({reason}); {remedy}", file=str(folder / name))


def resolve_path(name: str, key: str, base: str, data_root: Path | None, *, folders: bool = False) -> Path:
    """Returns the absolute path of a file that a task names: below the data root, or else below `base`.

    A folder is accepted if `folders` is set. Raises SpecError if there is neither; `key` is where the task names it.
    """
    candidates = [folder / name for folder in (data_root, Path(base)) if folder is not None]
    for path in candidates:
        if path.is_file() or (folders and path.is_dir()):
            return path.absolute()
        if path.is_dir():
            raise SpecError(f"{path} is a folder; name a file in it", key=key)
    problem = f"no file {' or '.join(map(str, dict.fromkeys(candidates)))}"
    siblings = {file.name for path in candidates if path.parent.is_dir() for file in path.parent.iterdir()}
    if near := difflib.get_close_matches(Path(name).name, siblings, n=1):
        raise MissingFileError(f"{problem}; did you mean {near[0]!r}?", key=key)
    remedy = "name the folder that holds your data sets by --data DIR or RAYSEARCH_DATA"
    raise MissingFileError(f"{problem}; {remedy}", key=key)


def hash_path(path: Path, suffixes: Collection[str] = ()) -> str:
    """Returns the sha256 of a file, or of the names and sizes of a folder's files with one of these suffixes."""
    if path.is_dir():
        digest = hashlib.sha256()
        for file in list_folder(path, suffixes).files:
            digest.update(f"{file.relative_to(path)} {file.stat().st_size}\n".encode())
        return digest.hexdigest()
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
