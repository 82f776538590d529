"""The rows of `ls` and `show`: catalogs, methods, settings, keys and primitives, with their meanings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from raysearch.config.incumbents import incumbents
from raysearch.config.json_schema import search_keys
from raysearch.config.loading import load_search
from raysearch.config.parameters import DEFAULTS, SETTINGS
from raysearch.config.synonyms import explain
from raysearch.errors import SpecError, did_you_mean, nearest
from raysearch.formatting import format_interval
from raysearch.methods import METHODS
from raysearch.methods.profiles import BUNDLES, PROFILES, RECIPES
from raysearch.modalities import all_modalities
from raysearch.modalities.loading import load_space
from raysearch.objectives.objective import Objective
from raysearch.schema import catalog, yaml_source
from raysearch.schema.json_schema import Schema
from raysearch.search.dry_run import outline
from raysearch.training_settings import TrainingSettings

Row = dict[str, Any]


def listing(category: str) -> list[Row]:
    """Returns a row for each entry of a category. Raises SpecError for an unknown category."""
    listings: dict[str, Callable[[], list[Row]]] = {
        "spaces": lambda: [_space_row(name) for name in catalog.names("spaces")],
        "searches": lambda: [_search_row(name) for name in catalog.names("trials")],
        "trials": lambda: [_search_row(name) for name in catalog.names("trials")],  # as they were called
        "reports": lambda: [{"report": name, "answers": _title("reports", name)} for name in catalog.names("reports")],
        "baselines": lambda: [_baseline_row(name) for name in incumbents()],
        "methods": lambda: [{k: v for k, v in _method(name).items() if k != "settings"} for name in METHODS],
        "settings": lambda: [_setting(name) for name in SETTINGS],
        "profiles": _profiles,
    }
    if category not in listings:
        raise SpecError(f"nothing to list under {category!r}{did_you_mean(category, (*listings, 'runs'))}")
    return listings[category]()


def described(thing: str) -> list[Row]:
    """Returns a row for everything of that name, with its category first. Raises SpecError with the nearest name.

    `spaces/smoke` and `trials/smoke` tell a space from a search of the same name; a user's file is named by its path.
    """
    file = Path(thing)
    is_in_catalog = str(file.parent) in ("spaces", "trials", "baselines", "analysis")
    folder, name = (str(file.parent), file.stem) if is_in_catalog else ("", thing)
    rows: list[Row] = []
    if file.suffix == ".yaml" and file.is_file() and "stages" in yaml_source.load_yaml(file)[0]:
        return [_space(thing)]
    if name in catalog.names("spaces") and folder in ("", "spaces"):
        rows.append(_space(name))
    if name in catalog.names("trials") and folder in ("", "trials"):
        rows.append(_search(name))
    if name in catalog.names("baselines") and folder in ("", "baselines"):
        text = catalog.path("baselines", name).read_text(encoding="utf-8")
        rows.append(_baseline_row(name) | {"source": incumbents()[name].source, "declared": text})
    if name in catalog.names("reports") and folder in ("", "analysis"):
        text = catalog.path("reports", name).read_text(encoding="utf-8")
        rows.append({"report": name, "answers": _title("reports", name), "sql": text})
    if not folder:
        rows += [_method(thing)] if thing in METHODS else []
        rows += [_setting(thing)] if thing in SETTINGS else []
        rows += _keys(thing)
        rows += [
            {"primitive": thing, "of": modality.name, "stage": primitive.stage, "meaning": primitive.meaning}
            | ({"paper": primitive.paper} if primitive.paper else {})
            for modality in all_modalities()
            for primitive in modality.taxonomy.primitives
            if primitive.name == thing
        ]
    if not rows:
        known = {
            *METHODS,
            *SETTINGS,
            *search_keys(),
            *(p.name for modality in all_modalities() for p in modality.taxonomy.primitives),
        }
        known |= {name for each in catalog.CATALOGS for name in catalog.names(each)}
        if remedy := explain(thing):
            raise SpecError(f"nothing is called {thing!r}; {remedy}")
        lists = "; did you mean one of `ls spaces|searches|baselines|methods|settings|profiles`?"
        raise SpecError(f"nothing is called {thing!r}{nearest(thing, known) or lists}")
    return rows


def _title(category: str, name: str) -> str:
    """Returns the first comment line of a catalog file."""
    first = catalog.path(category, name).read_text(encoding="utf-8").split("\n", 1)[0]
    return first.lstrip("#- ").strip()


def _space_row(name: str) -> Row:
    return {"space": name, "objectives": len(load_space(name).objectives), "meaning": _title("spaces", name)}


def _space(name: str) -> Row:
    space = load_space(name)
    stages = {stage: list(primitives) for stage, primitives in space.stages.items()}
    return {
        "space": space.name,
        "meaning": _title("spaces", name),
        "source": space.source,
        "of": space.modality,
        **({"primitives": space.user_primitives.file} if space.user_primitives else {}),
        **stages,
        "excluded": "\n".join(", ".join(f"{s} {' or '.join(p)}" for s, p in rule.items()) for rule in space.exclude),
        "count": len(space.objectives),
        "named": {o.name: known for o in space.objectives if (known := space.taxonomy.literature_name(o))},
        "objectives": [objective.name for objective in space.objectives],
    }


def why_not(thing: str, objective: str) -> Row:
    """Returns whether an objective is in a space, and why not. Raises SpecError for an unknown space or objective."""
    space = load_space(thing)
    stages = list(space.stages)
    parts = objective.split("/")
    if len(parts) != len(stages):
        raise SpecError(f"{objective!r} is no objective: one is named {'/'.join(stages)}")
    named = Objective(**dict(zip(stages, parts, strict=True)))
    known = space.taxonomy.literature_name(named)
    reason = space.why_not(named)
    return {"space": space.name, "objective": named.name, "named": known, "legal": reason is None, "why not": reason}


def _search_row(name: str) -> Row:
    summary = outline(load_search(name, local=False))
    search, *baselines = summary["arms"]
    counts = {"trials": search["configurations"], "baselines": len(baselines)}
    return {"search": name, "task": summary["task"], **counts, "asks": _title("trials", name)}


def _search(name: str) -> Row:
    summary = outline(load_search(name, local=False))
    declared = catalog.path("trials", name).read_text(encoding="utf-8")
    return {"search": name, "asks": _title("trials", name), "fingerprint": summary["fingerprint"], "declared": declared}


def _baseline_row(name: str) -> Row:
    needs = "a pre-trained encoder" if incumbents()[name].needs_pretrained else ""
    return {"baseline": name, "meaning": incumbents()[name].meaning, "needs": needs}


def _method(name: str) -> Row:
    method = METHODS[name]
    row = {"method": name, "family": method.family, "meaning": method.meaning, "paper": method.paper}
    return {**row, "settings": list(method.setting_names)}


def _keys(name: str) -> list[Row]:
    """Returns the keys of a search with that dotted name, or with that name within a section."""
    keys = search_keys()
    return [_key(each, keys) for each in keys if each == name or each.endswith(f".{name}")]


def _key(name: str, keys: Mapping[str, Schema]) -> Row:
    schema = keys[name]
    low, high = schema.get("minimum", schema.get("exclusiveMinimum")), schema.get("maximum")
    span = "" if low is high is None else format_interval(low, high, open_low="exclusiveMinimum" in schema)
    forms = (schema, *schema.get("anyOf", ()))
    choices = [word for form in forms for word in form.get("enum", ())]
    choices = choices or [choice["const"] for choice in schema.get("oneOf", ()) if "const" in choice]
    below = [each.removeprefix(f"{name}.") for each in keys if each.startswith(f"{name}.")]
    parts = {"default": schema.get("default"), "range": " | ".join(map(str, choices)) or span, "keys": below}
    return {
        "key": name,
        "meaning": schema["description"],
        **{k: part for k, part in parts.items() if part not in (None, "", [])},
    }


def _profiles() -> list[Row]:
    """Returns every setting in which a paper and its code differ, and those of recipes, with its default."""
    columns = dict.fromkeys((*PROFILES, *RECIPES))
    rows: list[Row] = [
        {"method": method, "setting": name, "default": DEFAULTS[name]}
        | columns
        | dict(zip(PROFILES, values, strict=True))
        for method, settings in BUNDLES.items()
        for name, values in settings.items()
    ]
    return rows + [
        {"method": "every method", "setting": name, "default": DEFAULTS[name]} | columns | {recipe: value}
        for recipe, settings in RECIPES.items()
        for name, value in settings.items()
    ]


def _setting(name: str) -> Row:
    metadata = SETTINGS[name].metadata
    users = [method for method in METHODS if name in METHODS[method].setting_names]
    models = dict.fromkeys(config for modality in all_modalities() for config in modality.model_configs)
    users += [f"model {each.own_keys[0]}" for each in models if name in each.settings.__dataclass_fields__]
    interval = format_interval(metadata["low"], metadata["high"], open_low=metadata["open_low"])
    values = "true | false" if isinstance(DEFAULTS[name], bool) else " | ".join(metadata["choices"]) or interval
    row = {"default": DEFAULTS[name], "range": values, "unit": metadata["unit"], "meaning": metadata["meaning"]}
    is_general = name in TrainingSettings.__dataclass_fields__
    return {"setting": name, **row, "used by": ["every trial"] if is_general else users}
