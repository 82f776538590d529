"""What a trial's best network gave for the rows that scored it: rows of the table of predictions.

By these trials are compared row by row and their outputs are averaged, without a second forward.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from torch import Tensor

from raysearch.storage.schemas import PREDICTIONS

MOST_VALUES = 20_000  # outputs of a trial that are stored; of larger splits, rows at equal distances
_COLUMNS = pa.schema([f for f in PREDICTIONS if f.name not in ("trial_id", "attempt")])


def prediction_rows(step: int, rows: NDArray[np.int64], outputs: Tensor, labels: Tensor) -> pa.RecordBatch:
    """Returns the outputs (n, C) and labels of the examples numbered `rows` (n,), without trial and attempt."""
    stored = np.arange(0, len(rows), -(-outputs.numel() // MOST_VALUES))
    targets = labels.reshape(len(labels), -1)
    columns = [
        pa.array(np.full(len(stored), step), pa.int64()),
        pa.array(rows[stored], pa.int32()),
        _lists(targets.float().numpy()[stored]),
        _lists(outputs.float().numpy()[stored]),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=_COLUMNS)


def _lists(values: NDArray[np.float32]) -> pa.Array:
    """Returns a list for each row of `values` (n, C)."""
    n, width = values.shape
    offsets = pa.array(np.arange(n + 1) * width, pa.int32())
    return pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(values).reshape(-1), pa.float32()))
