"""Reading a search from a file: it is parsed once and validated once, and its errors are located once.

`load_search` reads a file of the catalog or of the user, and rejects what cannot work before anything starts.
`load_file` also returns the text and the lines of the file, for errors that occur later.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from raysearch.config.environment import check_machine, check_packages
from raysearch.config.model_checks import check_models
from raysearch.config.model_paths import check_teacher_file, locate_models
from raysearch.config.parameters import OVERRIDE_KEY
from raysearch.config.search_config import Search
from raysearch.config.validation import validate_search
from raysearch.errors import SpecError
from raysearch.schema import catalog
from raysearch.schema.node import Node
from raysearch.schema.yaml_source import apply_overrides, load_yaml
from raysearch.storage.names import name_problem


@dataclass(frozen=True)
class ParsedSearch:
    """A validated search and its source."""

    search: Search
    node: Node  # the values and their lines
    text: str = ""  # of the file, after a comment line for each override; empty for a search built in Python
    notes: tuple[str, ...] = ()  # remarks on the models

    def with_location(self, error: SpecError) -> SpecError:
        """Returns the error with the file and line of its key; an error that names a file stays as it is."""
        if error.file or not error.key:
            return error
        return self.node.error(error.problem, *error.key.split("."))


def load_file(
    name_or_path: str | Path, overrides: Mapping[str, str] | None = None, *, local: bool = True
) -> ParsedSearch:
    """Returns a search of the catalog by name, or a user's own by path, with `key=value` overrides.

    Raises SpecError, one line, for whatever cannot work; with `local`, also for what this machine does not have.
    """
    file = catalog.path("trials", name_or_path)
    node, text = load_yaml(file)
    overrides = overrides or {}
    node = apply_overrides(node, overrides, OVERRIDE_KEY)
    name = node.value.get("name")
    if isinstance(name, str) and (problem := name_problem(name)):
        raise node.error(problem, "name")
    node.value.setdefault("name", file.stem)
    task = node.value.get("task")
    is_shipped = file.is_relative_to(catalog.root() / "trials")
    if isinstance(task, dict) and not is_shipped:
        task.setdefault("base", str(file.resolve().parent))
    declared, remarks = locate_models(node.value, Path.cwd() if is_shipped else file.resolve().parent)
    node = replace(node, value=declared)
    search = Search.read(node, file.parent)
    validate_search(search, node)
    check_packages(search, node)
    if local:
        check_machine(search, node)
        check_teacher_file(search, node)
    remarks += check_models(search, node)
    text = "".join(f"# --set {key}={value}\n" for key, value in overrides.items()) + text
    return ParsedSearch(search, node, text, remarks)


def load_search(name_or_path: str | Path, overrides: Mapping[str, str] | None = None, *, local: bool = True) -> Search:
    """Returns a search of the catalog by name, or a user's own by path, with `key=value` overrides.

    Raises SpecError, one line, for whatever cannot work; with `local`, also for what this machine does not have.
    """
    return load_file(name_or_path, overrides, local=local).search


def parse_search(declared: Search | Mapping[str, object]) -> ParsedSearch:
    """Returns a search that a program declares, validated; a mapping has the keys of a file.

    Raises SpecError for what could not work.
    """
    remarks: tuple[str, ...] = ()
    if isinstance(declared, Search):
        node = Node(declared.to_dict())
    else:
        mapping, remarks = locate_models(dict(declared), Path.cwd())
        node = Node(mapping)
    search = declared if isinstance(declared, Search) else Search.read(node)
    validate_search(search, node)
    check_packages(search, node)
    return ParsedSearch(search, node, notes=remarks)
