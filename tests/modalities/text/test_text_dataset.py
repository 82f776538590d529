import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from raysearch.data.prepared import PreparedData, load_prepared_data
from raysearch.errors import SpecError
from raysearch.modalities.opening import open_split, prepare
from raysearch.modalities.text.config import TEXT_MODELS, ExtraTask, TextTask
from raysearch.modalities.text.dataset import TextSplit

SMALL_MODEL = {"config": {"model_type": "bert", "hidden_size": 16, "vocab_size": 200}}
DATA = Path(os.environ.get("RAYSEARCH_DATA", "."))


def write_jsonl(path: Path, rows: list[tuple[str, str]]) -> Path:
    path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows))
    return path


def parity_rows(start: int, stop: int) -> list[tuple[str, str]]:
    return [
        (f"text number {i} is {'odd' if i % 2 else 'even'}", "odd" if i % 2 else "even") for i in range(start, stop)
    ]


@pytest.fixture
def task(tmp_path: Path) -> TextTask:
    write_jsonl(tmp_path / "train.jsonl", parity_rows(0, 40))
    write_jsonl(tmp_path / "dev.jsonl", parity_rows(40, 60))
    write_jsonl(tmp_path / "test.jsonl", parity_rows(60, 70))
    (tmp_path / "domain.txt").write_text("some text without a label\n\nand more of it\u2028in one line\n")
    return TextTask(
        name="parity", train="train.jsonl", dev="dev.jsonl", test="test.jsonl", domain="domain.txt", base=str(tmp_path)
    )


def changed(task: TextTask, **fields: object) -> TextTask:
    return TextTask(**{**vars(task), **fields})


@pytest.fixture
def prepared(task: TextTask, tmp_path: Path) -> PreparedData:
    return prepare(task, SMALL_MODEL, tmp_path / "data")


def test_prepare_splits_hold_their_rows_and_labels(prepared: PreparedData) -> None:
    assert prepared.sizes == {"train": 40, "meta_dev": 10, "select_dev": 10, "test": 10, "domain": 2}
    assert prepared.labels == ("even", "odd")
    for name in prepared.sizes:
        split = open_split(prepared.folder, name)
        assert isinstance(split, TextSplit)
        assert len(split) == prepared.sizes[name]
        assert split.offsets[-1] == len(split.tokens)
    train = open_split(prepared.folder, "train")
    assert train.labels is not None
    assert train.labels.tolist() == [0, 1] * 20
    assert open_split(prepared.folder, "domain").labels is None


def test_prepare_saves_a_tokenizer_that_gives_the_stored_tokens(prepared: PreparedData) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(prepared.folder / "tokenizer"))
    metadata = json.loads((prepared.folder / "data.json").read_text())
    assert tokenizer.is_fast
    assert len(tokenizer) == metadata["tokens"]["vocab_size"]
    for name in ("pad", "cls", "sep", "mask"):
        assert getattr(tokenizer, f"{name}_token_id") == metadata["tokens"][name]
    train = open_split(prepared.folder, "train")
    for i in (0, 7, 39):
        text = f"text number {i} is {'odd' if i % 2 else 'even'}"
        assert tokenizer(text.upper())["input_ids"] == train.row(i).tolist()
    assert tokenizer.decode(train.row(3), skip_special_tokens=True) == "text number 3 is odd"
    assert (metadata["prefix"], metadata["suffix"]) == (1, 1)
    assert train.row(0)[0] == tokenizer.cls_token_id
    assert train.row(0)[-1] == tokenizer.sep_token_id


def test_open_split_is_memory_mapped(prepared: PreparedData) -> None:
    before = pa.total_allocated_bytes()
    split = open_split(prepared.folder, "train")
    assert pa.total_allocated_bytes() == before
    assert not split.tokens.flags.owndata
    assert split.tokens.dtype == np.int32


def test_prepare_keeps_texts_outside_the_fingerprint(task: TextTask, prepared: PreparedData) -> None:
    folder = prepared.folder
    before = pa.total_allocated_bytes()
    split = open_split(folder, "train")
    assert pa.total_allocated_bytes() - before < 500, "40 texts are read into memory"
    lines = (Path(task.base) / "train.jsonl").read_text().splitlines()
    assert split.texts_of([3, 0]) == [json.loads(lines[3])["text"], json.loads(lines[0])["text"]]
    assert [name.stem for name in sorted((folder / "texts").iterdir())] == [
        "domain",
        "meta_dev",
        "select_dev",
        "test",
        "train",
    ]
    metadata = json.loads((folder / "data.json").read_text())
    as_before = {name: metadata[name] for name in ("task", "metric", "labels", "sizes", "splits")}
    as_before |= {name: metadata[name] for name in ("tokens", "prefix", "suffix")}
    assert prepared.fingerprint == hashlib.sha256(json.dumps(as_before, sort_keys=True).encode()).hexdigest()
    assert len(metadata["texts"]["test"]) == 64
    assert open_split(folder, "domain").texts_of([0]) == ["some text without a label"]


def test_prepared_data_of_an_earlier_version_open_without_texts(prepared: PreparedData) -> None:
    shutil.rmtree(prepared.folder / "texts")
    split = open_split(prepared.folder, "train")
    assert (len(split), split.texts) == (40, None)


def test_prepare_truncates_long_texts_and_keeps_the_separator(task: TextTask, tmp_path: Path) -> None:
    rows = [("many " * 2000, "odd"), *parity_rows(0, 9)]
    long = changed(task, train=str(write_jsonl(tmp_path / "long.jsonl", rows)))
    row = open_split(prepare(long, SMALL_MODEL, tmp_path / "data").folder, "train").row(0)
    assert len(row) == 512
    assert row[-1] == 3


def test_prepare_again_keeps_files_and_fingerprint(task: TextTask, prepared: PreparedData, tmp_path: Path) -> None:
    stamp = (prepared.folder / "data.json").stat().st_mtime_ns
    assert prepare(task, SMALL_MODEL, prepared.folder) == prepared == load_prepared_data(prepared.folder)
    assert (prepared.folder / "data.json").stat().st_mtime_ns == stamp
    assert prepare(task, SMALL_MODEL, tmp_path / "elsewhere").fingerprint == prepared.fingerprint


def test_prepare_changed_rows_in_a_prepared_folder_are_rejected(
    task: TextTask, prepared: PreparedData, tmp_path: Path
) -> None:
    write_jsonl(tmp_path / "train.jsonl", parity_rows(0, 38))
    with pytest.raises(SpecError, match=r"data: was prepared from other data or settings \(train changed\)"):
        prepare(task, SMALL_MODEL, prepared.folder)
    assert prepare(task, SMALL_MODEL, tmp_path / "elsewhere").fingerprint != prepared.fingerprint


def test_prepare_failure_leaves_no_folder(task: TextTask, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "test.jsonl", [("a text", "prime")])
    with pytest.raises(SpecError):
        prepare(task, SMALL_MODEL, tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_prepare_single_file_puts_no_text_in_two_splits(task: TextTask, tmp_path: Path) -> None:
    path = write_jsonl(tmp_path / "all.jsonl", parity_rows(0, 50) * 2)
    one = changed(task, train=str(path), dev=None, test=None, split={"dev": 0.2, "test": 0.1})
    prepared = prepare(one, SMALL_MODEL, tmp_path / "data")
    assert prepared.sizes == {"train": 70, "meta_dev": 10, "select_dev": 10, "test": 10, "domain": 2}
    metadata = json.loads((prepared.folder / "data.json").read_text())
    assert not any(metadata["leaks"].values())
    assert metadata["duplicates"]["train"] == 35


def test_prepare_counts_leaks_duplicates_and_conflicts(task: TextTask, tmp_path: Path) -> None:
    rows = [*parity_rows(0, 40), *parity_rows(60, 63), ("text number 1 is odd", "even")]
    write_jsonl(tmp_path / "train.jsonl", rows)
    prepared = prepare(task, SMALL_MODEL, tmp_path / "data")
    assert prepared.sizes["train"] == 44
    assert prepared.notes == (
        "domain.txt: 1 blank line was passed over",
        "3 of 10 test rows have a text that also stands in train",
        "1 train texts carry more than one label",
    )


def test_prepare_orders_numeric_labels_by_value(task: TextTask, tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"text {i}", "label": i}) for i in range(12)]
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    write_jsonl(tmp_path / "dev.jsonl", [("a", "10"), ("b", "9")])
    write_jsonl(tmp_path / "test.jsonl", [("c", "2")])
    assert prepare(task, SMALL_MODEL, tmp_path / "data").labels == tuple(str(i) for i in range(12))


def test_prepare_unknown_label_is_rejected_with_its_row(task: TextTask, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "test.jsonl", [*parity_rows(60, 62), ("a text", "evn")])
    error_pattern = r"test\.jsonl:3: label: 'evn' is not a label of the training rows; did you mean 'even'\?"
    with pytest.raises(SpecError, match=error_pattern):
        prepare(task, SMALL_MODEL, tmp_path / "data")


def test_prepare_notes_a_class_without_dev_rows(task: TextTask, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "dev.jsonl", [row for row in parity_rows(40, 60) if row[1] == "odd"])
    assert "no select_dev row has the label even" in prepare(task, SMALL_MODEL, tmp_path / "data").notes


def test_prepare_missing_file_error_names_the_data_root(task: TextTask) -> None:
    missing = changed(task, dev="scierc/dev.jsonl")
    with pytest.raises(
        SpecError, match=r"task\.dev: no file /data/scierc/dev\.jsonl or .*--data DIR or RAYSEARCH_DATA$"
    ):
        prepare(missing, SMALL_MODEL, Path("unused"), Path("/data"))


def test_prepare_searches_the_data_root_before_the_task_folder(
    task: TextTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    root.mkdir()
    write_jsonl(root / "train.jsonl", parity_rows(0, 20))
    assert prepare(task, SMALL_MODEL, tmp_path / "data", root).sizes["train"] == 20
    monkeypatch.setenv("RAYSEARCH_DATA", str(root))
    assert prepare(task, SMALL_MODEL, tmp_path / "other").sizes["train"] == 20


def test_prepare_without_select_dev_rows_is_rejected(task: TextTask, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no rows are left for select_dev"):
        prepare(changed(task, dev=None, split={"dev": 0.0}), SMALL_MODEL, tmp_path / "data")


def test_prepare_pretrained_encoder_uses_its_tokenizer(task: TextTask, prepared: PreparedData, tmp_path: Path) -> None:
    encoder = {"path": str(prepared.folder / "tokenizer")}
    again = prepare(task, encoder, tmp_path / "again")
    assert again.fingerprint == prepared.fingerprint


def test_prepare_path_without_a_tokenizer_is_rejected(task: TextTask, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(SpecError, match=r"^model\.path: no tokenizer can be loaded from .*empty'"):
        prepare(task, {"path": str(tmp_path / "empty")}, tmp_path / "data")


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "sizes", "classes", "note"),
    [
        ("scierc", (3219, 455, 974), 7, ""),
        ("acl_arc", (1688, 114, 139), 6, "52 of 139 test rows have a text that also stands in train"),
        ("chemprot", (4169, 2427, 3469), 13, "4 of 3469 test rows have a text that also stands in train"),
        ("imdb", (2500, 500, 2000), 2, ""),
    ],
)
def test_prepare_data_sets_of_papers_have_known_sizes_and_leaks(
    tmp_path: Path, name: str, sizes: tuple[int, int, int], classes: int, note: str
) -> None:
    files = {split: f"{name}/{split}.jsonl" for split in ("train", "dev", "test")}
    prepared = prepare(TextTask(name=name, **files), TEXT_MODELS["tiny"], tmp_path / "data", DATA)
    observed = prepared.sizes
    assert (observed["train"], observed["meta_dev"] + observed["select_dev"], observed["test"]) == sizes
    assert len(prepared.labels) == classes
    assert not note or note in prepared.notes


# ---- further data of a task ----


@pytest.fixture
def further(task: TextTask, tmp_path: Path) -> TextTask:
    (tmp_path / "far.txt").write_text("quite another text\n")
    (tmp_path / "made.txt").write_text("a text that was made\nand one more\n")
    write_jsonl(tmp_path / "topic.jsonl", [("text number one", "a"), ("text number two", "b"), ("number", "c")])
    rows = [{"words": ["text", "number", "17"], "tags": ["NN", "NN", "CD"]}, {"words": ["odd"], "tags": ["JJ"]}]
    (tmp_path / "pos.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    extra = {"topic": ExtraTask(train="topic.jsonl"), "pos": ExtraTask(train="pos.jsonl", kind="token")}
    return changed(task, out_of_domain="far.txt", neural_lm="made.txt", extra=extra)


def test_prepare_extra_data_leave_other_splits_unchanged(task: TextTask, further: TextTask, tmp_path: Path) -> None:
    plain, more = prepare(task, SMALL_MODEL, tmp_path / "plain"), prepare(further, SMALL_MODEL, tmp_path / "more")
    assert more.sizes == {**plain.sizes, "out_of_domain": 1, "neural_lm": 2, "extra_topic": 3, "extra_pos": 2}
    for name in plain.sizes:
        assert (plain.folder / f"{name}.arrow").read_bytes() == (more.folder / f"{name}.arrow").read_bytes()
    metadata = json.loads((more.folder / "data.json").read_text())
    assert metadata["extra"]["extra_topic"] == {"kind": "sentence", "labels": ["a", "b", "c"]}
    assert metadata["extra"]["extra_pos"] == {"kind": "token", "labels": ["CD", "JJ", "NN"]}
    assert open_split(more.folder, "extra_topic").labels.tolist() == [0, 1, 2]
    assert open_split(more.folder, "neural_lm").labels is None
    assert prepare(further, SMALL_MODEL, more.folder) == more
    with pytest.raises(SpecError, match=r"\(extra changed\)"):
        prepare(
            changed(further, extra={**further.extra, "pos": replace(further.extra["pos"], label="words")}),
            SMALL_MODEL,
            more.folder,
        )


def test_prepare_word_tag_is_at_its_first_token(further: TextTask, tmp_path: Path) -> None:
    folder = prepare(further, SMALL_MODEL, tmp_path / "data").folder
    split, tokenizer = open_split(folder, "extra_pos"), AutoTokenizer.from_pretrained(str(folder / "tokenizer"))
    assert isinstance(split, TextSplit)
    assert split.tags is not None
    pieces = tokenizer.convert_ids_to_tokens(split.row(0).tolist())
    first = [number for number, piece in enumerate(pieces) if not piece.startswith(("##", "["))]
    tags = split.tags[: split.offsets[1]]
    assert tags[first].tolist() == [2, 2, 0]
    assert set(np.delete(tags, first).tolist()) == {-1}
    assert len(split.tags) == len(split.tokens)


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ({"words": ["a"]}, "1: tags: no such column; known: words"),
        ({"words": "a b", "tags": ["X", "Y"]}, "1: words: must be a list of words"),
        ({"words": ["a", "b"], "tags": ["X"]}, "1: tags: has 1 tags for 2 words"),
        ({"words": ["a", ""], "tags": ["X", "Y"]}, "1: words: is empty, or has an empty word"),
        ({"words": ["a"], "tags": ["X"]}, "only one label, 'X'; there must be at least two"),
    ],
)
def test_prepare_invalid_tagged_words_are_rejected_with_row(
    further: TextTask, tmp_path: Path, row: dict[str, object], problem: str
) -> None:
    (tmp_path / "pos.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(SpecError) as error:
        prepare(further, SMALL_MODEL, tmp_path / "data")
    assert str(error.value).startswith(f"{tmp_path / 'pos.jsonl'}:")
    assert problem in str(error.value)


@pytest.fixture
def half_labelled(tmp_path: Path) -> Path:
    """A file of 40 rows, of which every fourth has no label."""
    labels = [None if i % 4 == 0 else ["even", "odd"][i % 2] for i in range(40)]
    rows = [json.dumps({"text": f"text number {i}", "label": label}) for i, label in enumerate(labels)]
    (tmp_path / "half.jsonl").write_text("\n".join(rows))
    return tmp_path / "half.jsonl"


def test_prepare_counts_unlabelled_train_rows_as_domain(half_labelled: Path, tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text("a line of the domain\n")
    task = TextTask(name="t", train=str(half_labelled), domain=str(tmp_path / "more.txt"))
    prepared = prepare(task, SMALL_MODEL, tmp_path / "data")
    assert prepared.sizes["domain"] == 11
    assert sum(prepared.sizes[name] for name in ("train", "meta_dev", "select_dev", "test")) == 30
    assert prepared.labels == ("even", "odd")
    assert f"10 rows of {half_labelled} have no label: they are unlabelled text of the domain" in prepared.notes


def test_domain_rest_is_the_unlabelled_rows_of_train(half_labelled: Path, tmp_path: Path) -> None:
    task = TextTask(name="t", train=str(half_labelled), domain="rest")
    assert task.missing_key("in_domain") == ""
    assert prepare(task, SMALL_MODEL, tmp_path / "data").sizes["domain"] == 10
    lines = [line for line in half_labelled.read_text().split("\n") if "null" not in line]
    half_labelled.write_text("\n".join(lines))
    with pytest.raises(SpecError, match=r"task.domain: every row of train has a label"):
        prepare(task, SMALL_MODEL, tmp_path / "other")


def test_dev_row_without_a_label_is_refused(half_labelled: Path, tmp_path: Path) -> None:
    task = TextTask(name="t", train=str(half_labelled), dev=str(half_labelled))
    with pytest.raises(SpecError, match=r"half.jsonl:1: label: the label is empty"):
        prepare(task, SMALL_MODEL, tmp_path / "data")


@pytest.mark.parametrize("part", ["dev", "test"])
def test_prepare_leaves_out_a_split_of_hidden_labels(task: TextTask, tmp_path: Path, part: str) -> None:
    write_jsonl(tmp_path / f"{part}.jsonl", [(f"text number {i}", "-1") for i in range(70, 90)])
    prepared = prepare(task, SMALL_MODEL, tmp_path / "data")
    assert prepared.labels == ("even", "odd")
    assert prepared.notes[0].startswith(
        f"{part}.jsonl: every label is -1 or empty, as if not published; it is left out"
    )
    held_out = prepared.sizes["test"] if part == "test" else prepared.sizes["meta_dev"] + prepared.sizes["select_dev"]
    assert held_out == 4  # a tenth of train


def test_prepare_with_some_hidden_labels_names_the_row(task: TextTask, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "test.jsonl", [("text number 7", "odd"), ("text number 8", "-1")])
    with pytest.raises(SpecError, match=r"test\.jsonl:2: label: '-1' is not a label of the training rows"):
        prepare(task, SMALL_MODEL, tmp_path / "data")


def test_prepare_with_rare_labels_keeps_them_in_train(task: TextTask, tmp_path: Path) -> None:
    rows = [(f"text {i} of {i % 10}", f"topic{i % 10:02}") for i in range(30)]
    write_jsonl(tmp_path / "train.jsonl", rows + [(f"text {i}", "common") for i in range(70)])
    alone = replace(task, dev=None, test=None, domain=None)
    prepared = prepare(alone, SMALL_MODEL, tmp_path / "data")
    assert len(prepared.labels) == 11
    assert not [note for note in prepared.notes if "no test row" in note]


def test_prepare_with_a_test_file_without_labels_leaves_it_out(task: TextTask, tmp_path: Path) -> None:
    write_jsonl(tmp_path / "test.jsonl", [(f"text number {i}", "") for i in range(70, 90)])
    assert prepare(task, SMALL_MODEL, tmp_path / "data").sizes["test"] == 4
    write_jsonl(tmp_path / "test.jsonl", [("text number 71", "odd"), ("text number 72", "")])
    with pytest.raises(SpecError, match=r"test\.jsonl:2: label: the label is empty"):
        prepare(task, SMALL_MODEL, tmp_path / "other")


def test_prepare_notes_texts_without_tokens(task: TextTask, tmp_path: Path) -> None:
    for part, start in (("train", 0), ("test", 60)):
        rows = [*parity_rows(start, start + 10), ("\u200b", "odd"), ("\u200b\u200b", "even")]
        write_jsonl(tmp_path / f"{part}.jsonl", rows)
    notes = prepare(task, SMALL_MODEL, tmp_path / "data").notes
    for part in ("train", "test"):
        assert f"{part}: texts without a token, such as those of invisible characters: 2" in notes


def test_prepare_reads_class_numbers_by_the_names_of_train(task: TextTask, tmp_path: Path) -> None:
    stored = json.dumps({"info": {"features": {"label": {"names": ["even", "odd"], "_type": "ClassLabel"}}}})
    texts = [text for text, _ in parity_rows(0, 40)]
    table = pa.table({"text": texts, "label": [i % 2 for i in range(40)]}).replace_schema_metadata(
        {"huggingface": stored}
    )
    pq.write_table(table, tmp_path / "train.parquet")
    (tmp_path / "test.csv").write_text("text,label\nnumber 71,1\nnumber 72,0\n")
    prepared = prepare(replace(task, train="train.parquet", test="test.csv"), SMALL_MODEL, tmp_path / "data")
    assert prepared.labels == ("even", "odd")
    assert open_split(prepared.folder, "test").labels.tolist() == [1, 0]
