import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.plans import prepare_tiny_task, tiny_plan

from raysearch.distributed import ProcessGroup
from raysearch.errors import SpecError
from raysearch.objectives.objective import Objective
from raysearch.training.context import TrainingContext

OBJECTIVE = Objective(data="in_domain", transform="none", representation="bidirectional", output="soft_label")


def context_of(task: dict[str, str], folder: Path, file: Path) -> TrainingContext:
    data = prepare_tiny_task(task, folder / "data")
    plan = replace(tiny_plan(data, teacher="file", teacher_path=str(file)), objectives=(OBJECTIVE,))
    return TrainingContext.from_plan(plan, ProcessGroup())


def unlabelled_texts(task: dict[str, str]) -> list[str]:
    return [json.loads(line)["text"] for line in Path(task["domain"]).read_text().splitlines()]


def test_file_teacher_matches_texts_and_rows(tiny_task: dict[str, str], tmp_path: Path) -> None:
    texts, file = unlabelled_texts(tiny_task), tmp_path / "guesses.jsonl"
    rows = [
        {"text": texts[3], "label": "metal"},
        {"text": f" {texts[5]} ", "label": "river", "probability": 0.9},
        {"row": 7, "fruit": 2.0, "metal": 1.0, "river": 1.0},
        {"text": "a text that nobody has", "label": "fruit"},
    ]
    file.write_text("\n".join(map(json.dumps, rows)))
    context = context_of(tiny_task, tmp_path, file)
    teacher, split = context.batches.tutors.teacher, context.splits("domain")  # type: ignore[attr-defined]
    guesses = teacher.guess(split, torch.tensor([3, 5, 7]))
    expected = [[0, 1, 0], [0.05, 0.05, 0.9], [0.5, 0.25, 0.25]]
    assert np.allclose(guesses.probabilities, expected)
    assert guesses.trust.tolist() == [1, 1, 0]  # .5 is below the purity that is asked for
    drawn = teacher.draw(split, 50, torch.Generator().manual_seed(0))
    assert set(drawn.tolist()) == {3, 5}
    assert len(context.batches.objective_batch(OBJECTIVE, 4, torch.Generator().manual_seed(0))) == 4


def test_file_teacher_wrong_on_labelled_rows_is_unused(tiny_task: dict[str, str], tmp_path: Path) -> None:
    train = [json.loads(line) for line in Path(tiny_task["train"]).read_text().splitlines()]
    wrong = {"fruit": "metal", "metal": "metal", "river": "metal"}
    rows = [{"text": row["text"], "label": wrong[row["label"]]} for row in train]
    rows += [{"text": text, "label": "metal"} for text in unlabelled_texts(tiny_task)[:9]]
    file = tmp_path / "guesses.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    context = context_of(tiny_task, tmp_path, file)
    purity = {name: value for stage, name, value in context.remarks if stage == "purity"}
    used = {name: value for stage, name, value in context.remarks if stage == "used"}
    assert purity["metal"] == pytest.approx(1 / 3, abs=0.1)
    assert used == {"fruit": 0, "metal": 0, "river": 0}


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"text": "a", "label": "metl"}, r"guesses.jsonl:1: label: 'metl' is not a label of the task"),
        ({"text": "a"}, "a row needs `label`, or a column with the probability of each class"),
        ({"label": "metal"}, "a row needs `text`, or `row`"),
        ({"row": -1, "label": "metal"}, "is a number of an example, from 0, got -1"),
        ({"text": "a", "label": "metal", "probability": 1.5}, "must be from 1 / 3 to 1, got 1.5"),
        ({"text": "a", "fruit": -1, "metal": 2}, "probabilities are at least 0"),
        ({"text": "a text that nobody has", "label": "metal"}, "speaks of no unlabelled example of the task"),
    ],
)  # fmt: skip
def test_file_teacher_unusable_row_is_refused(
    tiny_task: dict[str, str], tmp_path: Path, row: dict[str, object], problem: str
) -> None:
    file = tmp_path / "guesses.jsonl"
    file.write_text(json.dumps(row))
    with pytest.raises(SpecError, match=problem):
        context_of(tiny_task, tmp_path, file)
