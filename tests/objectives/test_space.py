from __future__ import annotations

import itertools
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysearch.errors import SpecError
from raysearch.modalities import all_modalities
from raysearch.modalities.loading import load_space, read_space
from raysearch.modalities.text.taxonomy import TAXONOMY
from raysearch.objectives.literature import NAMED
from raysearch.objectives.objective import Objective
from raysearch.objectives.primitive import STAGES
from raysearch.schema import catalog
from raysearch.schema.node import Node, to_plain

EXPECTED_COUNTS = {
    "aang_td": 24,
    "aang_td_ed": 40,
    "aang_full": 524,
    "xyz": 3,
    "bert_style": 1,
    "dapt": 1,
    "gpt_style": 1,
    "xlnet_style": 1,
    "smoke": 6,
    "ssl": 30,
    "ssl_td": 54,
    "image_ssl": 35,
}
EXPECTED_COUNTS |= {
    "image": 36,
    "image_td": 18,
    "auxiliary_label": 1,
    "labelled_sets": 2,
    "dapt_tapt": 2,
    "table_td": 15,
    "planted": 10,
    "planted_factored": 144,
}
ALL_OBJECTIVES = [
    Objective(**dict(zip(STAGES, parts, strict=True)))
    for taxonomy in (modality.taxonomy for modality in all_modalities())
    for parts in itertools.product(
        [*taxonomy.stages["data"], *(["extra_first", "extra_second"] if taxonomy is TAXONOMY else [])],
        *list(taxonomy.stages.values())[1:],
    )
]


def objective(name: str) -> Objective:
    return Objective(**dict(zip(STAGES, name.split("/"), strict=True)))


@pytest.mark.parametrize("name", catalog.names("spaces"))
def test_catalog_space_has_the_number_of_objectives_of_its_paper(name: str) -> None:
    space = load_space(name)
    assert len(space.objectives) == EXPECTED_COUNTS[name]
    assert len({o.name for o in space.objectives}) == EXPECTED_COUNTS[name]


@pytest.mark.parametrize("name", catalog.names("spaces"))
def test_why_not_is_none_only_for_objectives_of_the_space(name: str) -> None:
    space = load_space(name)
    extra = {
        replace(o, data=data) for o in ALL_OBJECTIVES for data in space.stages["data"] if data.startswith("extra_")
    }
    assert {o.name for o in {*ALL_OBJECTIVES, *extra} if space.why_not(o) is None} == {o.name for o in space.objectives}


def test_aang_td_has_16_denoising_and_8_label_objectives() -> None:
    space = load_space("aang_td")
    outputs = [o.output for o in space.objectives]
    assert (outputs.count("denoise"), outputs.count("end_task")) == (16, 8)
    labels = {o.representation for o in space.objectives if o.output == "end_task"}
    assert labels == {"bidirectional", "random_factorized"}


def test_aang_td_ed_adds_16_denoising_objectives_on_domain_text() -> None:
    small, large = set(load_space("aang_td").objectives), set(load_space("aang_td_ed").objectives)
    assert small < large
    assert {(o.data, o.output) for o in large - small} == {("in_domain", "denoise")}


def test_xyz_is_the_union_of_gpt_xlnet_and_bert_style() -> None:
    single = [load_space(f"{style}_style").objectives[0] for style in ("gpt", "xlnet", "bert")]
    assert set(load_space("xyz").objectives) == set(single)


def test_why_not_names_the_stage_or_the_rule() -> None:
    space = load_space("aang_td")
    why = "exclude[0] of aang_td: output end_task, representation left_to_right or right_to_left"
    assert space.why_not(objective("end_task/mask/left_to_right/end_task")) == why
    outside = space.why_not(objective("in_domain/mask/bidirectional/denoise"))
    assert outside == "data: 'in_domain' is not in aang_td: end_task"
    unknown = space.why_not(objective("end_task/msk/bidirectional/denoise"))
    assert unknown == "transform: unknown primitive 'msk'; did you mean 'mask'?"


def test_why_not_names_the_rule_and_what_the_output_requires() -> None:
    why = load_space("aang_full").why_not(objective("end_task/mask/bidirectional/real_synthetic"))
    assert why == (
        "exclude[3] of aang_full: output real_synthetic, transform none or mask; "
        "real_synthetic predicts which tokens were changed, and none is, or the mask token shows it"
    )


def test_real_synthetic_follows_transforms_that_hide_changes() -> None:
    space = load_space("aang_full")
    for transform in (each for each in space.taxonomy.primitives if each.stage == "transform"):
        missing = space.missing_requirement(objective(f"end_task/{transform.name}/bidirectional/real_synthetic"))
        assert (missing is None) == transform.hides_changes


def test_extra_label_is_allowed_only_on_extra_data_sets() -> None:
    declared = {"transform": ["none"], "representation": ["bidirectional"], "output": ["denoise", "extra_label"]}
    space = read_space(Node({"stages": {"data": ["extra_ner"], **declared}, "objectives": 2}))
    assert [o.name for o in space.objectives][1] == "extra_ner/none/bidirectional/extra_label"
    assert read_space(Node(to_plain(space))) == space
    with pytest.raises(SpecError, match="predicts the label of an extra data set, on other data; exclude it"):
        read_space(Node({"stages": {"data": ["end_task", "extra_ner"], **declared}, "objectives": 4}))


LITERATURE_NAMES = {
    "end_task/bert/bidirectional/denoise": "TAPT",
    "in_domain/bert/bidirectional/denoise": "DAPT",
    "out_of_domain/bert/bidirectional/denoise": "BERT",
    "out_of_domain/none/left_to_right/next_token": "GPT",
    "out_of_domain/none/right_to_left/next_token": "ELMo",
    "in_domain/none/permutation/next_token": "XLNet",
    "neural_lm/replace/bidirectional/real_synthetic": "ELECTRA",
    "in_domain/none/random_factorized/tfidf": "New-Obj2",
    "end_task/mask/left_to_right/tf": "",
}


@pytest.mark.parametrize("name", LITERATURE_NAMES)
def test_literature_name_of_a_known_objective_is_returned(name: str) -> None:
    literature_name = TAXONOMY.literature_name(objective(name))
    assert LITERATURE_NAMES[name] in literature_name
    assert bool(LITERATURE_NAMES[name]) == bool(literature_name)
    assert load_space("aang_full").why_not(objective(name)) is None


def test_literature_patterns_each_match_an_objective() -> None:
    extra = Objective(data="extra_ner", transform="none", representation="bidirectional", output="extra_label")
    known = {TAXONOMY.literature_name(o) for o in (*load_space("aang_full").objectives, extra)}
    assert {name for _, name in NAMED} <= known


def test_restrict_removes_only_the_named_primitive() -> None:
    space = load_space("aang_td")
    smaller = space.restrict({"transform.mask": False, "transform.bert": True})
    assert set(smaller.objectives) == {o for o in space.objectives if o.transform != "mask"}
    with pytest.raises(ValueError, match=r"no objective of aang_td is left without output.denoise, output.end_task"):
        space.restrict({"output.denoise": False, "output.end_task": False})


def test_load_space_reads_a_file_of_the_user(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text((catalog.root() / "spaces" / "smoke.yaml").read_text())
    assert load_space(file).name == "mine"
    assert load_space(str(file)).objectives == load_space("smoke").objectives


def subset(stage: str) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(list(TAXONOMY.stages[stage])), min_size=1, unique=True)


@st.composite
def space_configs(draw: st.DrawFn) -> dict[str, object]:
    """Stages and rules drawn at large, with a true count; outputs that have nothing to predict are barred."""
    stages = {stage: draw(subset(stage)) for stage in STAGES}
    rules = [
        {stage: draw(st.lists(st.sampled_from(stages[stage]), min_size=1, unique=True)) for stage in pair}
        for pair in draw(st.lists(st.sampled_from(list(itertools.combinations(STAGES, 2))), max_size=3))
    ]
    for primitive in TAXONOMY.primitives:
        if (needed := primitive.requires) is None or primitive.name not in stages["output"]:
            continue
        if excluded := [name for name in stages[needed.stage] if name not in needed.primitives]:
            rules.append({needed.stage: excluded, "output": [primitive.name]})
    legal = 0
    for parts in itertools.product(*stages.values()):
        named = dict(zip(stages, parts, strict=True))
        legal += not any(all(named[stage] in rule[stage] for stage in rule) for rule in rules)
    return {"stages": stages, "exclude": rules, "objectives": legal}


@given(space_configs())
def test_space_is_the_product_minus_the_exclusions(declared: dict[str, object]) -> None:
    if declared["objectives"] == 0:
        with pytest.raises(SpecError, match="no objective is left"):
            read_space(Node(declared))
        return
    space = read_space(Node(declared))
    assert len(space.objectives) == declared["objectives"] == len(set(space.objectives))
    assert all(space.why_not(o) is None for o in space.objectives)
    assert sum(space.why_not(o) is None for o in ALL_OBJECTIVES) == declared["objectives"]
    for barred in space.exclude:
        for o in space.objectives:
            assert not all(asdict(o)[stage] in named for stage, named in barred.items())
    assert read_space(Node(to_plain(space))) == space


@given(space_configs(), st.integers(1, 5))
def test_space_with_a_wrong_count_is_rejected(declared: dict[str, object], off: int) -> None:
    stated = int(str(declared["objectives"])) + off
    with pytest.raises(SpecError, match=rf"states {stated}, counted|no objective is left"):
        read_space(Node({**declared, "objectives": stated}))


STAGES_BLOCK = """stages:
  data: [end_task]
  transform: [none, mask]
  representation: [bidirectional, left_to_right]
  output: [denoise, end_task]
"""


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (STAGES_BLOCK, "1: the key 'objectives' is missing: say how many there are, so that it can be checked"),
        (STAGES_BLOCK + "objectives: 7\n", "6: objectives: states 7, counted 8: 8 combinations less 0 excluded"),
        (STAGES_BLOCK + "objective: 8\n", "6: objective: unknown key 'objective'; did you mean 'objectives'?"),
        ("objectives: 8\n", "1: the key 'stages' is missing"),
        (
            "stages:\n  data: [end_task]\nobjectives: 8\n",
            "1: stages: stage 'transform' is missing; one of none, replace, mask, bert, noisy_embeds, delete, "
            "dropout, delete_60, cut",
        ),
        (STAGES_BLOCK.replace("data", "date"), "2: stages.date: unknown key 'date'; did you mean 'data'?"),
        (
            STAGES_BLOCK.replace("mask", "maks"),
            "3: stages.transform[1]: unknown primitive 'maks'; did you mean 'mask'?",
        ),
        (STAGES_BLOCK.replace("mask", "none"), "3: stages.transform[1]: 'none' is named twice"),
        (STAGES_BLOCK.replace("[end_task]", "[]"), "2: stages.data: is empty: name at least one primitive"),
        (
            STAGES_BLOCK + "exclude:\n  - {output: end_task, representation: [left_to_rigth]}\nobjectives: 6\n",
            "7: exclude[0].representation[0]: unknown primitive 'left_to_rigth'; did you mean 'left_to_right'?",
        ),
        (
            STAGES_BLOCK + "exclude:\n  - {output: end_task, transform: bert}\nobjectives: 6\n",
            "7: exclude[0].transform: 'bert' is not in this space's transform; known: mask, none",
        ),
        (
            STAGES_BLOCK + "exclude:\n  - {outptu: end_task, transform: mask}\nobjectives: 6\n",
            "7: exclude[0].outptu: unknown key 'outptu'; did you mean 'output'?",
        ),
        (
            STAGES_BLOCK + "exclude:\n  - {output: end_task}\nobjectives: 4\n",
            "7: exclude[0]: a rule names at least two stages; to drop a primitive, leave it out of `stages`",
        ),
        (STAGES_BLOCK + "exclude: {output: end_task}\nobjectives: 4\n", "6: exclude: must be a list, got a mapping"),
        (
            STAGES_BLOCK.replace("[end_task]", "[in_domain]") + "objectives: 8\n",
            "5: stages.output: in_domain/none/bidirectional/end_task predicts the label of unlabelled text; "
            "exclude it: {output: end_task, data: in_domain}",
        ),
    ],
)
def test_load_space_invalid_file_error_has_its_line(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(SpecError) as error:
        load_space(file)
    assert str(error.value) == f"{file}:{problem}"


def test_load_space_unknown_name_suggests_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        SpecError, match=r"^no such objective space 'aang_tdd'; did you mean 'aang_td_ed'\?|'aang_td'\?$"
    ):
        load_space("aang_tdd")
    with pytest.raises(SpecError, match=r"^no such file 'mine\.yaml'; in the catalog: aang_full, aang_td, "):
        load_space("mine.yaml")
    with pytest.raises(SpecError, match=r"^no such file 'spaces/xzy\.yaml'; did you mean 'xyz'\?$"):
        load_space("spaces/xzy.yaml")
    assert load_space("spaces/xyz.yaml").name == "xyz"
