"""How an encoder makes one vector of a text, as its folder declares it.

A folder of sentence-transformers lists its parts in modules.json: a Transformer, a Pooling, whose folder has a
config.json, and often a Normalize. A folder without that file is an encoder whose architecture has a head of its own.
"""

from __future__ import annotations

import functools
import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from raysearch.errors import SpecError, shorten
from raysearch.modalities.text.pretrained import PACKAGES
from raysearch.storage.names import is_plain

HEAD = "head"  # the architecture's own head, which is part of its sequence classification model
POOLINGS = ("auto", "first", "mean", "max", HEAD)
_MODES = {
    "cls": "first",
    "cls_token": "first",
    "mean": "mean",
    "mean_tokens": "mean",
    "max": "max",
    "max_tokens": "max",
}
_PREFIX = "pooling_mode_"


def resolve_pooling(model: Mapping[str, Any], *, fetch: bool = False) -> dict[str, Any]:
    """Returns a declared model in which pooling `auto` is replaced by what the model's own folder declares.

    `normalise` is added where the folder normalises the pooled vectors. A model that is neither in a folder nor in a
    package stays as it is, unless `fetch` lets the hub answer. Raises SpecError for a declaration that cannot be
    followed.
    """
    if model.get("pooling") != "auto":
        return dict(model)
    declared = declared_pooling(str(model.get("package") or ""), str(model.get("path") or ""), fetch)
    if declared is None:
        return dict(model)
    pooling, normalises = declared
    return {**model, "pooling": pooling} | ({"normalise": True} if normalises else {})


@functools.cache
def declared_pooling(package: str, path: str, fetch: bool) -> tuple[str, bool] | None:
    """Returns a model's pooling, and whether it normalises the vectors; None for a model that is not to be seen here.

    Raises SpecError for a pooling that is none of ours.
    """
    modules = _file_of(package, path, "modules.json", fetch)
    if modules is None:
        return None
    if not modules.is_file():
        return HEAD, False
    try:
        parts = [(str(part["type"]).rpartition(".")[2], str(part.get("path", ""))) for part in _json(modules)]
    except (TypeError, KeyError) as error:
        raise SpecError(f"is not a list of modules ({error})", file=str(modules)) from None
    for kind, place in parts:
        if kind == "Pooling":
            if not is_plain(place):
                raise SpecError(f"{shorten(place)!r} cannot be the folder of a module", file=str(modules))
            config = _file_of(package, path, f"{place}/config.json", fetch)
            if config is None:
                return None
            return _mode(_json(config), config), any(other == "Normalize" for other, _ in parts)
    return HEAD, False


def _mode(config: Mapping[str, Any], file: Path) -> str:
    """Returns the pooling that a config.json of sentence-transformers names."""
    named = config.get("pooling_mode")
    modes = [named] if isinstance(named, str) else named if isinstance(named, list) else []
    modes = modes or [
        name.removeprefix(_PREFIX) for name in config if name.startswith(_PREFIX) and config[name] is True
    ]
    if len(modes) != 1 or modes[0] not in _MODES:
        listed = " and ".join(modes) or "nothing"
        raise SpecError(f"pools by {listed}; name another under model: pooling: first, mean or max", file=str(file))
    return _MODES[modes[0]]


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SpecError(f"cannot be read: {error}", file=str(file)) from None


def _file_of(package: str, path: str, name: str, fetch: bool) -> Path | None:
    """Returns where a file of the model lies, whether it exists or not; None if its folder is not on this machine."""
    if package:
        spec = importlib.util.find_spec(package) if package in PACKAGES else None
        if spec is None or not spec.submodule_search_locations:
            return None
        return Path(spec.submodule_search_locations[0]) / PACKAGES[package].folder / name
    if Path(path).expanduser().is_dir():
        return Path(path).expanduser() / name
    is_repository = path.count("/") <= 1 and not path.startswith((".", "/", "~"))
    return _file_of_hub(path, name) if fetch and is_repository else None


def _file_of_hub(repository: str, name: str) -> Path:
    """Returns a file of a repository of the hub, or a path without a file if it has none.

    A hub that cannot be reached counts as one without it: what is then loaded lies in the cache.
    """
    from transformers.utils.hub import cached_file

    flags = ("missing_entries", "connection_errors", "gated_repo")
    quiet: dict[str, Any] = {f"_raise_exceptions_for_{flag}": False for flag in flags}
    file = cached_file(repository, name, **quiet)
    return Path(file) if file else Path(repository) / name
