import re
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.plans import prepare_tiny_task, tiny_plan

from raysearch.config.environment import check_packages
from raysearch.config.loading import parse_search
from raysearch.config.search_config import Search
from raysearch.errors import SpecError
from raysearch.modalities.loading import load_space, read_space
from raysearch.modalities.text.taxonomy import TAXONOMY
from raysearch.objectives import user_primitives as module
from raysearch.objectives.trust import trust
from raysearch.objectives.user_primitives import (
    check_unchanged,
    load_functions,
    parse_user_primitives,
    receive_sources,
    sources,
)
from raysearch.plan import TrialPlan
from raysearch.schema.node import Node, to_plain
from raysearch.search.resume import load_stored_search
from raysearch.training.trainer import train

DOCS_PAGE = (Path(__file__).parent.parent.parent / "docs" / "guide" / "spaces.md").read_text()
VALID_FILE = """\
def swap(tokens, selected, vocabulary, generator):
    return tokens


PRIMITIVES = {"transform": {"swap": swap}}
"""


@pytest.fixture
def space_file(tmp_path: Path) -> Path:
    """The space of docs/guide/spaces.md, its file beside it."""
    blocks = dict(re.findall(r"^```(yaml|python)\n(.*?)^```", DOCS_PAGE, re.MULTILINE | re.DOTALL))
    (tmp_path / "my_primitives.py").write_text(blocks["python"])
    (tmp_path / "my_space.yaml").write_text(blocks["yaml"])
    return tmp_path / "my_space.yaml"


def search(space: Path, task: dict[str, str], runs: Path) -> Search:
    declared = {"name": "own", "task": task, "model": "tiny", "space": str(space), "runs": str(runs)}
    return Search.from_dict(declared | {"settings": {"include.transform.swap": True}})


def test_documented_primitives_file_round_trips_through_json(space_file: Path) -> None:
    space = load_space(space_file)
    assert space.user_primitives is not None
    assert space.user_primitives.stages["transform"]["swap"].startswith("Swap each selected token")
    assert space.user_primitives.heads == {"length": 1}
    assert read_space(Node(to_plain(space))) == replace(space, name="")
    assert "end_task/swap/window/length" in {o.name for o in space.objectives}


def test_documented_user_objectives_train_without_code_in_plan(
    space_file: Path, tiny_task: dict[str, str], tmp_path: Path
) -> None:
    declared = search(space_file, tiny_task, tmp_path / "runs")
    drawn = declared.resolve("search", {}, number=0, seed=0)
    assert len(drawn.objectives) == 16
    assert drawn.primitives["heads"] == {"length": 1}
    assert "def swap" not in drawn.to_json() + str(declared.to_dict())
    data = prepare_tiny_task(tiny_task, tmp_path / "data")
    plan = replace(tiny_plan(data, steps=2), objectives=drawn.objectives, primitives=drawn.primitives)
    again = TrialPlan.from_json(plan.to_json())
    assert again == plan
    declared.trust_named_files()
    first, second = (list(train(p, folder=tmp_path / name)) for name, p in (("a", plan), ("b", again)))
    assert first[0].evaluation["aux_loss"] > 0
    assert first[0].evaluation["aux_loss"] == second[0].evaluation["aux_loss"]


def test_plan_key_of_loaded_file_ignores_its_path(space_file: Path) -> None:
    user_primitives = load_space(space_file).user_primitives
    assert user_primitives is not None
    plan = replace(tiny_plan(Path()), primitives=user_primitives.to_plan())
    assert replace(plan, primitives=user_primitives.to_plan() | {"file": "/elsewhere.py"}).key == plan.key
    assert replace(plan, primitives=user_primitives.to_plan() | {"sha256": "0"}).key != plan.key
    assert replace(plan, primitives={}).key != plan.key


def test_plan_key_includes_primitives_sha256_but_not_path() -> None:
    plan, primitives = tiny_plan(Path()), {"file": "a.py", "sha256": "0" * 64, "heads": {}}
    keys = [
        replace(plan, primitives=primitives | change).key for change in ({}, {"file": "b.py"}, {"sha256": "1" * 64})
    ]
    assert keys[0] == keys[1]
    assert len({plan.key, *keys}) == 3


def test_changed_primitives_file_fails_in_driver_and_worker(
    space_file: Path, tiny_task: dict[str, str], tmp_path: Path
) -> None:
    declared = search(space_file, tiny_task, tmp_path / "runs")
    check_packages(declared, Node(declared.to_dict()))
    file = space_file.parent / "my_primitives.py"
    file.write_text(file.read_text().replace("<= 2", "<= 3"))
    again = Search.from_dict(declared.to_dict())  # reading a run looks at no file
    with pytest.raises(SpecError, match=r"my_primitives\.py: these primitives have changed since the search began"):
        check_packages(again, Node(again.to_dict()))
    plan = declared.resolve("search", {}, number=0, seed=0)
    declared.trust_named_files()
    with pytest.raises(SpecError, match="have changed since the search began"):
        load_functions(plan.primitives)
    changed = search(space_file, tiny_task, tmp_path / "runs")
    assert any("primitives.sha256" in line for line in declared.differences(changed))
    file.unlink()
    with pytest.raises(SpecError, match="cannot be read: No such file"):
        check_unchanged(str(file), "0")


def test_sent_primitives_run_where_the_file_is_missing(space_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user_primitives = load_space(space_file).user_primitives
    assert user_primitives is not None
    trust([user_primitives.sha256])
    functions, sent = load_functions(user_primitives.to_plan()), sources()
    elsewhere = user_primitives.to_plan() | {"file": "/on_the_driver_alone.py"}
    monkeypatch.setattr(module, "_received", {})
    with pytest.raises(SpecError, match="cannot be read"):
        load_functions(elsewhere)
    receive_sources(sent)
    assert {stage: list(names) for stage, names in load_functions(elsewhere).items()} == {
        stage: list(names) for stage, names in functions.items()
    }
    with pytest.raises(ValueError, match="have arrived damaged"):
        receive_sources({user_primitives.sha256: sent[user_primitives.sha256] + b" "})


def test_moved_primitives_file_keeps_the_search_fingerprint(
    space_file: Path, tiny_task: dict[str, str], tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for file in (space_file, space_file.parent / "my_primitives.py"):
        (elsewhere / file.name).write_text(file.read_text())
    one = replace(load_space(space_file), name="mine")
    other = replace(load_space(elsewhere / space_file.name), name="mine")
    declared = search(space_file, tiny_task, tmp_path / "runs")
    both = [replace(declared, space="mine", spaces={"mine": space}) for space in (one, other)]
    assert both[0].differences(both[1]) == []
    assert both[0].fingerprint == both[1].fingerprint


def test_check_and_run_loading_do_not_execute_the_file(
    space_file: Path, tiny_task: dict[str, str], tmp_path: Path
) -> None:
    import json

    file = space_file.parent / "my_primitives.py"
    file.write_text(file.read_text() + "\nraise RuntimeError('run')\n")
    declared = search(space_file, tiny_task, tmp_path / "runs")
    folder = tmp_path / "runs" / "own"
    folder.mkdir(parents=True)
    (folder / "search.json").write_text(json.dumps(declared.to_dict()))
    assert load_stored_search(folder) == declared
    declared.trust_named_files()
    with pytest.raises(SpecError, match=r"my_primitives\.py:\d+: cannot be run: RuntimeError: run$"):
        load_functions(declared.resolve("search", {}, number=0, seed=0).primitives)


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        ("generator):", "generator", ":1: not Python: '(' was never closed"),
        (
            "(tokens, selected, vocabulary, generator)",
            "(tokens, selected)",
            ":1: swap: a transform primitive takes (tokens, selected, vocabulary, generator), this one (tokens, ",
        ),
        ("generator):", "generator, more):", "generator, more)"),
        ("generator):", "generator, *, more):", "generator, more)"),
        ("def swap", "@print\ndef swap", ": swap: decorators are not used here"),
        ('"transform"', '"transfrom"', ":5: unknown stage 'transfrom'; did you mean 'transform'?"),
        ('"swap":', '"mask":', ":5: 'mask' is a built-in primitive; use another name"),
        ('"swap":', '"Swap":', ":5: 'Swap': a name has small letters, digits and _, and no prefix extra_"),
        (": swap}", ": swop}", ":5: 'swap' must be the name of a function that this file defines"),
        ('{"swap": swap}', "{}", ': defines no PRIMITIVES = {"transform": {"name": function}}'),
        ('{"swap": swap}', "dict(swap=swap)", ":5: must be written out as {...}: it is read without running the file"),
        ("PRIMITIVES", "PRIMITIFS", ": defines no PRIMITIVES, such as "),
        (
            "PRIMITIVES",
            'def size(hidden, targets, head): ...\nHEADS = {}\nPRIMITIVES = {"output": {"size": size}}\nREST',
            ":6: HEADS: say for 'size' how many numbers its head gives, or \"vocabulary\"",
        ),
        (
            "PRIMITIVES",
            'def size(hidden, targets, head): ...\nHEADS = {"size": 0}\nPRIMITIVES = {"output": {"size": size}}\nREST',
            ":6: HEADS: 'size' must be \"vocabulary\" or how many numbers its head gives",
        ),
    ],
)
def test_invalid_primitives_file_is_rejected_at_its_line(tmp_path: Path, before: str, after: str, problem: str) -> None:
    file = tmp_path / "mine.py"
    file.write_text(VALID_FILE)
    assert parse_user_primitives(file, TAXONOMY.stages).stages == {"transform": {"swap": "a user's primitive"}}
    file.write_text(VALID_FILE.replace(before, after, 1))
    with pytest.raises(SpecError) as error:
        parse_user_primitives(file, TAXONOMY.stages)
    assert str(error.value).startswith(str(file))
    assert problem in str(error.value)


def test_space_with_missing_primitives_file_is_rejected(space_file: Path) -> None:
    (space_file.parent / "my_primitives.py").unlink()
    with pytest.raises(SpecError, match=r"my_space\.yaml:2: primitives: no such file '.*my_primitives\.py'"):
        load_space(space_file)


def test_include_of_unknown_primitive_is_rejected(space_file: Path, tiny_task: dict[str, str], tmp_path: Path) -> None:
    declared = search(space_file, tiny_task, tmp_path).to_dict()
    for name, problem in (("swop", "unknown primitive 'swop'; did you mean 'swap'"), ("bert", "'bert' is not in the")):
        with pytest.raises(SpecError, match=problem):
            parse_search(declared | {"settings": {f"include.transform.{name}": True}})
