"""JSON Schema (draft 2020-12) of a dataclass, made of the declarations of its fields that also read it.

A schema describes keys, types, ranges, choices and defaults. `sections` gives the schema of each type that is written
in a form of its own.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

Schema = dict[str, Any]
Sections = Mapping[Any, Callable[[], Schema]]  # type -> its schema

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_JSON_TYPES: dict[Any, str] = {bool: "boolean", int: "integer", float: "number", str: "string"}


def object_schema(cls: type, sections: Sections) -> Schema:
    """Returns the schema of a dataclass that is read key by key."""
    hints = get_type_hints(cls)
    required = [field.name for field in fields(cls) if field.default is MISSING and field.default_factory is MISSING]
    properties = {field.name: field_schema(field, hints[field.name], sections) for field in fields(cls)}
    return mapping_schema(properties, required)


def mapping_schema(properties: Mapping[str, Schema], required: list[str] | None = None, **more: Any) -> Schema:
    """Returns the schema of a mapping with these keys and no other."""
    required = required or []
    return {"type": "object", "additionalProperties": False, "properties": properties, "required": required} | more


def field_schema(field: Field[Any], hint: Any, sections: Sections) -> Schema:
    """Returns the schema of a field's type, with the field's description, default and range."""
    metadata = field.metadata
    value = type_schema(hint, sections)
    if isinstance(field.default, bool | int | float | str):
        value = value | {"default": field.default}
    if "meaning" not in metadata:
        return value
    if metadata["shorthand"]:
        value = {"anyOf": [{"enum": list(metadata["shorthand"])}, value]}
    if metadata["choices"]:
        value["enum"] = list(metadata["choices"])
    if value.get("type") in ("integer", "number"):
        lowest = "exclusiveMinimum" if metadata["open_low"] else "minimum"
        limits = {lowest: metadata["low"], "maximum": metadata["high"]}
        value |= {name: limit for name, limit in limits.items() if limit is not None}
    unit = f" (unit: {metadata['unit']})" if metadata["unit"] else ""
    return {"description": f"{metadata['meaning']}{unit}", **value}


def type_schema(hint: Any, sections: Sections) -> Schema:
    """Returns the schema of a type that `Node.read` reads."""
    if hint in sections:
        return sections[hint]()
    if is_dataclass(hint):
        assert isinstance(hint, type)
        return object_schema(hint, sections)
    origin = get_origin(hint)
    args: list[Any] = [arg for arg in get_args(hint) if arg is not types.NoneType]
    if origin in (Union, types.UnionType):
        forms = [type_schema(arg, sections) for arg in args]
        return forms[0] if len(forms) == 1 else {"anyOf": forms}
    if origin is Literal:
        return {"enum": args}
    if origin is tuple:
        item = type_schema(args[0], sections)
        items = {"type": "array", "items": item}
        return items if args[0] is int else {"anyOf": [items, item]}  # a lone number is not read as a list
    if origin is dict:
        return {"type": "object", "additionalProperties": type_schema(args[1], sections)}
    return {"type": _JSON_TYPES[hint]} if hint in _JSON_TYPES else {}
