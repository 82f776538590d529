"""The mean and the standard deviation by which features and pixels are normalised."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

DECIMALS = 6
LARGEST_CHANGE = 1e-3  # that rounding may make, as a share of the standard deviation


def round_mean_and_std(
    mean: NDArray[np.float64], std: NDArray[np.float64], is_constant: NDArray[np.bool_]
) -> dict[str, list[float]]:
    """Returns `mean` and `std` (d,) as data.json holds them; a constant column has 1 as its standard deviation.

    They are rounded to DECIMALS, except where that would change a normalised value by more than LARGEST_CHANGE: there
    they keep 9 significant digits. What counts as constant or small is never an absolute number.
    """
    std = np.where(is_constant, 1.0, std)
    return {
        name: [
            _round(float(value), tolerance=LARGEST_CHANGE * float(deviation))
            for value, deviation in zip(values, std, strict=True)
        ]
        for name, values in (("mean", mean), ("std", std))
    }


def _round(value: float, tolerance: float) -> float:
    rounded = float(np.round(value, DECIMALS))
    return rounded if abs(rounded - value) <= tolerance else float(f"{value:.9g}")
