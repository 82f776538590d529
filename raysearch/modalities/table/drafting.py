"""A draft of a search on a table of numbers for a user's file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from raysearch.data.columns import Column, choose_label
from raysearch.modalities.drafting import Draft, DraftRequest, quote, shared_values

TEMPLATE = Path(__file__).with_name("draft.yaml")
FEW_CLASSES = 20  # whole numbers with at most so many values are classes
STEP_SECONDS = 0.02


def draft_table(request: DraftRequest) -> Draft | str:
    """Returns a draft, or why the file is no table of numbers with a label."""
    if not request.columns:
        return "it is a folder"
    label = choose_label(request.columns, request.label, request.file, numbers=True)
    if label is None:
        return "no column holds labels (name it by --label)"
    others = [column for column in request.columns.values() if column.name != label.column.name]
    features = [column for column in others if column.is_numeric and not column.is_index and not column.empty]
    if not features:
        return "no column beside the label holds a number in every row"
    if label.column.empty:
        return f"{label.column.empty} rows have no label in {label.column.name!r}"
    classes = label.column.counts if _has_classes(label.column) else None
    values: dict[str, Any] = shared_values(request, classes)
    if classes is None:
        values |= {
            "metric": "r2",
            "why_metric": "the share of the variance that is explained, because labels are numbers",
        }
    left_out = [column.name for column in others if column not in features]
    names = ", ".join(quote(column.name) for column in features)
    values |= {
        "rows": f"{len(label.column.values)} rows",
        "label": quote(label.column.name),
        "why_label": label.reason,
        "features": f"[{names}]" if left_out else None,
        "why_features": f"left out, because they number the rows, or hold words or blanks: {', '.join(left_out)}",
    }
    what = f"{len(classes)} classes" if classes else "a number"
    return Draft(TEMPLATE, values, STEP_SECONDS, f"{len(features)} numbers a row, {what} in {label.column.name!r}")


def _has_classes(column: Column) -> bool:
    if not column.is_numeric:
        return True
    if any(isinstance(value, float) for value in column.values):
        return False
    is_whole = all(float(value) == int(float(value)) for value in column.values)
    return is_whole and len(column.counts) <= FEW_CLASSES
