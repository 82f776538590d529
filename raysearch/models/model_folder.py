"""What the files of a Hugging Face model's folder say of it, before anything is loaded. Imports no torch.

A folder has config.json and weights: model.safetensors, or several such files and their index. A safetensors file
begins with the length of its header (8 bytes, little-endian) and the header, JSON that has dtype, shape and place of
every tensor (https://huggingface.co/docs/safetensors).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from raysearch.models.findings import Finding
from raysearch.schema.node import Keys
from raysearch.storage.names import is_plain

PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json")
_LARGEST_HEADER = 100_000_000  # bytes; the format allows no more


def read_json(file: Path) -> dict[str, Any] | None:
    """Returns the mapping that a JSON file holds; None if there is no such file or it holds something else."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def folder_findings(folder: Path) -> Iterator[Finding]:
    """Yields why a folder holds no model that transformers can load, and remarks on it."""
    if not folder.exists():
        yield Finding(f"there is no folder {folder}; name the folder that save_pretrained wrote, or a model of the hub")
        return
    if not folder.is_dir():
        yield Finding(f"{folder} is a file; name the folder that holds it, with config.json and the tokenizer")
        return
    config = read_json(folder / "config.json")
    if config is None:
        yield Finding(_why_no_config(folder))
        return
    if not isinstance(config.get("model_type"), str):
        yield Finding(
            f"{folder}/config.json has no model_type, such as bert; save the model again with save_pretrained"
        )
    yield from (Finding(f"{folder}/config.json: {finding.text}") for finding in config_findings(config))
    yield from weight_findings(folder)


def _why_no_config(folder: Path) -> str:
    if (folder / "config.json").exists():
        return f"{folder}/config.json is no JSON mapping; save the model again with save_pretrained"
    if (folder / "adapter_config.json").exists():
        return f"{folder} holds an adapter without its encoder; merge the two (merge_and_unload) and save the result"
    below = sorted(
        file.parent.name for file in folder.glob("*/config.json") if (file.parent / "tokenizer.json").exists()
    )
    inside = f"; its folder {below[0]} has one: name {folder / below[0]}" if below else ""
    return f"{folder} has no config.json, so it holds no model of transformers{inside}"


def config_findings(config: Mapping[str, Any], keys: Keys = ()) -> Iterator[Finding]:
    """Yields what is wrong with a config's numbers; `keys` is where it is declared."""
    for width_key, heads_key in (("hidden_size", "num_attention_heads"), ("dim", "n_heads"), ("d_model", "num_heads")):
        width, heads = config.get(width_key), config.get(heads_key)
        if not isinstance(width, int) or not isinstance(heads, int) or config.get("head_dim"):
            continue
        if heads < 1 or width % heads:
            near = [n for n in range(1, width + 1) if not width % n]
            fits = ", ".join(map(str, sorted(sorted(near, key=lambda n: abs(n - heads))[:3])))
            problem = f"{width_key} {width} is not divisible by {heads_key} {heads}; heads that fit: {fits}"
            yield Finding(problem, (*keys, heads_key) if keys else ())


def weight_findings(folder: Path) -> Iterator[Finding]:
    """Yields whether weights are missing, damaged or a pickle."""
    whole, index = folder / "model.safetensors", read_json(folder / "model.safetensors.index.json")
    if index is not None:
        yield from index_findings(folder, index)
    elif whole.exists():
        yield from _safetensors_findings(whole)
    elif pickles := [name for name in PICKLES if (folder / name).exists()]:
        yield Finding(
            f"{folder} has its weights as a pickle ({pickles[0]}): they are read by torch's loader for weights alone, "
            "which runs no code of the file; save_pretrained writes model.safetensors instead",
            is_refusal=False,
        )
    else:
        yield Finding(f"{folder} has no weights (model.safetensors); copy them there, or declare {{config: ...}}")


def index_findings(folder: Path, index: Mapping[str, Any]) -> Iterator[Finding]:
    """Yields what is wrong with the files that an index of weights names."""
    places = index.get("weight_map")
    names = set(places.values()) if isinstance(places, dict) and all(map(is_plain, places.values())) else set()
    if not names:
        yield Finding(f"{folder}/model.safetensors.index.json must name the file of each tensor, in the same folder")
    for name in sorted(names):
        yield from _safetensors_findings(folder / name)


def _safetensors_findings(file: Path) -> Iterator[Finding]:
    remedy = "copy or download it again"
    if not file.exists():
        yield Finding(f"{file} is missing, and the index of the weights names it; {remedy}")
        return
    header = read_header(file)
    if header is None:
        with file.open("rb") as opened:
            start = opened.read(24)
        pointer = (
            " (it is a pointer of Git LFS: run git lfs pull)" if start.startswith(b"version https://git-lfs") else ""
        )
        yield Finding(f"{file} is damaged: it has no header of safetensors{pointer}; {remedy}")
        return
    size, tensors = header
    end = max((tensor["data_offsets"][1] for tensor in tensors.values()), default=0)
    if size != end:
        yield Finding(f"{file} is damaged: it has {size} bytes of weights instead of {end}; {remedy}")


def read_header(file: Path) -> tuple[int, dict[str, Any]] | None:
    """Returns the bytes after the header of a safetensors file, and its tensors by name; None without a header.

    A tensor is its dtype, shape and data_offsets.
    """
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if not 2 <= length <= min(_LARGEST_HEADER, file.stat().st_size - 8):
                return None
            header = json.loads(opened.read(length))
            tensors = {name: tensor for name, tensor in header.items() if name != "__metadata__"}
            _ = [tensor["data_offsets"][1] - tensor["data_offsets"][0] for tensor in tensors.values()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        return None
    return file.stat().st_size - 8 - length, tensors
