"""Image primitives: where images come from, what happens to them, what the encoder sees and what it predicts.

AANG's taxonomy (Dery et al. 2023, section 3, footnote 2: it is not bound to text) for images: patches for tokens.

    pixels (b, C, H, W) normalised, so that 0 is the mean colour; H = W
    changed (b, H, W) bool: pixels that a transform has put something else for

A patch is an eighth of the side (at least 2 pixels), laid on a grid; each is drawn with the same probability.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Generator, Tensor, nn

from raysearch.data.prepared import Split
from raysearch.modalities.batch import OpenSplit, Targets
from raysearch.modalities.losses import label_loss

NOISE = 0.5  # standard deviation of the noise, in standard deviations of a channel
HIDDEN = 0.5  # share of patches that masked_patches keeps from the encoder
COLOUR = 0.4  # the largest change of a strength
SHIFT = 8  # crop_flip shifts by at most an eighth of the side


def end_task_images(open_split: OpenSplit) -> Split:
    """Opens the end task's training images."""
    return open_split("train")


def auxiliary_images(open_split: OpenSplit) -> Split:
    """Opens images with labels of their own."""
    return open_split("auxiliary")


@dataclass(frozen=True)
class View:
    """The images after a transform."""

    pixels: Tensor  # (b, C, H, W)
    original: Tensor  # the same images without noise or masks, moved and rotated alike: what `reconstruct` predicts
    changed: Tensor  # (b, H, W) bool
    turns: Tensor  # (b,) quarter turns


Transform = Callable[[Tensor, float, Generator], View]


def _view(pixels: Tensor, original: Tensor, changed: Tensor | None = None, turns: Tensor | None = None) -> View:
    b, _, height, width = pixels.shape
    nothing = torch.zeros(b, height, width, dtype=torch.bool)
    zero = torch.zeros(b, dtype=torch.long)
    return View(pixels, original, nothing if changed is None else changed, zero if turns is None else turns)


def none(pixels: Tensor, probability: float, generator: Generator) -> View:
    """Returns the images unchanged."""
    del probability, generator
    return _view(pixels, pixels)


def crop_flip(pixels: Tensor, probability: float, generator: Generator) -> View:
    """Shifts each image by up to an eighth of the side, fills the border with the mean colour, and mirrors half.

    This is the usual augmentation of CIFAR (Zagoruyko & Komodakis 2016: 4 of 32 pixels).
    """
    del probability
    b, _, side, _ = pixels.shape
    limit = max(1, side // SHIFT)
    shifts = torch.randint(2 * limit + 1, (b, 2), generator=generator)
    flips = torch.rand(b, generator=generator) < 0.5
    wide = F.pad(pixels, (limit, limit, limit, limit))
    rows = shifts[:, :1] + torch.arange(side)  # (b, side)
    columns = shifts[:, 1:] + torch.arange(side)
    columns = torch.where(flips[:, None], columns.flip(1), columns)
    moved = wide[torch.arange(b)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    moved = moved.contiguous()
    return _view(moved, moved)


def patch_mask(pixels: Tensor, probability: float, generator: Generator) -> View:
    """Replaces patches, each with `probability`, by the mean colour."""
    changed = patches(pixels, probability, generator)
    return _view(pixels.masked_fill(changed[:, None], 0.0), pixels, changed)


def noise(pixels: Tensor, probability: float, generator: Generator) -> View:
    """Adds Gaussian noise to every pixel, half a standard deviation (denoising autoencoders, Vincent et al. 2008)."""
    del probability
    noisy = pixels + NOISE * torch.randn(pixels.shape, generator=generator)
    return _view(noisy, pixels, torch.ones(pixels[:, 0].shape, dtype=torch.bool))


def rotate(pixels: Tensor, probability: float, generator: Generator) -> View:
    """Rotates each image by 0 to 3 quarter turns (RotNet, Gidaris et al. 2018)."""
    del probability
    turns = torch.randint(4, (len(pixels),), generator=generator)
    turned = torch.stack([image.rot90(int(turn), (1, 2)) for image, turn in zip(pixels, turns, strict=True)])
    return _view(turned, turned, turns=turns)


def colour(pixels: Tensor, probability: float, generator: Generator) -> View:
    """Changes brightness, contrast and the strength of each channel by a uniform factor of up to COLOUR.

    The colour distortion of SimCLR (Chen et al. 2020, https://arxiv.org/abs/2002.05709, appendix A), without hue.
    """
    del probability
    b, channels = pixels.shape[:2]

    def strength(columns: int) -> Tensor:
        return 1 + COLOUR * (2 * torch.rand(b, columns, 1, 1, generator=generator) - 1)

    mean = pixels.mean(dim=(1, 2, 3), keepdim=True)
    changed = ((pixels - mean) * strength(1) + mean) * strength(channels) + strength(1) - 1
    return _view(changed, changed)


def cut_out(pixels: Tensor, probability: float, generator: Generator) -> View:
    """Shifts and mirrors as `crop_flip`, and gives a square of half the side, at a uniform place, the mean colour.

    Cutout (DeVries and Taylor 2017, https://arxiv.org/abs/1708.04552): the square may reach beyond the border.
    """
    moved = crop_flip(pixels, probability, generator).pixels
    b, _, side, _ = moved.shape
    centres = torch.randint(side, (b, 2), generator=generator)
    near = (torch.arange(side) - centres[:, :, None]).abs() < side // 4  # (b, 2, side)
    changed = near[:, 0, :, None] & near[:, 1, None, :]
    return _view(moved.masked_fill(changed[:, None], 0.0), moved, changed)


def patches(pixels: Tensor, probability: float, generator: Generator) -> Tensor:
    """Returns the pixels (b, H, W) bool of patches, each drawn with `probability`."""
    b, _, side, _ = pixels.shape
    patch = max(2, side // 8)
    grid = -(-side // patch)
    drawn = torch.rand(b, grid, grid, generator=generator) < probability
    return drawn.repeat_interleave(patch, 1).repeat_interleave(patch, 2)[:, :side, :side]


Representation = Callable[[Tensor, Generator], Tensor]


def full(pixels: Tensor, generator: Generator) -> Tensor:
    """Returns (b, H, W) bool: nothing is hidden."""
    del generator
    return torch.zeros(pixels[:, 0].shape, dtype=torch.bool)


def masked_patches(pixels: Tensor, generator: Generator) -> Tensor:
    """Returns (b, H, W) bool: half of the patches of each image are hidden, so that the encoder sees the mean colour.

    Masked autoencoders (He et al. 2022) drop the tokens. A convolution has no tokens, so all models get zeros.
    """
    return patches(pixels, HIDDEN, generator)


def reconstruct(hidden: Tensor, targets: Targets, head: nn.Module) -> Tensor:
    """Returns the mean over images of the squared error at the selected pixels, in variances of a channel."""
    error = (head(hidden[:, 0]).float() - targets.original).square().mean(dim=1)  # (b, H, W)
    selected = targets.selected.to(error.dtype)
    each: Tensor = (error * selected).sum((1, 2)) / selected.sum((1, 2))  # (b,)
    return each.sum() / max(targets.rows_total, 1)


def rotation(hidden: Tensor, targets: Targets, head: nn.Module) -> Tensor:
    """Returns the mean cross-entropy of how many quarter turns an image was rotated (Gidaris et al. 2018)."""
    return label_loss(hidden, targets, head)


def quarter_turns(view: View) -> Tensor:
    """Returns what `rotation` predicts (b,)."""
    return view.turns
