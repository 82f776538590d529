"""Planted transfer: tables drawn in such a way that it is known which auxiliary tables help.

    x (n, dim)      features, independent standard normal
    U (rank, dim)   orthonormal rows: the directions that the end task's label depends on
    y = t(U x) + noise,    t(z) = sum_j a_j tanh(2 z_j), or sum of a_jl z_j z_l over pairs j < l;    a is drawn

A helpful table has the U of the end task and another a: a body that has learned its directions needs few labels for
the end task. A harmful table has another U, orthogonal to that of the end task: a narrow body spends its capacity on
it. The labels of an unrelated table do not depend on its features. Labels without noise have variance 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from raysearch.modalities.table.config import Planted

Array = NDArray[np.float64]


@dataclass(frozen=True)
class PlantedTable:
    """A drawn table: features (n, dim) and labels (n,)."""

    features: Array
    labels: Array


def draw_tables(config: Planted) -> dict[str, PlantedTable]:
    """Returns all tables by split: train, meta_dev, select_dev, test, extra_1, extra_2, ...

    They depend on `config` only, and each has a separate random stream.
    """
    directions = _draw_directions(config, np.random.default_rng([config.draw, 0]))
    end_task_readout = _draw_readout(config, np.random.default_rng([config.draw, 1]))
    tables = {}
    for number, name in enumerate(("train", "meta_dev", "select_dev", "test")):
        rng, rows = np.random.default_rng([config.draw, 2, number]), getattr(config, name)
        tables[name] = _draw_table(config, directions[0], end_task_readout, rows, rng)
    for number in range(1, config.tables + 1):
        rng = np.random.default_rng([config.draw, 3, number])
        if number <= config.helpful + config.harmful:
            U = directions[max(0, number - config.helpful)]
            tables[f"extra_{number}"] = _draw_table(config, U, _draw_readout(config, rng), config.rows, rng)
        else:
            x = rng.standard_normal((config.rows, config.dim))
            tables[f"extra_{number}"] = PlantedTable(x, rng.standard_normal(config.rows))
    return tables


def _draw_directions(config: Planted, rng: np.random.Generator) -> list[Array]:
    """Returns U of the end task, then one for each harmful table, orthogonal to the first but not to each other."""
    first = np.linalg.qr(rng.standard_normal((config.dim, config.rank)))[0].T
    others = []
    for _ in range(config.harmful):
        drawn = rng.standard_normal((config.dim, config.rank))
        others.append(np.linalg.qr(drawn - first.T @ (first @ drawn))[0].T)
    return [first, *others]


def _draw_readout(config: Planted, rng: np.random.Generator) -> Array:
    """Returns the factors a of each direction, or of each pair of directions; their norm is 1."""
    count = config.rank if config.teacher == "tanh" else config.rank * (config.rank - 1) // 2
    a = rng.standard_normal(count)
    return np.asarray(a / np.linalg.norm(a))


_TANH_VARIANCE = 0.6352612  # of tanh(2 z), z standard normal; a product of two such z has variance 1


def _draw_table(config: Planted, U: Array, a: Array, rows: int, rng: np.random.Generator) -> PlantedTable:
    x = rng.standard_normal((rows, config.dim))
    z = x @ U.T
    if config.teacher == "tanh":
        signal = np.tanh(2 * z) @ a / _TANH_VARIANCE**0.5
    else:
        pairs = list(combinations(range(config.rank), 2))
        signal = np.stack([z[:, i] * z[:, j] for i, j in pairs], axis=1) @ a
    return PlantedTable(x, signal + config.noise * rng.standard_normal(rows))
