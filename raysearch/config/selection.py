"""How configurations are scored: on the split select_dev, or on folds of all labelled rows."""

from __future__ import annotations

from dataclasses import dataclass

from raysearch.schema.fields import Settings, setting
from raysearch.schema.node import Node
from raysearch.storage.cells import Cell, list_cells

AUTO, NONE = "auto", "none"


@dataclass(frozen=True, kw_only=True)
class Selection(Settings):
    """On how many folds a configuration is scored; 0 folds are the split select_dev."""

    folds: int = setting(0, "parts of the labelled rows, each of which scores a training on the others", low=0)
    repeats: int = setting(1, "partitions into folds, each a new one", low=1)
    is_auto: bool = setting(False, "launch decides, by the number of rows that would choose")

    @classmethod
    def read(cls, node: Node) -> Selection:
        """Reads `none`, `auto`, or `{folds: 5, repeats: 1}`."""
        if node.value in (AUTO, NONE):
            return cls(is_auto=node.value == AUTO)
        if not isinstance(node.value, dict):
            raise node.error("must be auto, none, or {folds: 5}")
        node.mapping(("folds", "repeats"))
        if "folds" not in node:
            raise node.error("the key 'folds' is missing")
        selection = node.fields_of(cls, {"is_auto": False})
        if selection.folds < 2:
            raise node.error("must be at least 2; `selection: none` has no folds", "folds")
        return selection

    def to_plain(self) -> object:
        """Returns the form that `read` reads."""
        if self.folds:
            return {"folds": self.folds, "repeats": self.repeats}
        return AUTO if self.is_auto else NONE

    def cells(self, seeds: tuple[int, ...]) -> tuple[Cell, ...]:
        """Returns the trainings by which every configuration is scored, in the order in which it earns them."""
        return list_cells(seeds, self.folds, self.repeats)

    def fresh_cells(self, seeds: tuple[int, ...]) -> tuple[Cell, ...]:
        """Returns the trainings of a confirmation on fresh seeds, each of which is a fresh partition."""
        return list_cells(seeds, self.folds, 1)
