"""An objective space: which auxiliary objectives there are, as a product of stages less what is excluded.

AANG (Dery et al. 2023, section 3, https://arxiv.org/abs/2205.14082): an objective is one primitive from each of
four stages. Legality is stage-qualified: a rule names stages and bars the combinations that match all of it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Literal

from raysearch.errors import did_you_mean
from raysearch.objectives.objective import Objective
from raysearch.objectives.user_primitives import UserPrimitives, parse_user_primitives
from raysearch.schema import catalog, yaml_source
from raysearch.schema.node import Node, to_plain

STAGES: dict[str, dict[str, str]] = {
    "data": {
        "end_task": "the end task's training texts",
        "in_domain": "unlabelled texts of the same domain",
        "out_of_domain": "unlabelled texts of another domain",
        "neural_lm": "texts that a language model has written",
    },
    "transform": {
        "none": "selected tokens stay as they are",
        "replace": "selected tokens become random tokens",
        "mask": "selected tokens become the mask token",
        "bert": "80 % of the selected tokens are masked, 10 % replaced, 10 % kept",
        "noisy_embeds": "the selected tokens' embeddings get Gaussian noise",
        "delete": "the selected tokens are taken out; each is asked for where the one before it stands",
    },
    "representation": {
        "bidirectional": "every token sees every token",
        "left_to_right": "a token sees itself and what is left of it",
        "right_to_left": "a token sees itself and what is right of it",
        "random_factorized": "a token sees a random 60 % of the others",
        "permutation": "a token sees itself and what comes before it in a random order",
    },
    "output": {
        "denoise": "the selected tokens are predicted",
        "end_task": "the end task's label is predicted, by a head of its own",
        "next_token": "the token that is read next is predicted, at every position that does not see it",
        "tf": "how often the selected token stands in its text, relative to its length",
        "tfidf": "the same, rare tokens counting more",
        "real_synthetic": "is the token the text's own, or was it changed? at every position",
        "extra_label": "the extra data set's own label, of the text or of its words",
    },
}
EXTRA = re.compile(r"extra_[a-z0-9_]+")  # data of the task's `extra:`, by its name there
IMAGE_STAGES: dict[str, dict[str, str]] = {
    "data": {
        "end_task": "the end task's training images",
        "auxiliary": "images with labels of their own",
    },
    "transform": {
        "none": "images stay as they are",
        "crop_flip": "images are shifted by up to an eighth of the side, half of them mirrored",
        "patch_mask": "drawn patches become the mean colour",
        "noise": "Gaussian noise is added to every pixel",
        "rotate": "images are rotated by 0 to 3 quarter turns",
    },
    "representation": {
        "full": "the encoder sees the whole image",
        "masked_patches": "half of the patches are hidden from the encoder",
    },
    "output": {
        "reconstruct": "the spoiled or hidden pixels are given back, or all where none is",
        "rotation": "the number of quarter turns is predicted",
        "end_task": "the end task's label is predicted, by a head of its own",
        "auxiliary_label": "the auxiliary images' own label is predicted",
    },
}
TABLE_STAGES: dict[str, dict[str, str]] = {
    "data": {
        "end_task": "the end task's training rows",
    },
    "transform": {
        "none": "rows stay as they are",
        "noise": "Gaussian noise is added to every feature",
        "mask": "drawn features become their mean",
        "swap": "drawn features become those of another row",
        "shuffle": "every feature becomes that of another row",
    },
    "representation": {
        "full": "the encoder sees the whole row",
        "half": "half of the features are hidden from the encoder",
    },
    "output": {
        "restore": "the spoiled or hidden features are given back, or all where none is",
        "end_task": "the end task's label is predicted, by a head of its own",
        "extra_label": "the extra table's own label is predicted",
        "above_mean": "is the extra table's own number above its mean?",
    },
}
Modality = Literal["text", "image", "table"]
STAGES_OF: dict[str, dict[str, dict[str, str]]] = {"text": STAGES, "image": IMAGE_STAGES, "table": TABLE_STAGES}
# Outputs that need one of certain primitives in another stage: without it there is nothing to predict, or all is seen.
NEEDS: dict[str, dict[str, tuple[str, tuple[str, ...], str]]] = {
    "text": {
        "end_task": ("data", ("end_task",), "asks for the label of unlabelled text"),
        "extra_label": ("data", ("extra_*",), "asks for the label of an extra data set"),
        "next_token": (
            "representation",
            ("left_to_right", "right_to_left", "permutation"),
            "asks for a token that is seen",
        ),
        "real_synthetic": (
            "transform",
            ("replace", "bert", "delete", "noisy_embeds"),
            "asks which tokens were changed, and none is, or the mask token tells",
        ),
    },
    "image": {
        "end_task": ("data", ("end_task",), "asks for the end task's label of auxiliary images"),
        "auxiliary_label": ("data", ("auxiliary",), "asks for an auxiliary label of the end task's images"),
        "rotation": ("transform", ("rotate",), "asks how images are turned that are not"),
    },
    "table": {
        "end_task": ("data", ("end_task",), "asks for the end task's label of another table"),
        "extra_label": ("data", ("extra_*",), "asks for the label of an extra table"),
        "above_mean": ("data", ("extra_*",), "asks for the number of an extra table"),
    },
}
Rule = dict[str, tuple[str, ...]]
Stages = Mapping[str, Mapping[str, str]]


@dataclass(frozen=True, kw_only=True)
class Space:
    """A space: objectives in the order of its stages, the last stage fastest."""

    name: str
    stages: dict[str, tuple[str, ...]]
    exclude: tuple[Rule, ...] = ()
    source: str = ""
    modality: Modality = "text"  # of the tasks that it is for
    user_primitives: UserPrimitives | None = None  # primitives of the user's own

    @classmethod
    def read(cls, node: Node, folder: Path = Path()) -> Space:
        """The space that a mapping declares, its file of own primitives relative to `folder`.

        Refuses a wrong count, an unknown primitive, an objective that has nothing to predict.
        """
        node.mapping(("source", "kind", "primitives", "stages", "exclude", "objectives"))
        modality: Modality = node["kind"].read(Modality) if "kind" in node else "text"
        user_primitives = _own(node["primitives"], modality, folder) if "primitives" in node else None
        known = _known(node, modality, user_primitives)
        stages = _stages(node, known)
        rules = tuple(_rule(rule, stages, known) for rule in node["exclude"].items()) if "exclude" in node else ()
        source = node["source"].read(str) if "source" in node else ""
        name = str(node.keys[-1]) if node.keys else ""
        space = cls(
            name=name, stages=stages, exclude=rules, source=source, modality=modality, user_primitives=user_primitives
        )
        if "objectives" not in node:
            raise node.error("the key 'objectives' is missing: say how many there are, so that it can be checked")
        stated, counted = node["objectives"].read(int), len(space.objectives)
        for objective in space.objectives:
            if (missing := space.without_answer(objective)) is not None:
                stage, problem = missing
                remedy = f"exclude it: {{output: {objective.output}, {stage}: {getattr(objective, stage)}}}"
                raise node.error(f"{objective.name} {problem}; {remedy}", "stages", "output")
        if stated != counted or not counted:
            raw = len(list(itertools.product(*stages.values())))
            problem = f"states {stated}, counted {counted}: {raw} combinations less {raw - counted} excluded"
            raise node.error(problem if counted else "everything is excluded: no objective is left", "objectives")
        return space

    def to_plain(self) -> dict[str, object]:
        """What `read` reads."""
        source = {"source": self.source} if self.source else {}
        source |= {"kind": self.modality} if self.modality != "text" else {}
        source |= {"primitives": to_plain(self.user_primitives)} if self.user_primitives else {}
        rules = {"exclude": to_plain(self.exclude)} if self.exclude else {}
        return {**source, "stages": to_plain(self.stages), **rules, "objectives": len(self.objectives)}

    @cached_property
    def objectives(self) -> tuple[Objective, ...]:
        """Every legal objective."""
        combinations = (
            dict(zip(self.stages, parts, strict=True)) for parts in itertools.product(*self.stages.values())
        )
        return tuple(Objective(**parts) for parts in combinations if self._barred_by(parts) is None)

    def without_answer(self, objective: Objective) -> tuple[str, str] | None:
        """The stage that keeps an output from having anything to predict, and why; None where it has."""
        if objective.output not in NEEDS[self.modality]:
            return None
        stage, needed, problem = NEEDS[self.modality][objective.output]
        found = getattr(objective, stage)
        needed += (
            tuple(self.user_primitives.stages.get(stage, ())) if self.user_primitives else ()
        )  # the user knows what they give
        return None if any(fnmatchcase(found, name) for name in needed) else (stage, problem)

    def why_not(self, objective: Objective) -> str | None:
        """Why an objective is not in the space: the stage or the rule that bars it; None if it is in."""
        parts = asdict(objective)
        known = STAGES_OF[self.modality]
        for stage, primitive in parts.items():
            if primitive in self.stages[stage]:
                continue
            if primitive not in known[stage]:
                return f"{stage}: unknown primitive {primitive!r}{did_you_mean(primitive, known[stage])}"
            return f"{stage}: {primitive!r} is not in {self.name}: {', '.join(self.stages[stage])}"
        number = self._barred_by(parts)
        if number is None:
            return None
        rule = ", ".join(f"{stage} {' or '.join(named)}" for stage, named in self.exclude[number].items())
        missing = self.without_answer(objective)
        why = f"; {objective.output} {missing[1]}" if missing else ""
        return f"exclude[{number}] of {self.name}: {rule}{why}"

    def restrict(self, include: Mapping[str, bool]) -> Space:
        """The space without the primitives whose `stage.primitive` is False.

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

    def _barred_by(self, parts: Mapping[str, str]) -> int | None:
        """The number of the first rule that bars this combination."""
        for number, rule in enumerate(self.exclude):
            if all(parts[stage] in named for stage, named in rule.items()):
                return number
        return None


def load_space(name_or_path: str | Path) -> Space:
    """A space of the catalog by name, or a user's own by path; SpecError says file, line and remedy."""
    file = catalog.path("spaces", name_or_path)
    node, _ = yaml_source.load_yaml(file)
    return replace(Space.read(node, file.parent), name=file.stem)


def _own(node: Node, modality: Modality, folder: Path) -> UserPrimitives:
    """The user's own primitives: of a file that is named, or as an earlier reading has found them."""
    if modality != "text":
        raise node.error("primitives of your own are for text; images and tables have those that are built in")
    if isinstance(node.value, dict):
        user_primitives: UserPrimitives = node.fields_of(UserPrimitives)
        return user_primitives
    file = folder / Path(node.read(str)).expanduser()
    if not file.is_file():
        raise node.error(f"no such file {str(file)!r}")
    return parse_user_primitives(file, STAGES_OF[modality])


def _known(node: Node, modality: Modality, user_primitives: UserPrimitives | None) -> dict[str, dict[str, str]]:
    """The primitives that a space may name: the modality's, the user's own, and extra data sets of the task."""
    known = {
        stage: {**named, **(user_primitives.stages.get(stage, {}) if user_primitives else {})}
        for stage, named in STAGES_OF[modality].items()
    }
    named = node.value["stages"].get("data") if isinstance(node.value.get("stages"), dict) else None
    for name in (named if isinstance(named, list) else [named]) if modality != "image" else ():
        if isinstance(name, str) and EXTRA.fullmatch(name):
            known["data"][name] = f"the task's extra data set {name.removeprefix('extra_')}"
    return known


def _stages(node: Node, known: Stages) -> dict[str, tuple[str, ...]]:
    """The primitives of each stage as declared, stages in the papers' order."""
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
    """An entry of `exclude`: bars the combinations that match every stage it names."""
    node.mapping(stages)
    if len(node.value) < 2:
        raise node.error("a rule names at least two stages; to drop a primitive, leave it out of `stages`")
    named = {str(part.keys[-1]): part for part in node}
    return {stage: _primitives(part, known[stage], stages[stage]) for stage, part in named.items()}
