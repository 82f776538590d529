"""An exported image model: how it is written and loaded.

A Hugging Face model is written as `AutoModelForImageClassification` loads it, with a preprocessor_config.json. A
network of raysearch or timm is written as model.safetensors, with a config.json that holds all that its use needs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from raysearch.data.prepared import Split
from raysearch.errors import RunError
from raysearch.modalities.exported import check_index, read_json
from raysearch.modalities.image.network import ImageNetwork, logits_of, merge_classifier, split_classifier
from raysearch.modalities.image.pictures import Picture, decode_picture, resize_pixels, to_pixels
from raysearch.plan import TrialPlan
from raysearch.storage.names import is_plain

FORMAT = 1  # of config.json
BATCH = 64


class ImageClassifier(nn.Module):
    """A trained classifier and the preprocessing of its images."""

    def __init__(self, model: nn.Module, usage: Mapping[str, Any]) -> None:
        super().__init__()
        self.model = model
        self.labels: list[str] = list(usage["labels"])
        self.several: bool = usage["several"]  # may an image have several labels at once?
        self.mean, self.std = tuple(usage["mean"]), tuple(usage["std"])
        self.channels, self.size = usage["channels"], usage["size"]

    def forward(self, pixels: Tensor) -> Tensor:
        """Returns the logits (b, L) of normalised pixels (b, C, size, size)."""
        return logits_of(self.model(pixels))

    def pixels(self, images: Sequence[Any]) -> Tensor:
        """Returns the normalised pixels of images: paths, encoded bytes, Pillow images, or uint8 arrays (H, W[, 3])."""
        pictures = (decode_picture(_picture(image), "an image") for image in images)
        return self.normalised(np.stack([resize_pixels(pixels, self.size, self.channels) for pixels in pictures]))

    def normalised(self, pixels: np.ndarray) -> Tensor:
        """Returns uint8 pixels (b, C, size, size) normalised for the network."""
        mean, std = (torch.tensor(values)[:, None, None] for values in (self.mean, self.std))
        return (torch.from_numpy(pixels).float() / 255 - mean) / std

    def predict(self, images: Sequence[Any]) -> list[dict[str, float]]:
        """Returns the probability of every label for each image, computed on the CPU."""
        with torch.no_grad():
            logits = self(self.pixels(images)).float()
        probabilities = logits.sigmoid() if self.several else logits.softmax(dim=1)
        return [dict(zip(self.labels, row, strict=True)) for row in probabilities.tolist()]


def load_image_model(folder: Path | str) -> ImageClassifier:
    """Loads the image classifier that `raysearch export` wrote to `folder`; runs nothing that the folder holds.

    Raises RunError, one line, if there is none or it is damaged.
    """
    folder = Path(folder)
    config = read_json(folder, "config.json")
    if not isinstance(config, dict):
        raise RunError(f"{folder}/config.json must hold one object")
    try:
        return _load(folder, config)
    except RunError:
        raise
    except Exception as error:  # transformers, timm and torch raise anything; a user reads one line
        problem = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise RunError(f"{folder} cannot be loaded: {problem}") from error


def _load(folder: Path, config: Mapping[str, Any]) -> ImageClassifier:
    """Loads a folder, which may be a stranger's: the architecture is one of raysearch or timm, by its plain name."""
    if "architecture" not in config:
        check_index(folder)
        return _from_hugging_face(folder, config)
    architecture = {**config["architecture"], "pretrained": False}
    if not architecture.get("image") and not is_plain(architecture.get("timm")):
        raise RunError(f"{folder}/config.json: architecture must be an image network of raysearch or a model of timm")
    shape = (config["channels"], config["size"], config["size"])
    model = merge_classifier(*split_classifier(architecture, len(config["labels"]), shape, dropout=0.0))
    model.load_state_dict(load_file(folder / "model.safetensors"))
    return ImageClassifier(model.eval(), config).eval()


def save_image_model(network: ImageNetwork, plan: TrialPlan, metadata: Mapping[str, Any], folder: Path) -> None:
    """Writes body and end-task head of `network` as one model."""
    model: Any = network.merged()
    usage = {name: metadata[name] for name in ("labels", "several", "mean", "std")}
    usage |= {"channels": metadata["shape"][0], "size": metadata["shape"][1]}
    if hasattr(model, "save_pretrained"):
        config = model.config
        config.id2label = dict(enumerate(metadata["labels"]))
        config.label2id = {label: i for i, label in enumerate(metadata["labels"])}
        config.problem_type = "multi_label_classification" if metadata["several"] else "single_label_classification"
        model.save_pretrained(folder)
        _write(folder / "preprocessor_config.json", _preprocessor(usage))
        return
    state = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    _write(folder / "config.json", {"raysearch": FORMAT, "architecture": plan.model, **usage})


def predict_images(folder: Path, split: Split) -> tuple[Tensor, Tensor]:
    """Returns logits and labels of a split, by the model that `folder` holds, loaded as its users load it."""
    classifier = load_image_model(folder)
    logits = []
    with torch.no_grad():
        for rows in torch.arange(len(split)).split(BATCH):
            stored = np.stack([split.row(int(row)) for row in rows])
            logits.append(classifier(classifier.normalised(stored)).float())
    return torch.cat(logits), torch.from_numpy(np.asarray(split.labels).astype(np.int64))


def _from_hugging_face(folder: Path, config: Mapping[str, Any]) -> ImageClassifier:
    from transformers import AutoModelForImageClassification

    processor = json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))
    model: nn.Module = AutoModelForImageClassification.from_pretrained(
        str(folder), trust_remote_code=False, local_files_only=True, use_safetensors=True
    )
    names = {int(number): label for number, label in config["id2label"].items()}
    usage = {"labels": [names[number] for number in sorted(names)], "size": processor["size"]["height"]}
    usage |= {"several": config.get("problem_type") == "multi_label_classification"}
    usage |= {"mean": processor["image_mean"], "std": processor["image_std"], "channels": len(processor["image_mean"])}
    return ImageClassifier(model.eval(), usage).eval()


def _preprocessor(usage: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the config of a Hugging Face image processor that does the same steps as training."""
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": usage["size"], "width": usage["size"]},
        "resample": 2,  # bilinear
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": usage["mean"],
        "image_std": usage["std"],
        "do_convert_rgb": usage["channels"] == 3,
    }


def _picture(image: Any) -> Picture:
    if isinstance(image, bytes | np.ndarray | Path):
        return image
    if isinstance(image, str):
        return Path(image)
    return to_pixels(image)


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
