"""Planted transfer: tables drawn so that it is known which auxiliaries help.

    x (n, dim)      features, independent standard normal
    U (rank, dim)   orthonormal rows: the directions that the end task's label depends on
    y = t(U x) + noise,    t(z) = sum_j a_j tanh(2 z_j), or sum of a_jl z_j z_l over pairs j < l;    a is drawn

A helpful table has the same U and its own a: whoever has learned its directions needs few labels for the end task's.
A harmful one has a U of its own, at right angles to the end task's: a body of little width spends itself on it. An
unrelated one has labels that nothing tells. Labels without noise have variance 1.
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
    """One table: features (n, dim) and labels (n,)."""

    features: Array
    labels: Array


def draw_tables(about: Planted) -> dict[str, PlantedTable]:
    """All tables, by split: train, meta_dev, select_dev, test, extra_1, extra_2, ...; a function of `about` alone."""
    directions = _directions(about, np.random.default_rng([about.draw, 0]))
    own = np.random.default_rng([about.draw, 1])
    mine = _readout(about, own)
    tables = {}
    for number, (name, rows) in enumerate(_sizes(about).items()):
        tables[name] = _table(about, directions[0], mine, rows, np.random.default_rng([about.draw, 2, number]))
    for number in range(1, about.tables + 1):
        rng = np.random.default_rng([about.draw, 3, number])
        at = 0 if number <= about.helpful else number - about.helpful
        if number <= about.helpful + about.harmful:
            tables[f"extra_{number}"] = _table(about, directions[at], _readout(about, rng), about.rows, rng)
        else:
            x = rng.standard_normal((about.rows, about.dim))
            tables[f"extra_{number}"] = PlantedTable(x, rng.standard_normal(about.rows))
    return tables


def _sizes(about: Planted) -> dict[str, int]:
    return {name: getattr(about, name) for name in ("train", "meta_dev", "select_dev", "test")}


def _directions(about: Planted, rng: np.random.Generator) -> list[Array]:
    """The end task's U, then one for each harmful table, at right angles to the first (not to each other)."""
    first = np.linalg.qr(rng.standard_normal((about.dim, about.rank)))[0].T
    others = []
    for _ in range(about.harmful):
        drawn = rng.standard_normal((about.dim, about.rank))
        others.append(np.linalg.qr(drawn - first.T @ (first @ drawn))[0].T)
    return [first, *others]


def _readout(about: Planted, rng: np.random.Generator) -> Array:
    """The factors a: of each direction, or of each pair."""
    count = about.rank if about.teacher == "tanh" else about.rank * (about.rank - 1) // 2
    a = rng.standard_normal(count)
    return np.asarray(a / np.linalg.norm(a))


# The variance of tanh(2 z), z standard normal; products of two have variance 1.
_TANH = 0.6352612


def _table(about: Planted, U: Array, a: Array, rows: int, rng: np.random.Generator) -> PlantedTable:
    x = rng.standard_normal((rows, about.dim))
    z = x @ U.T
    if about.teacher == "tanh":
        signal = np.tanh(2 * z) @ a / _TANH**0.5
    else:
        pairs = list(combinations(range(about.rank), 2))
        signal = np.stack([z[:, i] * z[:, j] for i, j in pairs], axis=1) @ a
    return PlantedTable(x, signal + about.noise * rng.standard_normal(rows))
