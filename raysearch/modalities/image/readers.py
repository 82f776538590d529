"""Labelled images in a user's files.

    folder             class/**/*.{png,jpg,jpeg,bmp,gif,webp,tif}, as Tiny-ImageNet has it
    .parquet           a column of encoded bytes (as Hugging Face also stores images) or of raw pixels, and labels
    .csv .tsv .jsonl   file names and labels: one column of classes, or several of 1, 0, -1 and blank
    idx                MNIST's two files, gzipped or not; the labels' file is named like that of the images
    .npz               an array of pixels (n, H, W[, C]) and one of labels

Images are decoded only when they are needed. Nothing is repaired: a row that cannot be used is an error with its file
and line.
"""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from raysearch.data.archives import read_archive
from raysearch.data.folders import list_folder
from raysearch.data.parquet import class_names_of, column_values, read_parquet
from raysearch.data.places import Place, row_places
from raysearch.data.row_readers import parse_label, read_rows, unreadable_file
from raysearch.errors import SpecError, did_you_mean, shorten, shorten_list
from raysearch.modalities.image.pictures import Picture, content_hash, is_encoded

if TYPE_CHECKING:
    from raysearch.modalities.image.config import Source

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"}
FILE_NAME_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")  # formats that hold the images' file names
SPLIT_FOLDERS = {"train", "training", "test", "testing", "val", "valid", "validation", "dev"}
Label = str | tuple[int, ...]  # a class, or 0 and 1 for each of several labels
ClassNames = Mapping[str, Sequence[str]]  # the names of the numbers in a column


@dataclass(frozen=True)
class Images:
    """Images in the order of their source."""

    source: str  # the file or folder
    pictures: Sequence[Picture]
    labels: Sequence[Label]
    keys: Sequence[str]  # sha256 of each picture as it is stored in the source
    selected: Sequence[bool] = ()  # whether each row meets the source's `where`; empty if there is none
    rows: Sequence[int] = ()  # the number of each in its source, from 1; empty if pictures are files
    notes: Sequence[str] = ()  # what was unusual about the source

    def __len__(self) -> int:
        return len(self.pictures)

    def take(self, rows: Sequence[int]) -> Images:
        """Returns the images with these indices, in this order."""
        return Images(
            self.source,
            [self.pictures[i] for i in rows],
            [self.labels[i] for i in rows],
            [self.keys[i] for i in rows],
            [self.selected[i] for i in rows] if self.selected else (),
            [self.rows[i] for i in rows] if self.rows else (),
            self.notes,
        )

    def place(self, i: int) -> str:
        """Returns where image `i` stands."""
        picture = self.pictures[i]
        if isinstance(picture, Path):
            return str(picture)
        return f"{self.source}: row {self.rows[i]}" if self.rows else self.source


def read_images(path: Path, source: Source, *, may_be_hidden: bool = False) -> Images:
    """Reads the images at `path` as `source` declares; `may_be_hidden` as for `row_readers.parse_label`.

    Raises SpecError for what cannot be used.
    """
    if path.is_dir():
        return _read_folder(path, source)
    readers: dict[str, Callable[[Path, Source, bool], Images]] = {
        ".parquet": _read_parquet_images,
        ".npz": _read_npz,
        **dict.fromkeys(FILE_NAME_SUFFIXES, _read_file_names),
    }
    reader = _read_idx if "idx3" in path.name else readers.get(path.suffix.lower())
    if reader is None:
        formats = f"a folder of class folders, {', '.join(readers)} or MNIST's idx3"
        raise unreadable_file(path, "images", formats)
    images = reader(path, source, may_be_hidden)
    if not len(images):
        raise SpecError("holds no images", file=str(path))
    return images


# ---- one reader for each format ----


def _hashed(source: str, pictures: Sequence[Picture], labels: Sequence[Label], selected: Sequence[bool] = ()) -> Images:
    keys = [content_hash(picture) for picture in pictures]
    return Images(source, pictures, labels, keys, selected, range(1, len(pictures) + 1))


def _read_folder(path: Path, source: Source) -> Images:
    _refuse_columns(path, source, ("labels", "where", "class_names", "shape"))
    content = list_folder(path, SUFFIXES)
    classes = [file.relative_to(path).parts[0] for file in content.files]
    for file, name in zip(content.files, classes, strict=True):
        if file.parent == path:
            raise SpecError(f"{name} is not in a class folder; each class is a folder", file=str(path))
    if not content.files:
        raise SpecError(f"holds no images ({', '.join(sorted(SUFFIXES))}) in class folders", file=str(path))
    if {name.lower() for name in classes} <= SPLIT_FOLDERS:
        names = " and ".join(sorted(set(classes)))
        raise SpecError(
            f"its folders are splits, not classes: {names}; name one of them, such as train", file=str(path)
        )
    notes = content.notes(path.name)
    folders = sorted(child.name for child in path.iterdir() if child.is_dir() and child.name not in content.hidden)
    if empty := [name for name in folders if name not in set(classes)]:
        notes.append(f"{path.name}: folders without images are no classes: {shorten_list(empty)}")
    return replace(_hashed(str(path), content.files, classes), notes=notes)


def _columns(source: Source) -> list[str]:
    """Returns the columns that are read of a table."""
    return [source.image, *(source.labels or (source.label,)), *source.where]


def _read_parquet_images(path: Path, source: Source, may_be_hidden: bool) -> Images:
    table = read_parquet(path, _columns(source))
    pictures = _read_picture_column(path, table, source)
    columns = [name for name in table.column_names if name != source.image]
    values = [column_values(path, table, name) for name in columns]
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True)]
    class_names: dict[str, Sequence[str]] = {
        column: class_names_of(table.schema, column) for column in _columns(source)
    }
    if source.class_names:
        class_names[source.label] = source.class_names
    places = row_places(str(path), len(rows))
    labels = [
        _parse_labels(row, source, class_names, place, may_be_hidden) for row, place in zip(rows, places, strict=True)
    ]
    return _hashed(str(path), pictures, labels, _select_rows(path, rows, source, class_names))


def _read_picture_column(path: Path, table: Any, source: Source) -> list[Picture]:
    import pyarrow as pa

    column_type, values = table[source.image].type, column_values(path, table, source.image)
    if pa.types.is_struct(column_type):  # as the datasets library writes images
        values = [value.get("bytes") if value else None for value in values]
    pictures: list[bytes] = []
    places = row_places(str(path), len(values))
    for place, value in zip(places, values, strict=True):
        if not isinstance(value, bytes) or not value:
            raise place.error(source.image, "not an image: null, or no bytes")
        pictures.append(value)
    is_fixed_size = pa.types.is_fixed_size_binary(column_type)
    if source.shape or is_fixed_size or (pictures and not is_encoded(pictures[0])):
        return [_as_pixels(value, source, place) for value, place in zip(pictures, places, strict=True)]
    return list(pictures)


def _as_pixels(value: bytes, source: Source, place: Place) -> NDArray[np.uint8]:
    """Returns raw bytes as pixels of the declared shape, or else of a square grey or colour picture."""
    shape = source.shape
    if not shape:
        grey_side, colour_side = round(len(value) ** 0.5), round((len(value) / 3) ** 0.5)
        shape = (grey_side, grey_side) if grey_side**2 == len(value) else (colour_side, colour_side, 3)
    if len(shape) not in (2, 3) or int(np.prod(shape)) != len(value) or shape[2:] not in ((), (1,), (3,)):
        problem = f"{len(value)} bytes are neither an encoded picture nor pixels of shape {list(shape)}"
        raise place.error(source.image, f"{problem}; give shape: [height, width] or [height, width, 3]")
    return np.frombuffer(value, dtype=np.uint8).reshape(shape)


def _read_file_names(path: Path, source: Source, may_be_hidden: bool) -> Images:
    pictures: list[Picture] = []
    labels: list[Label] = []
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    for place, row in read_rows(path, _columns(source), "images", FILE_NAME_SUFFIXES, notes):
        name = str(row[source.image] or "")
        spellings = dict.fromkeys([name, name.replace("\\", "/")])  # Windows writes the second as the first
        places = [folder / spelling for spelling in spellings for folder in (path.parent, path.parent.parent)]
        candidates = [file for file in places if _lies_in(path.absolute().parent.parent, file)]
        if name and not candidates:
            problem = f"{shorten(name)!r} leads away from the table's folder; copy the images there"
            raise place.error(source.image, problem)
        file = next((file for file in candidates if name and _is_file(file)), None)
        if file is None:
            raise place.error(source.image, f"no file {shorten(name)!r} beside the table, nor beside its folder")
        pictures.append(file)
        labels.append(_parse_labels(row, source, {source.label: source.class_names}, place, may_be_hidden))
        rows.append(row)
    return replace(_hashed(str(path), pictures, labels, _select_rows(path, rows, source, {})), notes=notes)


def _lies_in(folder: Path, file: Path) -> bool:
    """Says whether the words of a path lead into a folder: a table may be a stranger's, and name any file."""
    return Path(os.path.normpath(file.absolute())).is_relative_to(folder)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that the system cannot have, because it is too long
        return False


def _read_npz(path: Path, source: Source, may_be_hidden: bool) -> Images:
    _refuse_columns(path, source, ("labels", "where"))
    arrays = read_archive(path)

    def array(name: str) -> NDArray[Any]:
        for candidate in (name, f"{name}s"):
            if candidate in arrays:
                return np.asarray(arrays[candidate])
        raise SpecError(f"no array {name!r} or '{name}s'{did_you_mean(name, arrays)}", file=str(path))

    pixels, labels = array(source.image), array(source.label)
    if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4) or pixels.shape[3:] not in ((), (1,), (3,)):
        problem = f"must be uint8 (n, H, W) or (n, H, W, 1 or 3), got {pixels.dtype} {list(pixels.shape)}"
        raise SpecError(problem, file=str(path), key=source.image)
    return _from_arrays(path, pixels, labels, source, may_be_hidden)


def _read_idx(path: Path, source: Source, may_be_hidden: bool) -> Images:
    _refuse_columns(path, source, ("labels", "where"))
    labels_path = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
    if not labels_path.is_file() or labels_path == path:
        raise SpecError(f"its labels are missing: no file {labels_path}", file=str(path))
    return _from_arrays(path, _read_idx_array(path), _read_idx_array(labels_path), source, may_be_hidden)


def _read_idx_array(path: Path) -> NDArray[np.uint8]:
    """Reads the format of http://yann.lecun.com/exdb/mnist: two zeros, type 8 (uint8), rank, sizes, values."""
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as opened:
            content = opened.read()
        rank = content[3]
        sizes = np.frombuffer(content, ">i4", rank, 4)
        values = np.frombuffer(content, np.uint8, offset=4 + 4 * rank)
        if content[:3] == b"\0\0\x08" and int(np.prod(sizes)) == len(values):
            return values.reshape(sizes)
    except (OSError, EOFError, IndexError, ValueError, zlib.error):
        pass
    raise SpecError("not an idx file of bytes (MNIST's format)", file=str(path))


def _from_arrays(
    path: Path, pixels: NDArray[np.uint8], labels: NDArray[Any], source: Source, may_be_hidden: bool
) -> Images:
    if labels.ndim != 1 or len(labels) != len(pixels):
        raise SpecError(f"{len(pixels)} images and labels of shape {list(labels.shape)}", file=str(path))
    places = row_places(str(path), len(labels))
    classes = [
        parse_label(value, source.label, place, source.class_names, may_be_hidden=may_be_hidden)
        for value, place in zip(labels.tolist(), places, strict=True)
    ]
    return _hashed(str(path), list(pixels), classes)


# ---- labels ----


def _refuse_columns(path: Path, source: Source, keys: Sequence[str]) -> None:
    """Raises SpecError if the source declares one of these keys, which name columns; the format has none."""
    for key in keys:
        if getattr(source, key):
            raise SpecError("has no columns to read this from", file=str(path), key=key)


def _parse_labels(
    row: Mapping[str, Any], source: Source, class_names: ClassNames, place: Place, may_be_hidden: bool
) -> Label:
    """Returns the class of a row, or 0 and 1 for each of several labels."""
    if source.labels:
        return tuple(_parse_yes_or_no(row[column], column, source, place) for column in source.labels)
    names = class_names.get(source.label, ())
    return parse_label(row[source.label], source.label, place, names, may_be_hidden=may_be_hidden)


def _parse_yes_or_no(value: object, column: str, source: Source, place: Place) -> int:
    """Returns 1 or 0: a blank is 0 (not mentioned), and -1 is what `uncertain` declares (CheXpert)."""
    text = "" if value is None else str(value).strip()
    try:
        number = float(text) if text else 0.0
    except ValueError:
        number = 2.0
    if number not in (1.0, 0.0, -1.0):
        raise place.error(column, f"one of several labels is 1, 0, -1 or blank, got {text!r}")
    return int(number == 1.0 or (number == -1.0 and source.uncertain == "positive"))


def _select_rows(path: Path, rows: Sequence[Mapping[str, Any]], source: Source, class_names: ClassNames) -> list[bool]:
    """Returns which rows have all the values of `where`; an empty list if there is no `where`."""
    if not source.where:
        return []

    def spellings(row: Mapping[str, Any], column: str) -> set[str]:
        value, names = row[column], class_names.get(column, ())
        is_class = isinstance(value, int) and 0 <= value < len(names)
        return {str(value), names[value] if is_class else str(value)}

    selected = [all(str(value) in spellings(row, column) for column, value in source.where.items()) for row in rows]
    if not any(selected):
        condition = ", ".join(f"{column}: {value}" for column, value in source.where.items())
        column, value = next(iter(source.where.items()))
        known = {spelling for row in rows for spelling in spellings(row, column)}
        raise SpecError(f"no row has {condition}{did_you_mean(str(value), known)}", file=str(path))
    return selected
