"""Pictures: how they are decoded to 8 bits, scaled, and told from each other.

    8 bits     as they are
    16 bits    0 is black and 65535 white, whatever the values of a picture; so are whole numbers of 32 bits
    float      0 is black and 1 white
    EXIF       a picture is turned as its orientation says, as viewers and transformers' pipelines do
    alpha      is dropped
    frames     the first one is read

Values beyond these ranges are refused.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raysearch.errors import SpecError

Picture = bytes | Path | NDArray[np.uint8]  # encoded, in a file, or pixels (H, W) or (H, W, C)
WHITE = 65535  # of 16 bits
DIM = 0.25  # of WHITE; if no picture of 16 bits is brighter, a note says so
_ORIENTATION = 0x0112  # the EXIF tag
_GREY = ("1", "L", "LA", "La", "F")


@dataclass
class PictureFacts:
    """What was unusual about pictures that were decoded."""

    counts: Counter[str] = field(default_factory=Counter)  # pictures, by what was done to them
    brightest: int = 0  # value of a picture of 16 bits

    def notes(self) -> list[str]:
        """Returns a sentence for each thing that was done to some pictures."""
        notes = [f"images {what}: {count}" for what, count in self.counts.items()]
        if 0 < self.brightest < DIM * WHITE:
            share = f"{self.brightest} of {WHITE}"
            notes.append(f"the brightest pixel of the images of 16 bits is {share}: they are dark; scale their values")
        return notes


def decode_picture(picture: Picture, source: str, facts: PictureFacts | None = None) -> NDArray[np.uint8]:
    """Returns the pixels (H, W) of a grey picture, or (H, W, 3) of a colour one; `source` is where it stands.

    Raises SpecError for what is not a picture, or cannot be read as one of 8 bits.
    """
    if isinstance(picture, np.ndarray):
        return picture[:, :, 0] if picture.ndim == 3 and picture.shape[2] == 1 else picture
    from PIL import Image, UnidentifiedImageError

    facts = facts or PictureFacts()
    where = str(picture) if isinstance(picture, Path) else source
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on sizes below the limit, and on metadata that are not used
            with Image.open(picture if isinstance(picture, Path) else io.BytesIO(picture)) as opened:
                return _pixels(_upright(opened, facts), where, facts)
    except SpecError:
        raise
    except Image.DecompressionBombError:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 1_000_000
        raise SpecError(f"has more than {limit} million pixels; scale it down", file=where) from None
    except Exception as error:  # what a damaged picture raises depends on its format
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            reason = "its bytes are of no image format that is known"
        raise SpecError(f"not a picture: {reason}", file=where) from None


def is_encoded(value: bytes) -> bool:
    """Says whether bytes begin like an encoded picture."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(value)):
                return True
    except Image.DecompressionBombError:
        return True
    except Exception:  # raw pixels may begin like anything
        return False


def to_pixels(image: Any) -> NDArray[np.uint8]:
    """Returns the pixels of an opened Pillow image, decoded as training decodes a file."""
    facts = PictureFacts()
    return _pixels(_upright(image, facts), "an image", facts)


def _upright(opened: Any, facts: PictureFacts) -> Any:
    """Returns the first frame, turned as its EXIF orientation says."""
    from PIL import ImageOps

    if getattr(opened, "is_animated", False):
        facts.counts["with several frames, of which the first is read"] += 1
    if opened.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in opened.info:
        facts.counts["with transparency, which is dropped"] += 1
    try:
        is_turned = opened.getexif().get(_ORIENTATION, 1) not in (None, 0, 1)
    except Exception:  # EXIF of another kind
        is_turned = False
    if not is_turned:
        return opened
    facts.counts["turned as their EXIF orientation says"] += 1
    return ImageOps.exif_transpose(opened)


def _pixels(opened: Any, where: str, facts: PictureFacts) -> NDArray[np.uint8]:
    if opened.mode.startswith("I"):
        values = np.asarray(opened).astype(np.int64)
        lowest, highest = int(values.min()), int(values.max())
        if lowest < 0 or highest > WHITE:
            problem = f"has pixels from {lowest} to {highest}; more than 8 bits are read as 0 black to {WHITE} white"
            raise SpecError(problem, file=where)
        facts.counts[f"of 16 bits, of which the upper 8 are kept ({WHITE} is white)"] += 1
        facts.brightest = max(facts.brightest, highest)
        return np.asarray((values / 257).round().astype(np.uint8))
    if opened.mode == "F":
        shades = np.asarray(opened, dtype=np.float64)
        if not (shades.min() >= 0 and shades.max() <= 1):
            problem = f"has pixels from {shades.min():g} to {shades.max():g}; floats are read as 0 black to 1 white"
            raise SpecError(problem, file=where)
        facts.counts["of floats, rounded to 8 bits (1 is white)"] += 1
        return np.asarray((shades * 255).round().astype(np.uint8))
    return np.asarray(opened.convert("L" if opened.mode in _GREY else "RGB"), dtype=np.uint8)


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
    try:
        return hashlib.sha256(picture.read_bytes() if isinstance(picture, Path) else picture).hexdigest()
    except OSError as error:
        raise SpecError(f"cannot be read: {error.strerror}", file=str(picture)) from None
