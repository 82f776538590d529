"""Small generated image files for tests of image tasks; the brightness of an image is its class."""

import io
from pathlib import Path

import numpy as np
from PIL import Image


def noise_image(number: int, brightness: int, side: int = 8, *, colour: bool = True) -> Image.Image:
    """Returns noise around a brightness, different for every number."""
    rng = np.random.default_rng(number)
    pixels = rng.integers(max(0, brightness - 30), min(256, brightness + 30), (side, side, 3), dtype=np.uint8)
    return Image.fromarray(pixels if colour else pixels[:, :, 0])


def encode_image(image: Image.Image, file_format: str = "png") -> bytes:
    """Returns the bytes of the image's file."""
    file = io.BytesIO()
    image.save(file, file_format)
    return file.getvalue()


def write_class_folders(folder: Path, classes: dict[str, int], each: int, *, start: int = 0, side: int = 8) -> Path:
    """Writes `each` PNG files of its brightness for every class, into images/ below the class's folder."""
    for row, (name, brightness) in enumerate(classes.items()):
        inside = folder / name / "images"
        inside.mkdir(parents=True)
        for i in range(each):
            noise_image(start + 1000 * row + i, brightness, side).save(inside / f"{name}_{i}.png")
    return folder
