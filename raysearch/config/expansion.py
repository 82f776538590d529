"""What a declaration abbreviates: spaces that are named, and weights that are declared for all with `*`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from raysearch.config.dimension import Dimension
from raysearch.config.parameters import WEIGHT_PREFIX
from raysearch.config.sections import Baseline
from raysearch.errors import SpecError
from raysearch.modalities.loading import load_space, read_space
from raysearch.objectives.space import Space
from raysearch.schema.fields import Value
from raysearch.schema.node import Keys, Node


def load_spaces(
    node: Node,
    space: str | None,
    dimensions: Mapping[str, Dimension],
    baselines: Mapping[str, Baseline],
    folder: Path,
) -> dict[str, Space]:
    """Returns every space that a search names: from its `spaces:`, else from a file of `folder` or the catalog.

    Raises SpecError for a space that does not exist, or that `spaces:` declares and nothing uses.
    """
    inline = {
        str(each.keys[-1]): read_space(each, folder) for each in (node["spaces"].mapping() if "spaces" in node else ())
    }
    named: list[tuple[str, Keys]] = [(space, ("space",))] if space else []
    if "space" in dimensions:
        choices = enumerate(dimensions["space"].choices)
        named += [(str(name), ("dimensions", "space", "choice", i)) for i, name in choices]
    for name, each in baselines.items():
        named += [(each.space, ("baselines", name, "space"))] if each.space else []
        for i, choice in enumerate(each.dimensions["space"].choices if "space" in each.dimensions else ()):
            named.append((str(choice), ("baselines", name, "dimensions", "space", "choice", i)))
    spaces: dict[str, Space] = {}
    for name, keys in named:
        file = folder / name
        try:
            loaded = inline[name] if name in inline else load_space(file if file.is_file() else name)
        except SpecError as error:
            if error.file:
                raise
            raise node.error(error.problem, *keys) from None
        spaces[name] = loaded if name in inline else replace(loaded, name=name)
    for name in inline:
        if name not in spaces:
            raise node.error("is declared but not used", "spaces", name)
    return spaces


def expand_weights(
    dimensions: Mapping[str, Dimension], settings: Mapping[str, Value], spaces: Mapping[str, Space]
) -> Iterator[tuple[str, Dimension]]:
    """Yields the dimensions by name; `weight.*` and `weight.STAGE.*` become one for each objective or primitive."""
    for name, dimension in dimensions.items():
        if not (name.startswith(WEIGHT_PREFIX) and name.endswith("*")):
            yield name, dimension
            continue
        stage = name.removeprefix(WEIGHT_PREFIX).removesuffix("*").removesuffix(".")
        parts = [
            part
            for space in spaces.values()
            for part in (space.stages[stage] if stage else [objective.name for objective in space.objectives])
        ]
        for part in dict.fromkeys(parts):
            full_name = f"{name.removesuffix('*')}{part}"
            if full_name not in dimensions and full_name not in settings:
                yield full_name, replace(dimension, name=full_name)
