"""NumPy's .npz archives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raysearch.errors import SpecError


def read_archive(path: Path) -> dict[str, NDArray[Any]]:
    """Returns the arrays of an archive; pickled objects are refused. Raises SpecError for what is no such archive."""
    try:
        with path.open("rb") as opened:
            archive = np.load(opened, allow_pickle=False)
            if isinstance(archive, np.ndarray):
                problem = "is a single array (.npy), not an archive of named arrays; use np.savez"
                raise SpecError(problem, file=str(path))
            return {name: np.asarray(archive[name]) for name in archive.files}
    except SpecError:
        raise
    except Exception as error:  # what a damaged archive raises depends on where it is damaged
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise SpecError(f"not an npz archive: {reason}", file=str(path)) from None
