"""A draft of an image search for a user's folder or file."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

from raysearch.data.columns import Column, choose_label
from raysearch.errors import SpecError
from raysearch.modalities.drafting import Draft, DraftRequest, find_siblings, quote, shared_values
from raysearch.modalities.image.readers import SUFFIXES

TEMPLATE = Path(__file__).with_name("draft.yaml")
SAMPLE = 50  # images whose size is looked at
LARGEST = 64  # pixels of a side that a small network is trained on
USUAL = 32
STEP_SECONDS = {False: 0.4, True: 0.1}


def draft_images(request: DraftRequest) -> Draft | str:
    """Returns a draft, or why the file or folder is none of labelled images."""
    return _draft_folder(request) if request.file.is_dir() else _draft_file(request)


def _draft_folder(request: DraftRequest) -> Draft | str:
    folder = _train_folder(request.file)
    for option in ("text", "label"):
        if getattr(request, option) is not None:
            raise SpecError("a folder of images has no columns", file=str(request.file), key=f"--{option}")
    files = [file for file in sorted(folder.rglob("*")) if file.suffix.lower() in SUFFIXES and file.parent != folder]
    counts = Counter(file.relative_to(folder).parts[0] for file in files)
    if len(counts) < 2:
        return f"a folder of images has a folder for each class, and {folder} has {len(counts)} with images"
    if folder != request.file:
        request = replace(request, file=folder, siblings=find_siblings(folder))
    values: dict[str, Any] = shared_values(request, counts)
    values |= {"rows": f"{len(files)} images in {len(counts)} folders, one for each class"}
    values |= {"image": None, "label": None, "why_label": None}
    return _finish(request, values, files[:: max(1, len(files) // SAMPLE)], len(counts))


def _train_folder(folder: Path) -> Path:
    """Returns the folder of class folders: the folder itself, or its folder `train`."""
    return folder / "train" if (folder / "train").is_dir() else folder


def _draft_file(request: DraftRequest) -> Draft | str:
    image = next((column for column in request.columns.values() if _holds_images(column, request.file)), None)
    if image is None:
        return "no column holds images or names of image files"
    label = choose_label(request.columns, request.label, request.file, text=image.name)
    if label is None:
        return "no column holds labels, a few values that repeat (name it by --label)"
    values: dict[str, Any] = shared_values(request, label.column.counts)
    values |= {"rows": f"{len(image.values)} images", "image": quote(image.name), "label": quote(label.column.name)}
    values["why_label"] = label.reason
    sources = [_source(value, request.file) for value in image.values[:: max(1, len(image.values) // SAMPLE)]]
    return _finish(request, values, sources, len(label.column.counts))


def _holds_images(column: Column, file: Path) -> bool:
    sample = column.sample
    if not sample:
        return False
    if isinstance(sample[0], str):
        return all(isinstance(value, str) and Path(value).suffix.lower() in SUFFIXES for value in sample)
    return all(isinstance(_source(value, file), bytes) for value in sample)


def _source(value: Any, file: Path) -> Any:
    """Returns the bytes of a stored image, or the path of a named one."""
    if isinstance(value, dict):  # as the datasets library writes images
        return value.get("bytes")
    if isinstance(value, str):
        return next((path for path in (file.parent / value, file.parent.parent / value) if path.is_file()), None)
    return value


def _finish(request: DraftRequest, values: dict[str, Any], sources: list[Any], classes: int) -> Draft:
    """Returns the draft with the size of the images and the model."""
    sizes = {size for source in sources if (size := _size(source)) is not None}
    largest = max((max(size) for size in sizes), default=0)
    values["size"] = None
    if len(sizes) > 1 or largest > LARGEST:
        values["size"] = str(LARGEST if largest > LARGEST else USUAL)
    several = "the images have several sizes" if len(sizes) > 1 else f"the images are {largest} pixels wide or high"
    values["why_size"] = f"side to which images are scaled; {several}"
    values |= {"model": "{image: small_cnn, norm: group}", "why_model": "a small network with random weights"}
    return Draft(TEMPLATE, values, STEP_SECONDS[bool(request.gpus)], f"images of {classes} classes")


def _size(source: Any) -> tuple[int, int] | None:
    """Returns width and height of an encoded picture; None for anything else."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as picture:
            return picture.size
    except (UnidentifiedImageError, OSError, ValueError, AttributeError):
        return None
