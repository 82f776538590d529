"""An objective space: a product of stages, minus excluded combinations.

AANG (Dery et al. 2023, section 3, https://arxiv.org/abs/2205.14082): an objective is one primitive from each of
four stages. A rule of `exclude` names stages, and excludes the combinations that match all of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path

from raysearch.errors import did_you_mean
from raysearch.formatting import format_count, html_page, html_table
from raysearch.objectives.objective import Objective
from raysearch.objectives.primitive import DEFAULT_MODALITY, EXTRA, Taxonomy
from raysearch.objectives.user_primitives import UserPrimitives, parse_user_primitives
from raysearch.schema.node import Node, to_plain

Rule = dict[str, tuple[str, ...]]
Stages = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True, kw_only=True)
class Space:
    """A space of objectives, in the order of its stages, the last stage fastest."""

    name: str
    taxonomy: Taxonomy  # of the tasks that it is for
    stages: dict[str, tuple[str, ...]]
    exclude: tuple[Rule, ...] = ()
    source: str = ""
    user_primitives: UserPrimitives | None = None

    @property
    def modality(self) -> str:
        """The modality of the tasks that the space is for."""
        return self.taxonomy.modality

    def to_plain(self) -> dict[str, object]:
        """Returns what `parse_space` reads."""
        source = {"source": self.source} if self.source else {}
        source |= {"kind": self.modality} if self.modality != DEFAULT_MODALITY else {}
        source |= {"primitives": to_plain(self.user_primitives)} if self.user_primitives else {}
        rules = {"exclude": to_plain(self.exclude)} if self.exclude else {}
        return {**source, "stages": to_plain(self.stages), **rules, "objectives": len(self.objectives)}

    @cached_property
    def objectives(self) -> tuple[Objective, ...]:
        """Every legal objective."""
        combinations = (
            dict(zip(self.stages, parts, strict=True)) for parts in itertools.product(*self.stages.values())
        )
        return tuple(Objective(**parts) for parts in combinations if self._excluding_rule(parts) is None)

    def missing_requirement(self, objective: Objective) -> tuple[str, str] | None:
        """Returns the stage that lacks what the output requires, and the problem; None if nothing is missing."""
        output = self.taxonomy.find("output", objective.output)
        if output is None or output.requires is None:
            return None
        stage, names = output.requires.stage, output.requires.primitives
        if self.user_primitives:  # the users know what their primitives give
            names += tuple(self.user_primitives.stages.get(stage, ()))
        fits = any(fnmatchcase(getattr(objective, stage), name) for name in names)
        return None if fits else (stage, output.requires.problem)

    def why_not(self, objective: Objective) -> str | None:
        """Returns the stage or the rule that keeps an objective out of the space; None if it is in."""
        parts = asdict(objective)
        known = self.taxonomy.stages
        for stage, primitive in parts.items():
            if primitive in self.stages[stage]:
                continue
            if primitive not in known[stage]:
                return f"{stage}: unknown primitive {primitive!r}{did_you_mean(primitive, known[stage])}"
            return f"{stage}: {primitive!r} is not in {self.name}: {', '.join(self.stages[stage])}"
        number = self._excluding_rule(parts)
        if number is None:
            return None
        rule = ", ".join(f"{stage} {' or '.join(named)}" for stage, named in self.exclude[number].items())
        missing = self.missing_requirement(objective)
        why = f"; {objective.output} {missing[1]}" if missing else ""
        return f"exclude[{number}] of {self.name}: {rule}{why}"

    def restrict(self, include: Mapping[str, bool]) -> Space:
        """Returns the space without the primitives whose `stage.primitive` is False.

        Raises ValueError when no objective is left.
        """
        stages = {
            stage: tuple(p for p in named if include.get(f"{stage}.{p}", True)) for stage, named in self.stages.items()
        }
        smaller = replace(self, stages=stages)
        if not smaller.objectives:
            left_out = ", ".join(name for name, is_in in include.items() if not is_in)
            raise ValueError(f"no objective of {self.name} is left without {left_out}")
        return smaller

    def _repr_html_(self) -> str:
        """Returns what a notebook shows: the stages with their primitives, and the count of objectives."""
        count = f"{format_count(len(self.objectives), 'objective')} for {self.modality}"
        stages = [{"stage": stage, "primitives": list(named)} for stage, named in self.stages.items()]
        return html_page(f"space {self.name}", [count, *([self.source] if self.source else [])], html_table(stages))

    def _excluding_rule(self, parts: Mapping[str, str]) -> int | None:
        """Returns the number of the first rule that excludes this combination."""
        for number, rule in enumerate(self.exclude):
            if all(parts[stage] in named for stage, named in rule.items()):
                return number
        return None


def parse_space(node: Node, taxonomy: Taxonomy, folder: Path = Path()) -> Space:
    """Returns the space that a mapping declares; a file of user primitives is relative to `folder`.

    Raises SpecError for a wrong count, an unknown primitive, or an objective that has nothing to predict.
    """
    node.mapping(("source", "kind", "primitives", "stages", "exclude", "objectives"))
    user_primitives = _user_primitives(node["primitives"], taxonomy, folder) if "primitives" in node else None
    known = _known(node, taxonomy, user_primitives)
    stages = _stages(node, known)
    rules = tuple(_rule(rule, stages, known) for rule in node["exclude"].items()) if "exclude" in node else ()
    source = node["source"].read(str) if "source" in node else ""
    name = str(node.keys[-1]) if node.keys else ""
    space = Space(
        name=name, taxonomy=taxonomy, stages=stages, exclude=rules, source=source, user_primitives=user_primitives
    )
    if "objectives" not in node:
        raise node.error("the key 'objectives' is missing: say how many there are, so that it can be checked")
    stated, counted = node["objectives"].read(int), len(space.objectives)
    for objective in space.objectives:
        if (missing := space.missing_requirement(objective)) is not None:
            stage, problem = missing
            remedy = f"exclude it: {{output: {objective.output}, {stage}: {getattr(objective, stage)}}}"
            raise node.error(f"{objective.name} {problem}; {remedy}", "stages", "output")
    if stated != counted or not counted:
        raw = len(list(itertools.product(*stages.values())))
        problem = f"states {stated}, counted {counted}: {raw} combinations less {raw - counted} excluded"
        raise node.error(problem if counted else "everything is excluded: no objective is left", "objectives")
    return space


def _user_primitives(node: Node, taxonomy: Taxonomy, folder: Path) -> UserPrimitives:
    """Returns the user's primitives: of a file that is named, or as they were parsed and stored before."""
    if not taxonomy.has_user_primitives:
        raise node.error(f"user primitives are not supported for {taxonomy.modality} tasks; use the built-in ones")
    if isinstance(node.value, dict):
        return UserPrimitives.read(node)
    file = folder / Path(node.read(str)).expanduser()
    if not file.is_file():
        raise node.error(f"no such file {str(file)!r}")
    return parse_user_primitives(file, taxonomy.stages)


def _known(node: Node, taxonomy: Taxonomy, user_primitives: UserPrimitives | None) -> dict[str, dict[str, str]]:
    """Returns the primitives that a space may name: built-in ones, the user's, and extra data sets of the task."""
    users = user_primitives.stages if user_primitives else {}
    known = {stage: {**named, **users.get(stage, {})} for stage, named in taxonomy.stages.items()}
    named = node.value["stages"].get("data") if isinstance(node.value.get("stages"), dict) else None
    for name in (named if isinstance(named, list) else [named]) if taxonomy.has_extra_data else ():
        if isinstance(name, str) and EXTRA.fullmatch(name):
            known["data"][name] = f"the task's extra data set {name.removeprefix('extra_')}"
    return known


def _stages(node: Node, known: Stages) -> dict[str, tuple[str, ...]]:
    """Returns the primitives of each stage as declared, stages in the papers' order."""
    if "stages" not in node:
        raise node.error("the key 'stages' is missing")
    declared = node["stages"].mapping(known)
    for stage in known:
        if stage not in declared:
            raise declared.error(f"stage {stage!r} is missing; one of {', '.join(known[stage])}")
    return {stage: _primitives(declared[stage], known[stage], known[stage]) for stage in known}


def _primitives(node: Node, of_stage: Mapping[str, str], known: Mapping[str, str] | tuple[str, ...]) -> tuple[str, ...]:
    named: tuple[str, ...] = node.read(tuple[str, ...])
    if not named:
        raise node.error("is empty: name at least one primitive")
    stage = str(node.keys[-1])
    for i, primitive in enumerate(named):
        below = (i,) if isinstance(node.value, list) else ()
        if primitive not in of_stage:
            near = did_you_mean(primitive, known)
            raise node.error(f"unknown primitive {primitive!r}{near}", *below)
        if primitive not in known:
            raise node.error(f"{primitive!r} is not in this space's {stage}{did_you_mean('', known)}", *below)
        if primitive in named[:i]:
            raise node.error(f"{primitive!r} is named twice", *below)
    return named


def _rule(node: Node, stages: Mapping[str, tuple[str, ...]], known: Stages) -> Rule:
    """Returns one entry of `exclude`, which excludes the combinations that match every stage it names."""
    node.mapping(stages)
    if len(node.value) < 2:
        raise node.error("a rule names at least two stages; to drop a primitive, leave it out of `stages`")
    named = {str(part.keys[-1]): part for part in node}
    return {stage: _primitives(part, known[stage], stages[stage]) for stage, part in named.items()}
