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
import hashlib
import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from raysearch.data.parquet import read_parquet
from raysearch.data.places import Place, row_places
from raysearch.data.row_readers import parse_label, read_rows, unreadable_file
from raysearch.errors import SpecError, did_you_mean

if TYPE_CHECKING:
    from raysearch.modalities.image.config import Source

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"}
FILE_NAME_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")  # formats that hold the images' file names
Picture = bytes | Path | NDArray[np.uint8]  # encoded, in a file, or pixels (H, W) or (H, W, C)
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
        )


def read_images(path: Path, source: Source) -> Images:
    """Reads the images at `path` as `source` declares. Raises SpecError for what cannot be used."""
    if path.is_dir():
        return _read_folder(path, source)
    readers: dict[str, Callable[[Path, Source], Images]] = {
        ".parquet": _read_parquet_images,
        ".npz": _read_npz,
        **dict.fromkeys(FILE_NAME_SUFFIXES, _read_file_names),
    }
    reader = _read_idx if "idx3" in path.name else readers.get(path.suffix.lower())
    if reader is None:
        formats = f"a folder of class folders, {', '.join(readers)} or MNIST's idx3"
        raise unreadable_file(path, "images", formats)
    images = reader(path, source)
    if not len(images):
        raise SpecError("holds no images", file=str(path))
    return images


def decode_picture(picture: Picture, source: str) -> NDArray[np.uint8]:
    """Returns the pixels (H, W) of a grey picture, or (H, W, 3) of a colour one.

    Raises SpecError for what is not a picture.
    """
    if isinstance(picture, np.ndarray):
        return picture[:, :, 0] if picture.ndim == 3 and picture.shape[2] == 1 else picture
    from PIL import Image, UnidentifiedImageError

    where = str(picture) if isinstance(picture, Path) else source
    try:
        with Image.open(picture if isinstance(picture, Path) else io.BytesIO(picture)) as opened:
            is_grey = opened.mode in ("1", "L", "LA", "I;16", "I", "F")
            if opened.mode.startswith("I"):  # 16 bits, as in medical pictures
                deep = np.asarray(opened, dtype=np.float64)
                return np.asarray(deep / (257 if deep.max() > 255 else 1)).round().clip(0, 255).astype(np.uint8)
            return np.asarray(opened.convert("L" if is_grey else "RGB"), dtype=np.uint8)
    except (UnidentifiedImageError, OSError, ValueError) as error:
        raise SpecError(f"not a picture: {' '.join(str(error).split())[:120]}", file=where) from None


def resize_pixels(pixels: NDArray[np.uint8], size: int, channels: int) -> NDArray[np.uint8]:
    """Returns pixels (C, size, size), scaled by Pillow's bilinear filter if they have another size."""
    from PIL import Image

    is_colour = pixels.ndim == 3
    if pixels.shape[:2] != (size, size) or (is_colour and channels == 1):
        picture = Image.fromarray(pixels)
        picture = picture.convert("L") if is_colour and channels == 1 else picture
        pixels = np.asarray(picture.resize((size, size), Image.Resampling.BILINEAR), dtype=np.uint8)
    if pixels.ndim == 2:
        return np.broadcast_to(pixels, (channels, size, size))
    return np.moveaxis(pixels, 2, 0)


def content_hash(picture: Picture) -> str:
    """Returns the sha256 of a picture as it is stored: of its encoded bytes, or of its shape and pixels."""
    if isinstance(picture, np.ndarray):
        return hashlib.sha256(f"{picture.shape}".encode() + picture.tobytes()).hexdigest()
    return hashlib.sha256(picture.read_bytes() if isinstance(picture, Path) else picture).hexdigest()


# ---- one reader for each format ----


def _hashed(source: str, pictures: Sequence[Picture], labels: Sequence[Label], selected: Sequence[bool] = ()) -> Images:
    return Images(source, pictures, labels, [content_hash(picture) for picture in pictures], selected)


def _read_folder(path: Path, source: Source) -> Images:
    _refuse_columns(path, source, ("labels", "where", "class_names", "shape"))
    files = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    classes = [file.relative_to(path).parts[0] for file in files]
    for file, name in zip(files, classes, strict=True):
        if file.parent == path:
            raise SpecError(f"{name} is not in a class folder; each class is a folder", file=str(path))
    if not files:
        raise SpecError(f"holds no images ({', '.join(sorted(SUFFIXES))}) in class folders", file=str(path))
    return _hashed(str(path), files, classes)


def _columns(source: Source) -> list[str]:
    """Returns the columns that are read of a table."""
    return [source.image, *(source.labels or (source.label,)), *source.where]


def _read_parquet_images(path: Path, source: Source) -> Images:
    table = read_parquet(path, _columns(source))
    pictures = _read_picture_column(path, table[source.image], source)
    rows = table.drop_columns([source.image]).to_pylist() if table.num_columns > 1 else []
    class_names: dict[str, Sequence[str]] = {
        column: _stored_class_names(table.schema, column) for column in _columns(source)
    }
    if source.class_names:
        class_names[source.label] = source.class_names
    places = row_places(str(path), len(rows))
    labels = [_parse_labels(row, source, class_names, place) for row, place in zip(rows, places, strict=True)]
    return _hashed(str(path), pictures, labels, _select_rows(path, rows, source, class_names))


def _read_picture_column(path: Path, column: Any, source: Source) -> list[Picture]:
    import pyarrow as pa

    if pa.types.is_struct(column.type):  # as the datasets library writes images
        column = column.combine_chunks().field("bytes")
    pictures: list[bytes] = []
    places = row_places(str(path), len(column))
    for place, value in zip(places, column.to_pylist(), strict=True):
        if not isinstance(value, bytes) or not value:
            raise place.error(source.image, "not an image: null, or no bytes")
        pictures.append(value)
    is_fixed_size = pa.types.is_fixed_size_binary(column.type)
    if source.shape or is_fixed_size or (pictures and not _is_encoded(pictures[0])):
        return [_as_pixels(value, source, place) for value, place in zip(pictures, places, strict=True)]
    return list(pictures)


def _is_encoded(value: bytes) -> bool:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(value)):
            return True
    except (UnidentifiedImageError, OSError, ValueError):
        return False


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


def _stored_class_names(schema: Any, column: str) -> list[str]:
    """Returns the names of a column's class numbers if the file stores them: its `classes`, or `datasets`' features."""
    metadata = schema.metadata or {}
    if b"huggingface" in metadata:
        features = json.loads(metadata[b"huggingface"]).get("info", {}).get("features", {})
        return list((features.get(column) or {}).get("names") or [])
    if b"classes" in metadata and column == "label":
        return [str(name) for name in json.loads(metadata[b"classes"])]
    return []


def _read_file_names(path: Path, source: Source) -> Images:
    pictures: list[Picture] = []
    labels: list[Label] = []
    rows: list[dict[str, Any]] = []
    for place, row in read_rows(path, _columns(source), "images", FILE_NAME_SUFFIXES):
        name = str(row[source.image] or "")
        candidates = (path.parent / name, path.parent.parent / name)
        file = next((file for file in candidates if name and file.is_file()), None)
        if file is None:
            raise place.error(source.image, f"no file {name!r} beside the table, nor beside its folder")
        pictures.append(file)
        labels.append(_parse_labels(row, source, {source.label: source.class_names}, place))
        rows.append(row)
    return _hashed(str(path), pictures, labels, _select_rows(path, rows, source, {}))


def _read_npz(path: Path, source: Source) -> Images:
    _refuse_columns(path, source, ("labels", "where"))
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError) as error:
        raise SpecError(f"not an npz archive: {' '.join(str(error).split())[:120]}", file=str(path)) from None

    def array(name: str) -> NDArray[Any]:
        for candidate in (name, f"{name}s"):
            if candidate in arrays:
                return np.asarray(arrays[candidate])
        raise SpecError(f"no array {name!r} or '{name}s'{did_you_mean(name, arrays)}", file=str(path))

    pixels, labels = array(source.image), array(source.label)
    if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4) or pixels.shape[3:] not in ((), (1,), (3,)):
        problem = f"must be uint8 (n, H, W) or (n, H, W, 1 or 3), got {pixels.dtype} {list(pixels.shape)}"
        raise SpecError(problem, file=str(path), key=source.image)
    return _from_arrays(path, pixels, labels, source)


def _read_idx(path: Path, source: Source) -> Images:
    _refuse_columns(path, source, ("labels", "where"))
    labels_path = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
    if not labels_path.is_file() or labels_path == path:
        raise SpecError(f"its labels are missing: no file {labels_path}", file=str(path))
    return _from_arrays(path, _read_idx_array(path), _read_idx_array(labels_path), source)


def _read_idx_array(path: Path) -> NDArray[np.uint8]:
    """Reads the format of http://yann.lecun.com/exdb/mnist: two zeros, type 8 (uint8), rank, sizes, values."""
    content = path.read_bytes()
    try:
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        rank = content[3]
        sizes = np.frombuffer(content, ">i4", rank, 4)
        values = np.frombuffer(content, np.uint8, offset=4 + 4 * rank)
        if content[:3] == b"\0\0\x08" and int(np.prod(sizes)) == len(values):
            return values.reshape(sizes)
    except (OSError, EOFError, IndexError, ValueError):
        pass
    raise SpecError("not an idx file of bytes (MNIST's format)", file=str(path))


def _from_arrays(path: Path, pixels: NDArray[np.uint8], labels: NDArray[Any], source: Source) -> Images:
    if labels.ndim != 1 or len(labels) != len(pixels):
        raise SpecError(f"{len(pixels)} images and labels of shape {list(labels.shape)}", file=str(path))
    places = row_places(str(path), len(labels))
    classes = [
        parse_label(value, source.label, place, source.class_names)
        for value, place in zip(labels.tolist(), places, strict=True)
    ]
    return _hashed(str(path), list(pixels), classes)


# ---- labels ----


def _refuse_columns(path: Path, source: Source, keys: Sequence[str]) -> None:
    """Raises SpecError if the source declares one of these keys, which name columns; the format has none."""
    for key in keys:
        if getattr(source, key):
            raise SpecError("has no columns to read this from", file=str(path), key=key)


def _parse_labels(row: Mapping[str, Any], source: Source, class_names: ClassNames, place: Place) -> Label:
    """Returns the class of a row, or 0 and 1 for each of several labels."""
    if source.labels:
        return tuple(_parse_yes_or_no(row[column], column, source, place) for column in source.labels)
    return parse_label(row[source.label], source.label, place, class_names.get(source.label, ()))


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
