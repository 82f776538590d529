"""Writes the pages of this folder from the code: settings, methods, primitives, keys, tables, commands, ...

    python docs/reference/generate.py           # writes them
    python docs/reference/generate.py --check   # exits with 1 if one of them is not current

`make docs` writes them; a test checks that they are current.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import typer

import raysearch
from raysearch.cli import describe
from raysearch.cli.main import app
from raysearch.config import synonyms
from raysearch.config.json_schema import search_keys
from raysearch.config.parameters import SETTINGS
from raysearch.methods import FAMILIES, METHODS
from raysearch.methods.profiles import PROFILES
from raysearch.modalities import all_modalities
from raysearch.objectives.primitive import STAGES, Primitive
from raysearch.reports.query import VIEWS
from raysearch.storage.schemas import TABLES, VERSION

FOLDER = Path(__file__).parent
MODEL = "model"  # the group of settings that only one kind of model has
NOTE = "<!-- Written by docs/reference/generate.py from the code: change the code, then run it. -->"


def table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Returns a Markdown table; a cell's line breaks and bars are escaped."""

    def line(cells: Sequence[Any]) -> str:
        texts = (" ".join(str(cell).split()).replace("|", "\\|") for cell in cells)
        return f"| {' | '.join(texts)} |"

    return "\n".join([line(header), line(["---"] * len(header)), *map(line, rows)])


def code(words: Iterable[Any]) -> str:
    """Returns the words as inline code, separated by commas."""
    return ", ".join(f"`{word}`" for word in words)


def settings_page() -> str:
    """Returns a page with every setting, grouped by who uses it."""
    rows = {name: describe.described(name) for name in SETTINGS}
    groups: dict[str, list[Sequence[Any]]] = {"every trial": []} | {family: [] for family in (*FAMILIES, MODEL)}
    for name, entries in rows.items():
        (entry,) = (entry for entry in entries if "setting" in entry)
        users = entry["used by"]
        group = users[0] if users == ["every trial"] else METHODS[users[0]].family if users[0] in METHODS else MODEL
        cells = [f"`{name}`", f"`{entry['default']}`", entry["range"], entry["unit"], entry["meaning"]]
        groups[group].append([*cells, "" if group == "every trial" else code(users)])
    parts = []
    for group, group_rows in groups.items():
        header = ["setting", "default", "range", "unit", "meaning", "used by"]
        if group == "every trial":
            header, group_rows = header[:-1], [row[:-1] for row in group_rows]
        titles = {"every trial": "Settings of every trial", MODEL: "Settings of one kind of model"}
        title = titles.get(group, f"Settings of the {group} methods")
        parts += [f"## {title}", table(header, group_rows)]
    intro = "Every setting of a trial. A search fixes one under `settings:` or searches it under `dimensions:`."
    profiles = table(
        ["method", "setting", "default", *PROFILES],
        [[f"`{cell}`" for cell in row.values()] for row in describe.listing("profiles")],
    )
    profile_text = "What `profile:` sets where a search says nothing: the paper's text, or its authors' code."
    return "\n\n".join(["# Settings", intro, *parts, "## Profiles", profile_text, profiles])


def methods_page() -> str:
    """Returns a page with every weighting, surgery and schedule."""
    parts = ["# Methods", "A method of a search is a weighting, a surgery and a schedule."]
    for family in FAMILIES:
        rows = [
            [f"`{name}`", method.meaning, method.paper, code(method.setting_names)]
            for name, method in METHODS.items()
            if method.family == family
        ]
        parts += [f"## {family.capitalize()}", table(["name", "meaning", "paper", "settings"], rows)]
    return "\n\n".join(parts)


def requirement(primitive: Primitive) -> str:
    """Returns the stage and the primitives that a primitive needs there, or an empty string."""
    needs = primitive.requires
    return f"{needs.stage}: {code(needs.primitives)}" if needs else ""


def primitives_page() -> str:
    """Returns a page with every primitive of every modality, stage by stage."""
    parts = ["# Primitives", "An auxiliary objective is one primitive of each stage; a space names the primitives."]
    for modality in all_modalities():
        parts.append(f"## {modality.name.capitalize()}")
        for stage in STAGES:
            primitives = [each for each in modality.taxonomy.primitives if each.stage == stage]
            rows = [[f"`{each.name}`", each.meaning, requirement(each)] for each in primitives]
            header = ["primitive", "meaning", "requires"]
            if not any(each.requires for each in primitives):
                header, rows = header[:-1], [row[:-1] for row in rows]
            parts += [f"### {stage}", table(header, rows)]
    return "\n\n".join(parts)


def values(schema: dict[str, Any]) -> str:
    """Returns the type, the choices or the range of a key's values in words."""
    if "enum" in schema:
        return code(schema["enum"])
    if "const" in schema:
        return code([schema["const"]])
    if "oneOf" in schema:
        return code(choice["const"] for choice in schema["oneOf"])
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(text for form in schema["anyOf"] if (text := values(form))))
    low, high = schema.get("minimum", schema.get("exclusiveMinimum")), schema.get("maximum")
    bounds = [f"at least {low}" if "minimum" in schema else f"above {low}"] if low is not None else []
    bounds += [f"at most {high}"] if high is not None else []
    return ", ".join([str(schema.get("type", "")), *bounds])


def search_page() -> str:
    """Returns a page with every key of a search file."""
    rows = [
        [
            f"`{key}`",
            values(schema),
            f"`{schema['default']}`" if schema.get("default", "") != "" else "",
            schema["description"],
        ]
        for key, schema in search_keys().items()
    ]
    intro = (
        "Every key of a search file, by its dotted name; `NAME` stands for a name that you choose. Settings and "
        "dimensions take every name of [settings](settings.md). `raysearch show KEY` prints the same lines, and "
        "`raysearch schema` a JSON Schema for editors."
    )
    return "\n\n".join(["# The search file", intro, table(["key", "values", "default", "meaning"], rows)])


def tables_page() -> str:
    """Returns a page with every table of a run and its columns."""
    intro = f"The Arrow tables of a run, format version {VERSION}: `runs/NAME/tables/TABLE/*.parquet`."
    views = "Views that reports may use as well; each is computed from the tables when a report reads it."
    parts = ["# Tables", intro, *_schemas(TABLES), "# Views of reports", views]
    return "\n\n".join([*parts, *_schemas({name: view.schema for name, view in VIEWS.items()})])


def _schemas(schemas: Mapping[str, pa.Schema]) -> list[str]:
    """Returns a heading and a table of columns for each schema."""
    parts = []
    for name, schema in schemas.items():
        rows = []
        for field in schema:
            metadata = {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}
            rows.append([f"`{field.name}`", field.type, metadata.get("unit", ""), metadata.get("meaning", "")])
        parts += [f"## {name}", table(["column", "type", "unit", "meaning"], rows)]
    return parts


def commands_page() -> str:
    """Returns a page with every verb of the command line."""
    parts = ["# Commands", "Exit codes: 0 the command succeeded, 1 it failed, 2 the usage or a file is wrong."]
    group = typer.main.get_command(app)
    for name, command in sorted(group.commands.items()):
        rows = []
        for parameter in command.params:
            if parameter.name == "help":
                continue
            is_option = parameter.param_type_name == "option"
            label = ", ".join(parameter.opts) if is_option else (parameter.metavar or parameter.name.upper())
            rows.append([f"`{label}`", "" if is_option else "argument", getattr(parameter, "help", "") or ""])
        parts += [
            f"## raysearch {name}",
            " ".join((command.help or "").split()),
            table(["option", "", "meaning"], rows),
        ]
    return "\n\n".join(parts)


def synonyms_page() -> str:
    """Returns a page with the words of other tools and what to write here."""

    def rows(words: dict[str, str]) -> list[list[str]]:
        grouped: dict[str, list[str]] = {}
        for word, remedy in words.items():
            grouped.setdefault(remedy, []).append(word)
        return [[code(names), remedy if " " in remedy else f"`{remedy}`"] for remedy, names in grouped.items()]

    intro = (
        "What other tools call a key or write for a dimension, and what to write here. A search that uses such a word "
        "is refused with one line that says so; `raysearch show WORD` says it too."
    )
    parts = ["# Synonyms", intro, "## Settings", table(["elsewhere", "here"], rows(synonyms.SETTINGS_ELSEWHERE))]
    for section, words in synonyms.KEYS_ELSEWHERE.items():
        parts += [f"## {section or 'The search'}", table(["elsewhere", "here"], rows(words))]
    for key, words in synonyms.WORDS_ELSEWHERE.items():
        parts += [f"## Values of {key}", table(["elsewhere", "here"], rows(words))]
    parts += ["## Dimensions", table(["elsewhere", "here"], rows(synonyms.DISTRIBUTIONS))]
    return "\n\n".join(parts)


def signature(value: Any, skipped: int = 0) -> str:
    """Returns a function's parameters with their defaults, without types and the first `skipped`."""
    parameters = list(inspect.signature(value).parameters.values())[skipped:]
    words, is_keyword = [], False
    for each in parameters:
        if each.kind is each.KEYWORD_ONLY and not is_keyword:
            words.append("*")
        is_keyword = each.kind in (each.KEYWORD_ONLY, each.VAR_POSITIONAL)
        stars = {each.VAR_POSITIONAL: "*", each.VAR_KEYWORD: "**"}.get(each.kind, "")
        default = "" if each.default is each.empty else f"={each.default!r}"
        words.append(f"{stars}{each.name}{default}")
    return f"({', '.join(words)})"


def summary(value: Any) -> str:
    """Returns the first paragraph of a docstring on one line."""
    return " ".join((inspect.getdoc(value) or "").split("\n\n")[0].split())


def members(kind: type) -> list[list[str]]:
    """Returns a row for each public method and property of a class, with its first sentences."""
    rows = []
    for name, value in inspect.getmembers_static(kind):
        value = getattr(value, "__func__", value)
        if name.startswith("_") or not getattr(value, "__doc__", "") or isinstance(value, type):
            continue
        if isinstance(value, property | functools.cached_property):
            rows.append([f"`.{name}`", summary(value)])
        elif inspect.isfunction(value):
            is_static = isinstance(inspect.getattr_static(kind, name), staticmethod)
            rows.append([f"`.{name}{signature(value, 0 if is_static else 1)}`", summary(value)])
    return rows


def python_page() -> str:
    """Returns a page with every public name of the package and the members of its classes."""
    intro = (
        "Everything that `import raysearch` gives. Names are imported when they are first used, so that the import "
        "takes no time. Run, Search, Space and RunComparison show themselves in a notebook "
        "([example](../guide/notebook.ipynb))."
    )
    parts = ["# Python", intro]
    functions = [name for name in raysearch.__all__ if not isinstance(getattr(raysearch, name), type)]
    rows = [[f"`{name}{signature(getattr(raysearch, name))}`", summary(getattr(raysearch, name))] for name in functions]
    parts += ["## Functions", table(["function", "meaning"], rows)]
    for name in raysearch.__all__:
        kind = getattr(raysearch, name)
        if name in functions:
            continue
        parts += [f"## {name}", summary(kind)]
        if listed := members(kind) if not issubclass(kind, Exception) else []:
            parts.append(table(["member", "meaning"], listed))
    return "\n\n".join(parts)


PAGES: dict[str, Callable[[], str]] = {
    "settings": settings_page,
    "methods": methods_page,
    "primitives": primitives_page,
    "search": search_page,
    "tables": tables_page,
    "commands": commands_page,
    "synonyms": synonyms_page,
    "python": python_page,
}


def page_text(name: str) -> str:
    """Returns the whole text of a page."""
    return f"{NOTE}\n\n{PAGES[name]()}\n"


def main(arguments: Sequence[str]) -> int:
    """Writes or checks all pages; returns the exit code."""
    stale = []
    for name in PAGES:
        file, text = FOLDER / f"{name}.md", page_text(name)
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            stale.append(name)
            if "--check" not in arguments:
                file.write_text(text, encoding="utf-8")
    print(f"not current: {', '.join(stale)}" if stale else "all pages are current")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
