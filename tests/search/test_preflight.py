"""What `check` says of a search's data and machine before it starts."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest

from raysearch.config import environment
from raysearch.config.loading import ParsedSearch, load_file
from raysearch.config.method_validation import check_examples
from raysearch.errors import SpecError
from raysearch.schema import catalog
from raysearch.search import preflight
from raysearch.search.launch import launch

MODEL = (
    "{config: {model_type: bert, vocab_size: 300, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, "
    "intermediate_size: 16}}"
)


def write_search(folder: Path, task: str, more: str = "") -> ParsedSearch:
    text = f"task: {task}\nmodel: {MODEL}\nmethod: {{weighting: end_task_only}}\nbudget: {{trials: 1}}\n{more}"
    (folder / "mine.yaml").write_text(text)
    return load_file(folder / "mine.yaml")


def write_rows(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def rows(tmp_path: Path) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = [
        {"text": f"row number {i} has a few words", "label": ["even", "odd"][i % 2]} for i in range(60)
    ]
    write_rows(tmp_path / "train.jsonl", rows)
    return rows


def test_examine_describes_rows_classes_and_lengths(tmp_path: Path, rows: list[dict[str, object]]) -> None:
    assert len(rows) == 60
    findings = preflight.examine(write_search(tmp_path, "{name: t, train: train.jsonl}"), None)
    assert list(findings.facts) == ["rows", "classes", "tokens", "majority", "chance"]
    assert findings.facts["rows"] == "train 48, meta-dev 3, select-dev 3, test 6"
    assert findings.facts["tokens"].startswith("about, from the words: half of the texts have 11 or more")
    assert any("only 3 rows of select-dev choose" in note for note in findings.notes)


@pytest.mark.parametrize(
    ("task", "problem"),
    [
        ("{name: t, train: trian.jsonl}", r"mine.yaml:1: task.train: no file .*; did you mean 'train.jsonl'\?"),
        ("{name: t, train: train.jsonl, dev: no.csv}", r"mine.yaml:1: task.dev: no file .*; name the folder .* --data"),
        ("{name: t, train: train.jsonl, text: txet}", r"train.jsonl:1: txet: no such column; did you mean 'text'\?"),
        ("{name: t, train: train.jsonl, dev: dev.jsonl}", "'prime' is not a label of the training rows"),
    ],
)
@pytest.mark.usefixtures("rows")
def test_examine_refuses_missing_files_columns_and_labels(tmp_path: Path, task: str, problem: str) -> None:
    write_rows(tmp_path / "dev.jsonl", [{"text": f"row {i} of dev", "label": "prime"} for i in range(4)])
    with pytest.raises(SpecError, match=problem):
        preflight.examine(write_search(tmp_path, task), None)


ATTITTUD = (
    "{{name: t, train: train.jsonl}}\nspace: bert_style\nmethod: {{weighting: static, surgery: attittud}}\n{}\n"
    "settings: {{steps: 4, m: 64{}}}\n"
)


@pytest.mark.parametrize(
    ("dimensions", "settings", "problem"),
    [
        ("seeds: [1]", ", k: 48", ""),
        ("seeds: [1]", ", k: 49", r"mine.yaml:5: settings.k: k must be at most the 48 training examples.*: k 49"),
        ("seeds: [1]", ", k: 49, basis: random", ""),
        ("dimensions: {k: {int: [1, 50]}}", "", r"mine.yaml:4: dimensions.k: k must be at most the 48 .*: k 50"),
        ("dimensions: {basis: {choice: [random, exact]}}", ", k: 60", r"mine.yaml:5: settings.k: .* 48 .*: k 60"),
        ("selection: {folds: 3}", ", k: 36", ""),
        ("selection: {folds: 3}", ", k: 37", r"mine.yaml:5: settings.k: k must be at most the 36 training examples"),
    ],
)
@pytest.mark.usefixtures("rows")
def test_examine_and_launch_refuse_more_directions_than_examples(
    tmp_path: Path, dimensions: str, settings: str, problem: str
) -> None:
    text = f"task: {ATTITTUD.format(dimensions, settings)}model: {MODEL}\nbudget: {{trials: 1}}\n"
    (tmp_path / "mine.yaml").write_text(
        text.replace("trials: 1", "trials: 2") if "{choice" in text or "{int" in text else text
    )
    parsed = load_file(tmp_path / "mine.yaml")
    if not problem:
        preflight.examine(parsed, None)
        return
    with pytest.raises(SpecError, match=problem):
        preflight.examine(parsed, None)
    with pytest.raises(SpecError, match=problem):
        launch(replace(parsed, search=replace(parsed.search, runs=str(tmp_path / "runs"))))
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("name", catalog.names("trials"))
@pytest.mark.parametrize("folds", [0, 5])
def test_every_shipped_search_has_enough_examples(name: str, folds: int) -> None:
    parsed = load_file(catalog.root() / "trials" / f"{name}.yaml")
    sizes = {"train": 5000, "meta_dev": 200, "select_dev": 200, "test": 400}
    check_examples(parsed.search, parsed.node, sizes, folds)


@pytest.mark.parametrize(
    ("budget", "trials", "is_noted"),
    [("trials: 4", 2, True), ("trials: 4", 4, False), ("trials: 4, compute: 60", 2, False)],
)
@pytest.mark.usefixtures("rows")
def test_examine_notes_arms_with_unequal_draws(tmp_path: Path, budget: str, trials: int, is_noted: bool) -> None:
    more = (
        "dimensions: {lr: {float: [1e-4, 1e-2], log: true}}\n"
        f"baselines: {{b: {{method: {{weighting: end_task_only}}, settings: {{batch_size: 4}}, trials: {trials}}}}}\n"
    )
    parsed = write_search(tmp_path, "{name: t, train: train.jsonl}", more)
    text = (tmp_path / "mine.yaml").read_text().replace("budget: {trials: 1}", f"budget: {{{budget}}}")
    (tmp_path / "mine.yaml").write_text(text)
    parsed = load_file(tmp_path / "mine.yaml")
    noted = [note for note in preflight.examine(parsed, None).notes if "unequally many" in note]
    assert noted == is_noted * [
        f"arms try unequally many configurations (search 4, b {trials}), which favours those with more: "
        "give them equally many `trials`, or all the same `budget: {compute: SECONDS}`"
    ]


def test_examine_notes_missing_data_of_a_catalog_search(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RAYSEARCH_DATA", raising=False)
    parsed = load_file("scierc")
    assert any("--data DIR or RAYSEARCH_DATA" in note for note in preflight.examine(parsed, None).notes)
    with pytest.raises(SpecError, match=r"scierc.yaml:\d+: task.train: no file"):
        preflight.examine(parsed, tmp_path)


def test_examine_ten_thousand_rows_takes_two_seconds(tmp_path: Path) -> None:
    write_rows(
        tmp_path / "train.jsonl",
        [{"text": f"{i} " + "some words of a text " * 8, "label": str(i % 5)} for i in range(10_000)],
    )
    parsed = write_search(tmp_path, "{name: t, train: train.jsonl}")
    start = time.process_time()
    preflight.examine(parsed, None)
    assert time.process_time() - start < 2


@pytest.mark.usefixtures("rows")
def test_machine_note_names_an_unused_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search = write_search(tmp_path, "{name: t, train: train.jsonl}").search
    monkeypatch.setattr(preflight, "local_resources", lambda: (4, 0))
    assert preflight.machine_notes(search) == []
    monkeypatch.setattr(preflight, "local_resources", lambda: (4, 2))
    monkeypatch.setattr(environment, "local_resources", lambda: (4, 2))
    (note,) = preflight.machine_notes(search)
    assert note.startswith("this machine has 2 GPUs and trials ask for none")
    on_gpu = write_search(tmp_path, "{name: t, train: train.jsonl}", "resources: {gpus: 1}\n").search
    assert preflight.machine_notes(on_gpu) == []


@pytest.mark.usefixtures("rows")
def test_launch_says_what_check_says_of_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    more = "settings: {steps: 2, eval_every: 1, max_length: 8}\nexecutor: in_process\n"
    parsed = write_search(tmp_path, "{name: t, train: train.jsonl}", more)
    notes = preflight.examine(parsed, None).notes
    assert any(note.startswith("max_length 8 cuts about 100%") for note in notes)
    launch(parsed)
    printed = " ".join(capsys.readouterr().err.split())
    assert "max_length 8 cuts" in printed
    assert "only 3 rows of select-dev choose" in printed
