"""Checks rows against the schema of their table before they are written."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TypeAlias

import pyarrow as pa

from raysearch.errors import did_you_mean
from raysearch.storage.schemas import ROW_KEYS, TABLES

Rows: TypeAlias = list[dict[str, Any]] | pa.RecordBatch | pa.Table


def checked_rows(table: str, rows: Rows, fill: Mapping[str, object]) -> pa.Table:
    """Returns the rows as a table of the declared schema.

    A column that they lack is taken from `fill`; otherwise `time` is now, and every other column is null. Raises
    ValueError for an unknown table or column, a value of the wrong type, and a null where a value is needed.
    """
    if table not in TABLES:
        raise ValueError(f"unknown table {table!r}{did_you_mean(table, TABLES)}")
    schema = TABLES[table]
    if isinstance(rows, list):
        names = {name for row in rows for name in row}
        values_by_name = {name: [row.get(name) for row in rows] for name in names}
    else:
        names = set(rows.schema.names)
        values_by_name = {name: rows[name] for name in names}
    for name in sorted({*names, *fill}):
        if name not in schema.names:
            raise ValueError(f"{table}: unknown column {name!r}{did_you_mean(name, schema.names)}")
    columns = []
    for field in schema:
        values = values_by_name.get(field.name)
        if values is None:
            default = datetime.now(UTC) if field.name == "time" else None
            values = [fill.get(field.name, default)] * len(rows)
        columns.append(_checked_column(table, field, values))
    return pa.Table.from_arrays(columns, schema=schema)


def _checked_column(table: str, field: pa.Field, values: Any) -> pa.Array | pa.ChunkedArray:
    if isinstance(values, list):
        python_type = _python_type(field.type)
        for value in values:
            if value is not None and (isinstance(value, bool) or not isinstance(value, python_type)):
                raise ValueError(f"{table}.{field.name} holds {field.type}, got {value!r}")
        try:
            values = pa.array(values, type=field.type)
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
            raise ValueError(f"{table}.{field.name} holds {field.type}: {str(error).splitlines()[0]}") from error
    if values.type != field.type:
        raise ValueError(f"{table}.{field.name} holds {field.type}, got {values.type}")
    if values.null_count and field.name in ROW_KEYS[table]:
        raise ValueError(f"{table}.{field.name} must have a value in every row")
    return values


def _python_type(arrow_type: pa.DataType) -> type:
    if pa.types.is_integer(arrow_type):
        return numbers.Integral
    if pa.types.is_floating(arrow_type):
        return numbers.Real
    if pa.types.is_list(arrow_type):
        return list
    return datetime if pa.types.is_timestamp(arrow_type) else str
