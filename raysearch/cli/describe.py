"""What there is and what it means: the catalogs, methods, settings and primitives, in words for `ls` and `show`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from raysearch.config.json_schema import search_keys
from raysearch.config.loading import load_search
from raysearch.config.parameters import DEFAULTS, SETTINGS
from raysearch.errors import SpecError, did_you_mean
from raysearch.formatting import format_interval
from raysearch.methods import METHODS
from raysearch.methods.profiles import BUNDLES, PROFILES
from raysearch.modalities import all_modalities
from raysearch.modalities.loading import load_space
from raysearch.objectives.objective import Objective
from raysearch.schema import catalog, yaml_source
from raysearch.schema.json_schema import Schema
from raysearch.search.dry_run import outline
from raysearch.training_settings import TrainingSettings

Row = dict[str, Any]


def listing(kind: str) -> list[Row]:
    """A row for each thing of a kind; SpecError for an unknown kind."""
    listings: dict[str, Callable[[], list[Row]]] = {
        "spaces": lambda: [_space_row(name) for name in catalog.names("spaces")],
        "searches": lambda: [_search_row(name) for name in catalog.names("trials")],
        "trials": lambda: [_search_row(name) for name in catalog.names("trials")],  # as they were called
        "reports": lambda: [{"report": name, "answers": _title("reports", name)} for name in catalog.names("reports")],
        "methods": lambda: [{k: v for k, v in _method(name).items() if k != "settings"} for name in METHODS],
        "settings": lambda: [_setting(name) for name in SETTINGS],
        "profiles": _profiles,
    }
    if kind not in listings:
        raise SpecError(f"nothing to list under {kind!r}{did_you_mean(kind, (*listings, 'runs'))}")
    return listings[kind]()


def described(thing: str) -> list[Row]:
    """All that is called so, each as a mapping that begins with its kind; SpecError with the nearest name for none.

    `spaces/smoke` and `trials/smoke` say which of two is meant; a file is given by its path.
    """
    file = Path(thing)
    kind, name = (str(file.parent), file.stem) if str(file.parent) in ("spaces", "trials", "analysis") else ("", thing)
    found = []
    if file.suffix == ".yaml" and file.is_file() and "stages" in yaml_source.load_yaml(file)[0]:
        return [_space(thing)]
    if name in catalog.names("spaces") and kind in ("", "spaces"):
        found.append(_space(name))
    if name in catalog.names("trials") and kind in ("", "trials"):
        found.append(_search(name))
    if name in catalog.names("reports") and kind in ("", "analysis"):
        text = catalog.path("reports", name).read_text(encoding="utf-8")
        found.append({"report": name, "answers": _title("reports", name), "sql": text})
    if not kind:
        found += [_method(thing)] if thing in METHODS else []
        found += [_setting(thing)] if thing in SETTINGS else []
        found += _keys(thing)
        found += [
            {"primitive": thing, "of": modality.name, "stage": stage, "meaning": primitives[thing]}
            for modality in all_modalities()
            for stage, primitives in modality.taxonomy.stages.items()
            if thing in primitives
        ]
    if not found:
        known = {
            *METHODS,
            *SETTINGS,
            *search_keys(),
            *(p.name for modality in all_modalities() for p in modality.taxonomy.primitives),
        }
        known |= {name for each in catalog.CATALOGS for name in catalog.names(each)}
        raise SpecError(f"nothing is called {thing!r}; did you mean {_nearest(thing, known)}")
    return found


def _nearest(word: str, known: set[str]) -> str:
    near = did_you_mean(word, known)
    return (
        near.removeprefix("; did you mean ")
        if "did you mean" in near
        else "one of `ls spaces|trials|methods|settings|profiles`?"
    )


def _title(kind: str, name: str) -> str:
    """The first comment line of a catalog file."""
    first = catalog.path(kind, name).read_text(encoding="utf-8").split("\n", 1)[0]
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
    """Is an objective in a space? If not, why; SpecError for what is no space, or no objective."""
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
    found = outline(load_search(name, local=False))
    search, *baselines = found["arms"]
    counts = {"trials": search["configurations"], "baselines": len(baselines)}
    return {"search": name, "task": found["task"], **counts, "asks": _title("trials", name)}


def _search(name: str) -> Row:
    found = outline(load_search(name, local=False))
    declared = catalog.path("trials", name).read_text(encoding="utf-8")
    return {"search": name, "asks": _title("trials", name), "fingerprint": found["fingerprint"], "declared": declared}


def _method(name: str) -> Row:
    method = METHODS[name]
    about = {"method": name, "family": method.family, "meaning": method.meaning, "paper": method.paper}
    return {**about, "settings": list(method.setting_names)}


def _keys(name: str) -> list[Row]:
    """The keys of a search with that dotted name, or with that name within a section."""
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
    """Every setting in which a paper and its code differ, beside its default."""
    return [
        {"method": method, "setting": name, "default": DEFAULTS[name], **dict(zip(PROFILES, values, strict=True))}
        for method, own in BUNDLES.items()
        for name, values in own.items()
    ]


def _setting(name: str) -> Row:
    about = SETTINGS[name].metadata
    users = (
        ["every trial"]
        if name in TrainingSettings.__dataclass_fields__
        else [m for m in METHODS if name in METHODS[m].setting_names]
    )
    interval = format_interval(about["low"], about["high"], open_low=about["open_low"])
    span = " | ".join(about["choices"]) or interval
    if isinstance(DEFAULTS[name], bool):
        span = "true | false"
    parts = {"default": DEFAULTS[name], "range": span, "unit": about["unit"], "meaning": about["meaning"]}
    return {"setting": name, **parts, "used by": users}
