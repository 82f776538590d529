"""Where a row stands in its source, for error messages."""

from __future__ import annotations

from typing import Any, NamedTuple

from raysearch.errors import SpecError


class Place(NamedTuple):  # a tuple, because there is one for every row
    """Where a row stands in its source."""

    source: str
    number: int  # of the line or the row, from 1
    is_line: bool = False

    def error(self, column: str, problem: str) -> SpecError:
        """Returns an error about a column of this row, to be raised."""
        if self.is_line:
            return SpecError(problem, file=self.source, line=self.number, key=column)
        return SpecError(problem, file=self.source, key=f"row {self.number}: {column}")


Row = tuple[Place, dict[str, Any]]  # where it stands, and its values by column


def row_places(source: str, count: int) -> list[Place]:
    """Returns the places of `count` rows of a source without lines."""
    return [Place(source, number) for number in range(1, count + 1)]
