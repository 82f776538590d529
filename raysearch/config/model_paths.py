"""Where a declared model lies: a folder, looked for beside the search file, or a name of the hub. And a teacher's file.

A value that begins with `.`, `~` or `/`, or that names a folder beside the file, is a path. It becomes absolute, so
that every worker finds it. Anything else that looks like `name` or `organisation/name` is left to the hub.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raysearch.config.method_validation import setting_location
from raysearch.schema.node import Node

if TYPE_CHECKING:
    from raysearch.config.search_config import Search

TEACHER_PATH = "teacher_path"

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


def check_teacher_file(search: Search, node: Node) -> None:
    """Raises SpecError for an arm whose teacher reads a file that is not there, or not named."""
    for arm in search.arms.values():
        declared = arm.dimensions["teacher"].choices if "teacher" in arm.dimensions else (arm.settings.get("teacher"),)
        path = str(arm.settings.get(TEACHER_PATH, ""))
        if "file" in declared and not Path(path).expanduser().is_file():
            problem = f"no such file {path!r}" if path else "the teacher `file` needs it: the file of guesses"
            raise node.error(problem, *setting_location(search, arm, TEACHER_PATH))


def _with_teacher_file(section: dict[str, Any], base: Path) -> dict[str, Any]:
    """Returns a section of a declared search in which the path of a teacher's file is absolute."""
    settings = section.get("settings")
    if not isinstance(settings, dict) or not isinstance(path := settings.get(TEACHER_PATH), str) or not path:
        return section
    return {**section, "settings": {**settings, TEACHER_PATH: _absolute(path, base)}}


def locate_models(declared: dict[str, Any], base: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Returns a declared search with absolute paths of all models and teachers' files, and remarks on the models."""
    remarks: list[str] = []

    def located(section: dict[str, Any], where: str) -> dict[str, Any]:
        section = _with_teacher_file(section, base)
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
