"""Small image files made on the fly, for tests of image tasks: what a picture shows tells its class."""

import io
from pathlib import Path

import numpy as np
from PIL import Image


def noise_image(number: int, brightness: int, side: int = 8, *, colour: bool = True) -> Image.Image:
    """Noise about a brightness, another for every number."""
    chance = np.random.default_rng(number)
    pixels = chance.integers(max(0, brightness - 30), min(256, brightness + 30), (side, side, 3), dtype=np.uint8)
    return Image.fromarray(pixels if colour else pixels[:, :, 0])


def encode_image(image: Image.Image, kind: str = "png") -> bytes:
    """The file's bytes."""
    to = io.BytesIO()
    image.save(to, kind)
    return to.getvalue()


def write_class_folders(folder: Path, classes: dict[str, int], each: int, *, start: int = 0, side: int = 8) -> Path:
    """`each` PNG files for every class, as bright as it says, in images/ below the class's folder."""
    for row, (name, brightness) in enumerate(classes.items()):
        inside = folder / name / "images"
        inside.mkdir(parents=True)
        for i in range(each):
            noise_image(start + 1000 * row + i, brightness, side).save(inside / f"{name}_{i}.png")
    return folder
