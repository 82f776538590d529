"""Labelled images as they stand in a user's files; nothing is decoded before it is needed, and nothing is repaired.

    folder             class/**/*.{png,jpg,jpeg,bmp,gif,webp,tif}, as Tiny-ImageNet has it
    .parquet           a column of encoded bytes (as Hugging Face stores images too) or of raw pixels, and labels
    .csv .tsv .jsonl   file names beside the table, and labels: one column of classes, or several of 1, 0, -1, blank
    idx                MNIST's two files, gzipped or not; the labels' name is that of the images
    .npz               an array of pixels (n, H, W[, C]) and one of labels

A row that cannot be used is refused with its file and line.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from raysearch.data.row_readers import READERS
from raysearch.errors import SpecError, did_you_mean

if TYPE_CHECKING:
    from raysearch.modalities.image.config import Source

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"}
Picture = bytes | Path | NDArray[np.uint8]  # encoded, in a file, or pixels (H, W) or (H, W, C)
Label = str | tuple[int, ...]  # a class, or 0 and 1 for each of several labels


@dataclass(frozen=True)
class Images:
    """Images in the order of their source."""

    source: str  # the file or folder
    pictures: Sequence[Picture]
    labels: Sequence[Label]
    keys: Sequence[str]  # sha256 of each picture as it stands in the source
    chosen: Sequence[bool] = ()  # does each row meet the source's `where`? empty if there is none

    def __len__(self) -> int:
        return len(self.pictures)

    def take(self, rows: Sequence[int]) -> Images:
        """The images of these numbers, in this order."""
        return Images(
            self.source,
            [self.pictures[i] for i in rows],
            [self.labels[i] for i in rows],
            [self.keys[i] for i in rows],
            [self.chosen[i] for i in rows] if self.chosen else (),
        )


def read_images(path: Path, source: Source) -> Images:
    """The images at `path`, read as `source` says. Raises SpecError for what cannot be used."""
    if path.is_dir():
        return _folder(path, source)
    readers: dict[str, Callable[[Path, Source], Images]] = {
        ".parquet": _parquet,
        ".npz": _npz,
        **dict.fromkeys((".csv", ".tsv", ".jsonl", ".ndjson"), _table),
    }
    reader = _idx if "idx3" in path.name else readers.get(path.suffix.lower())
    if reader is None:
        problem = f"cannot read a {path.suffix or 'nameless'} file as images; use a folder of class folders"
        raise SpecError(f"{problem}, {', '.join(readers)} or MNIST's idx3", file=str(path))
    images = reader(path, source)
    if not len(images):
        raise SpecError("holds no images", file=str(path))
    return images


def decode_picture(picture: Picture, source: str) -> NDArray[np.uint8]:
    """Pixels (H, W) of a grey picture, (H, W, 3) of one in colour. SpecError for what is no picture."""
    if isinstance(picture, np.ndarray):
        return picture[:, :, 0] if picture.ndim == 3 and picture.shape[2] == 1 else picture
    from PIL import Image, UnidentifiedImageError

    where = str(picture) if isinstance(picture, Path) else source
    try:
        with Image.open(picture if isinstance(picture, Path) else io.BytesIO(picture)) as opened:
            grey = opened.mode in ("1", "L", "LA", "I;16", "I", "F")
            if opened.mode.startswith("I"):  # 16 bits, as medical pictures have it
                deep = np.asarray(opened, dtype=np.float64)
                return np.asarray(deep / (257 if deep.max() > 255 else 1)).round().clip(0, 255).astype(np.uint8)
            return np.asarray(opened.convert("L" if grey else "RGB"), dtype=np.uint8)
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise SpecError(f"not a picture: {' '.join(str(error).split())[:120]}", file=where) from None


def resize_pixels(pixels: NDArray[np.uint8], size: int, channels: int) -> NDArray[np.uint8]:
    """Pixels (C, size, size); scaled with Pillow's bilinear filter where the side is another."""
    from PIL import Image

    colour = pixels.ndim == 3
    if pixels.shape[:2] != (size, size) or (colour and channels == 1):
        picture = Image.fromarray(pixels)
        picture = picture.convert("L") if colour and channels == 1 else picture
        pixels = np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR), dtype=np.uint8)
    if pixels.ndim == 2:
        return np.broadcast_to(pixels, (channels, size, size))
    return np.moveaxis(pixels, 2, 0)


def content_hash(picture: Picture) -> str:
    """The sha256 of a picture as it stands: encoded bytes, or shape and pixels."""
    if isinstance(picture, np.ndarray):
        return hashlib.sha256(f"{picture.shape}".encode() + picture.tobytes()).hexdigest()
    return hashlib.sha256(picture.read_bytes() if isinstance(picture, Path) else picture).hexdigest()


# ---- one reader for each kind ----


def _made(source: str, pictures: Sequence[Picture], labels: Sequence[Label], chosen: Sequence[bool] = ()) -> Images:
    return Images(source, pictures, labels, [content_hash(p) for p in pictures], chosen)


def _folder(path: Path, source: Source) -> Images:
    _nothing_of_columns(path, source)
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    classes = [file.relative_to(path).parts[0] for file in files]
    for file, name in zip(files, classes, strict=True):
        if file.parent == path:
            raise SpecError(f"{name} lies in no class folder; a class is a folder", file=str(path))
    if not files:
        raise SpecError(f"holds no images ({', '.join(sorted(SUFFIXES))}) in class folders", file=str(path))
    return _made(str(path), files, classes)


def _parquet(path: Path, source: Source) -> Images:
    import pyarrow as pa
    import pyarrow.parquet as pq

    wanted = [source.image, *(source.labels or (source.label,)), *source.where]
    try:
        schema = pq.read_schema(path)
        for column in wanted:
            if column not in schema.names:
                raise SpecError(f"no column {column!r}{did_you_mean(column, schema.names)}", file=str(path))
        table = pq.read_table(path, columns=list(dict.fromkeys(wanted)))
    except pa.ArrowInvalid as error:
        raise SpecError(f"not Parquet: {' '.join(str(error).split())[:200]}", file=str(path)) from None
    pictures = _column_of_pictures(path, table[source.image], source)
    rows = table.drop_columns([source.image]).to_pylist() if table.num_columns > 1 else []
    named = {column: _names(schema, column) for column in wanted}
    if source.class_names:
        named[source.label] = list(source.class_names)
    labels = [_label(row, source, named, _place(path, number, by_line=False)) for number, row in enumerate(rows, 1)]
    return _made(str(path), pictures, labels, _chosen(path, rows, source, named))


def _column_of_pictures(path: Path, column: Any, source: Source) -> list[Picture]:
    import pyarrow as pa

    if pa.types.is_struct(column.type):  # as the datasets library writes images
        column = column.combine_chunks().field("bytes")
    values: list[bytes | None] = column.to_pylist()
    for number, value in enumerate(values, 1):
        if not isinstance(value, bytes) or not value:
            raise SpecError("no image: null, or no bytes", file=str(path), key=f"row {number}: {source.image}")
    found = [value for value in values if value is not None]
    raw = bool(source.shape) or pa.types.is_fixed_size_binary(column.type) or (found and not _is_encoded(found[0]))
    if not raw:
        return list(found)
    return [_raw(value, source, _place(path, number, by_line=False)) for number, value in enumerate(found, 1)]


def _is_encoded(value: bytes) -> bool:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(value)):
            return True
    except (UnidentifiedImageError, OSError, ValueError):
        return False


def _raw(value: bytes, source: Source, error: Callable[[str, str], SpecError]) -> NDArray[np.uint8]:
    shape = source.shape
    if not shape:
        side, colour = round(len(value) ** 0.5), round((len(value) / 3) ** 0.5)
        shape = (side, side) if side**2 == len(value) else (colour, colour, 3)
    if len(shape) not in (2, 3) or int(np.prod(shape)) != len(value) or shape[2:] not in ((), (1,), (3,)):
        problem = f"{len(value)} bytes are neither an encoded picture nor pixels of shape {list(shape)}"
        raise error(source.image, f"{problem}; give shape: [height, width] or [height, width, 3]")
    return np.frombuffer(value, dtype=np.uint8).reshape(shape)


def _names(schema: Any, column: str) -> list[str]:
    """Names of a column's numbers, from what the file says of itself: `classes`, or the datasets library's features."""
    about = schema.metadata or {}
    if b"huggingface" in about:
        features = json.loads(about[b"huggingface"]).get("info", {}).get("features", {})
        return list((features.get(column) or {}).get("names") or [])
    if b"classes" in about and column == "label":
        return [str(name) for name in json.loads(about[b"classes"])]
    return []


def _table(path: Path, source: Source) -> Images:
    wanted = [source.image, *(source.labels or (source.label,)), *source.where]
    pictures: list[Picture] = []
    labels: list[Label] = []
    rows: list[dict[str, Any]] = []
    named = {source.label: list(source.class_names)}
    for place, row in READERS[path.suffix.lower()](path, wanted):
        error = _place(path, place, by_line=True)
        for column in wanted:
            if column not in row:
                raise error(column, f"no such column{did_you_mean(column, row)}")
        name = str(row[source.image] or "")
        file = next((f for f in (path.parent / name, path.parent.parent / name) if name and f.is_file()), None)
        if file is None:
            raise error(source.image, f"no file {name!r} beside the table, nor beside its folder")
        pictures.append(file)
        labels.append(_label(row, source, named, error))
        rows.append(row)
    return _made(str(path), pictures, labels, _chosen(path, rows, source, {}))


def _npz(path: Path, source: Source) -> Images:
    _nothing_of_columns(path, source, columns=False)
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError) as error:
        raise SpecError(f"not an npz archive: {' '.join(str(error).split())[:120]}", file=str(path)) from None
    found = {}
    for key in ("image", "label"):
        name = getattr(source, key)
        found[key] = next((arrays[n] for n in (name, f"{name}s") if n in arrays), None)
        if found[key] is None:
            raise SpecError(f"no array {name!r} or '{name}s'{did_you_mean(name, arrays)}", file=str(path))
    pixels, labels = found["image"], found["label"]
    assert pixels is not None
    assert labels is not None
    if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4) or pixels.shape[3:] not in ((), (1,), (3,)):
        problem = f"must be uint8 (n, H, W) or (n, H, W, 1 or 3), got {pixels.dtype} {list(pixels.shape)}"
        raise SpecError(problem, file=str(path), key=source.image)
    return _arrays(path, pixels, labels, source)


def _idx(path: Path, source: Source) -> Images:
    _nothing_of_columns(path, source, columns=False)
    beside = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
    if not beside.is_file() or beside == path:
        raise SpecError(f"its labels are missing: no file {beside}", file=str(path))
    return _arrays(path, _idx_array(path), _idx_array(beside), source)


def _idx_array(path: Path) -> NDArray[np.uint8]:
    """An array in the format of http://yann.lecun.com/exdb/mnist: two zeros, type 8 (uint8), rank, sizes, values."""
    data = path.read_bytes()
    try:
        data = gzip.decompress(data) if path.suffix == ".gz" else data
        rank = data[3]
        sizes = np.frombuffer(data, ">i4", rank, 4)
        values = np.frombuffer(data, np.uint8, offset=4 + 4 * rank)
        if data[:3] == b"\0\0\x08" and int(np.prod(sizes)) == len(values):
            return values.reshape(sizes)
    except (OSError, EOFError, IndexError, ValueError):
        pass
    raise SpecError("not an idx file of bytes (MNIST's format)", file=str(path))


def _arrays(path: Path, pixels: NDArray[np.uint8], labels: NDArray[Any], source: Source) -> Images:
    if labels.ndim != 1 or len(labels) != len(pixels):
        raise SpecError(f"{len(pixels)} images and labels of shape {list(labels.shape)}", file=str(path))
    named = {source.label: list(source.class_names)}
    rows = [{source.label: value} for value in labels.tolist()]
    said = [_label(row, source, named, _place(path, n, by_line=False)) for n, row in enumerate(rows, 1)]
    return _made(str(path), list(pixels), said)


# ---- labels ----


def _nothing_of_columns(path: Path, source: Source, *, columns: bool = True) -> None:
    """Refuse what names columns where there are none."""
    for key in ("labels", "where", *(("class_names", "shape") if columns else ())):
        if getattr(source, key):
            raise SpecError("has no columns to read this from", file=str(path), key=key)


def _place(path: Path, place: int, *, by_line: bool) -> Callable[[str, str], SpecError]:
    """The error about a row, given its column and the problem."""

    def error(column: str, problem: str) -> SpecError:
        if by_line:
            return SpecError(problem, file=str(path), line=place, key=column)
        return SpecError(problem, file=str(path), key=f"row {place}: {column}")

    return error


def _label(
    row: dict[str, Any], source: Source, named: dict[str, list[str]], error: Callable[[str, str], SpecError]
) -> Label:
    if source.labels:
        return tuple(_yes_or_no(row[column], column, source, error) for column in source.labels)
    return _class(row[source.label], source.label, named.get(source.label) or [], error)


def _class(value: object, column: str, names: Sequence[str], error: Callable[[str, str], SpecError]) -> str:
    if value is None or (isinstance(value, str) and not value.strip()):
        raise error(column, "the label is empty")
    if isinstance(value, str) and names and value.strip().isdigit():
        value = int(value)
    if isinstance(value, int) and names:
        if not 0 <= value < len(names):
            raise error(column, f"{value} is no number of a class: there are {len(names)} names, from 0")
        return str(names[value])
    if not isinstance(value, str | int):
        raise error(column, f"a label is a word or a whole number, got {value!r:.60}")
    return str(value).strip()


def _yes_or_no(value: object, column: str, source: Source, error: Callable[[str, str], SpecError]) -> int:
    """1 or 0: blank is 0 (not mentioned), -1 what `uncertain` says (CheXpert)."""
    text = "" if value is None else str(value).strip()
    try:
        number = float(text) if text else 0.0
    except ValueError:
        number = 2.0
    if number not in (1.0, 0.0, -1.0):
        raise error(column, f"one of several labels is 1, 0, -1 or blank, got {text!r}")
    return int(number == 1.0 or (number == -1.0 and source.uncertain == "positive"))


def _chosen(path: Path, rows: Sequence[dict[str, Any]], source: Source, named: dict[str, list[str]]) -> list[bool]:
    """Which rows have all the values of `where`."""
    if not source.where:
        return []

    def value(row: dict[str, Any], column: str) -> set[str]:
        number, names = row[column], named.get(column) or []
        known = isinstance(number, int) and 0 <= number < len(names)
        return {str(number), names[number] if known else str(number)}

    chosen = [all(str(wanted) in value(row, column) for column, wanted in source.where.items()) for row in rows]
    if not any(chosen):
        said = ", ".join(f"{column}: {wanted}" for column, wanted in source.where.items())
        column = next(iter(source.where))
        there: Iterator[str] = iter({name for row in rows for name in value(row, column)})
        raise SpecError(f"no row has {said}{did_you_mean(str(source.where[column]), there)}", file=str(path))
    return chosen
