"""Where a declared model lies: a folder, looked for beside the search file, or a name of the hub.

A value that begins with `.`, `~` or `/`, or that names a folder beside the file, is a path. It becomes absolute, so
that every worker finds it. Anything else that looks like `name` or `organisation/name` is left to the hub.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raysearch.config.search_config import Search

_HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


def locate_model(path: str, base: Path) -> tuple[str, str]:
    """Returns the absolute path of a declared folder, or the name of the hub as it is; and a remark, perhaps empty."""
    if path.startswith((".", "~", "/")) or Path(path).is_absolute():
        return _absolute(path, base), ""
    if (base / path).is_dir():
        folder = _absolute(path, base)
        is_hub_name = _HUB_NAME.fullmatch(path) is not None
        remark = (
            f"{path!r} is the folder {folder} here, not the model of the hub; ./{path} says so" if is_hub_name else ""
        )
        return folder, remark
    return (path if _HUB_NAME.fullmatch(path) else _absolute(path, base)), ""


def _absolute(path: str, base: Path) -> str:
    return os.path.normpath(base.absolute() / Path(path).expanduser())


def with_located_models(search: Search) -> Search:
    """Returns a search that was built in Python with absolute paths of its models, from the current folder."""

    def located(model: Any) -> Any:
        path = getattr(model, "path", None)
        return replace(model, path=locate_model(path, Path.cwd())[0]) if path else model

    baselines = {name: replace(each, model=located(each.model)) for name, each in search.baselines.items()}
    return replace(search, model=located(search.model), baselines=baselines)


def locate_models(declared: dict[str, Any], base: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Returns a declared search in which the paths of all models are absolute, and remarks on them."""
    remarks: list[str] = []

    def located(section: dict[str, Any], where: str) -> dict[str, Any]:
        model = section.get("model")
        if not isinstance(model, dict) or not isinstance(model.get("path"), str):
            return section
        path, remark = locate_model(model["path"], base)
        remarks.extend([f"{where}model.path: {remark}"] if remark else [])
        return {**section, "model": {**model, "path": path}}

    declared = located(declared, "")
    if isinstance(baselines := declared.get("baselines"), dict):
        arms = {
            name: located(arm, f"baselines.{name}.") if isinstance(arm, dict) else arm
            for name, arm in baselines.items()
        }
        declared = {**declared, "baselines": arms}
    return declared, tuple(remarks)
