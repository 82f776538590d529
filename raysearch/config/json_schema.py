"""JSON Schemas of a search and of a space, made of the declarations that also read them.

An editor completes and explains keys with them; `raysearch show KEY` prints the same descriptions. A schema checks
keys, types, names and ranges. What concerns several keys together, only `raysearch check` checks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from raysearch.config.dimension import Dimension
from raysearch.config.incumbents import ALL, incumbents
from raysearch.config.parameters import SETTINGS
from raysearch.config.search_config import Search
from raysearch.config.sections import DECLARED_SAMPLERS, DECLARED_SCHEDULERS, Baseline, MethodSpec, Scheduler
from raysearch.config.selection import Selection
from raysearch.methods import FAMILIES, methods_of
from raysearch.modalities import all_modalities, load_modality
from raysearch.modalities.base import HuggingFaceModel, ModelConfig, TaskConfig
from raysearch.modalities.loading import model_presets, task_presets
from raysearch.objectives.primitive import DEFAULT_MODALITY
from raysearch.objectives.space import Space
from raysearch.schema.fields import Value
from raysearch.schema.json_schema import DIALECT, Schema, field_schema, mapping_schema, object_schema

_EXTRA_PRIMITIVE = {"type": "string", "pattern": "^extra_[a-z0-9_]+$"}  # a further data set of the task


def search_schema() -> Schema:
    """Returns the schema of a search file."""
    schema = _object(Search)
    schema["required"].remove("name")  # the name of the file, if not given
    schema["properties"]["sampler"]["oneOf"] = _choices({name: s.meaning for name, s in DECLARED_SAMPLERS.items()})
    return {"$schema": DIALECT, "title": "A search of raysearch"} | schema


def space_schema() -> Schema:
    """Returns the schema of a space file."""
    return {"$schema": DIALECT, "title": "An objective space of raysearch"} | _space()


@cache
def search_keys() -> dict[str, Schema]:
    """Returns the schema of every key of a search by its dotted name; NAME stands for a name that the user gives."""
    keys: dict[str, Schema] = {}
    for name, schema in _keys(search_schema(), ""):
        keys.setdefault(name, schema)  # the forms of a task or model share some keys; the first form speaks for all
    return keys


def _keys(schema: Schema, prefix: str) -> Iterator[tuple[str, Schema]]:
    for form in (schema, *schema.get("anyOf", ())):
        names = form.get("properties", {}) if not isinstance(form.get("additionalProperties"), dict) else {}
        for name, part in names.items():  # where a user may give names of his own, NAME stands for those that we know
            yield f"{prefix}{name}", part
            if name not in ("settings", "dimensions") and not (prefix and name == "model"):
                yield from _keys(part, f"{prefix}{name}.")
        named = form.get("additionalProperties")
        if isinstance(named, dict):
            yield from _keys(named, f"{prefix}NAME.")
    if not prefix:
        yield from _keys(_dimension(), "dimensions.NAME.")


def _object(cls: type) -> Schema:
    return object_schema(cls, _SECTIONS)


def _choices(meanings: Mapping[str, str]) -> list[Schema]:
    return [{"const": name, "description": meaning} for name, meaning in meanings.items()]


# ---- sections with forms of their own ----


def _method() -> Schema:
    schema = _object(MethodSpec)
    for family in FAMILIES:
        methods = {name: method.meaning for name, method in methods_of(family).items()}
        schema["properties"][family]["oneOf"] = _choices(methods)
    return schema


def _scheduler() -> Schema:
    settings = _object(Scheduler)["properties"]
    with_settings = {name: names for name, names in DECLARED_SCHEDULERS.items() if names}
    long = {
        name: {"description": f"settings of {name}"} | mapping_schema({each: settings[each] for each in names})
        for name, names in with_settings.items()
    }
    return {"anyOf": [{"enum": list(DECLARED_SCHEDULERS)}, mapping_schema(long, minProperties=1)]}


def _selection() -> Schema:
    settings = _object(Selection)["properties"]
    folds = mapping_schema({name: settings[name] for name in ("folds", "repeats")}, ["folds"])
    return {"anyOf": [{"enum": ["auto", "none"]}, folds]}


def _settings() -> Schema:
    properties = {name: field_schema(field, type(field.default), {}) for name, field in SETTINGS.items()}
    patterns = {
        "^include[.][^.]+[.][^.]+$": {"type": "boolean", "description": "whether the space has this primitive"},
        "^weight[.][^*]+$": {"type": "number", "minimum": 0, "description": "a factor of static weights"},
    }
    return mapping_schema(properties, patternProperties=patterns)


def _dimensions() -> Schema:
    meanings = {name: field.metadata["meaning"] for name, field in SETTINGS.items()}
    meanings |= {family: f"the {family}" for family in FAMILIES} | {"space": "the space of objectives"}
    properties = {name: {"description": meaning} | _dimension() for name, meaning in meanings.items()}
    return mapping_schema(properties, patternProperties={"^(include|weight)[.].+$": _dimension()})


def _dimension() -> Schema:
    value = {"type": ["boolean", "number", "string"]}
    bounds = {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}
    values = {"type": "array", "items": value}
    parents = {"type": "object", "additionalProperties": {"anyOf": [values, value]}}
    properties: dict[str, Schema] = {
        "float": bounds | {"description": "the bounds of a number"},
        "int": bounds | {"description": "the bounds of a whole number, inclusive", "items": {"type": "integer"}},
        "choice": values | {"description": "the values to choose from", "minItems": 2},
        "log": {"description": "draw the logarithm uniformly", "type": "boolean", "default": False},
        "when": parents | {"description": "other dimensions, and the values of theirs for which this one is drawn"},
    }
    return mapping_schema(properties, oneOf=[{"required": [name]} for name in ("float", "int", "choice")])


def _task() -> Schema:
    forms = []
    for modality in all_modalities():
        schema = _object(modality.task_config)
        schema["properties"]["kind"] = {"const": modality.name, "description": "the modality of the task"}
        schema["required"] += ["kind"] if modality.name != DEFAULT_MODALITY else []
        forms.append(schema)
    return {"anyOf": [{"enum": sorted(task_presets())}, *forms]}


def _model() -> Schema:
    configs = dict.fromkeys(
        [*(each for modality in all_modalities() for each in modality.model_configs), HuggingFaceModel]
    )
    return {"anyOf": [{"enum": sorted(model_presets())}, *map(_object, configs)]}


def _baselines() -> Schema:
    names: Schema = {"enum": list(incumbents())}
    declared = _object(Baseline)
    shipped = {
        name: declared | {"description": incumbent.meaning, "required": []} for name, incumbent in incumbents().items()
    }
    mapping = {"type": "object", "additionalProperties": declared, "properties": shipped}
    return {"anyOf": [{"enum": [ALL, *incumbents()]}, {"type": "array", "items": names}, mapping]}


def _space() -> Schema:
    primitives: Schema = {"anyOf": [{"type": "array", "items": {"type": "string"}}, {"type": "string"}]}
    stages = {"type": "object", "additionalProperties": primitives}
    properties: dict[str, Schema] = {
        "source": {"description": "where the space was published", "type": "string"},
        "kind": {"description": "the modality of its tasks", "enum": [each.name for each in all_modalities()]},
        "primitives": {"description": "a Python file with primitives of the user", "type": ["string", "object"]},
        "stages": stages | {"description": "the primitives of each stage; an objective has one of each stage"},
        "exclude": {"description": "combinations that are no objectives", "type": "array", "items": stages},
        "objectives": {"description": "how many objectives there are, as a check", "type": "integer", "minimum": 1},
    }
    return mapping_schema(
        properties, ["stages", "objectives"], allOf=[_known_stages(each.name) for each in all_modalities()]
    )


def _known_stages(name: str) -> Schema:
    """The names of a modality's primitives, for a space without primitives of the user."""
    stages = {}
    for stage, primitives in load_modality(name).taxonomy.stages.items():
        one = {"anyOf": [*_choices(primitives), _EXTRA_PRIMITIVE]}
        stages[stage] = {"anyOf": [{"type": "array", "items": one}, one]}
    is_modality: Schema = {"properties": {"kind": {"const": name}}}
    if name != DEFAULT_MODALITY:
        is_modality["required"] = ["kind"]
    builtin = is_modality | {"not": {"required": ["primitives"]}}
    return {"if": builtin, "then": {"properties": {"stages": mapping_schema(stages, list(stages))}}}


_SECTIONS: dict[Any, Any] = {
    MethodSpec: _method,
    Scheduler: _scheduler,
    Selection: _selection,
    Dimension: _dimension,
    Space: _space,
    TaskConfig: _task,
    ModelConfig: _model,
    dict[str, Value]: _settings,
    dict[str, Dimension]: _dimensions,
    dict[str, Baseline]: _baselines,
}
