"""Tasks on tables of numbers: declaration, rows, preparation, primitives, training."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers.plans import tiny_plan
from helpers.resume import assert_resume_is_bit_equal
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score

import raysearch
from raysearch.config.loading import parse_search
from raysearch.config.search_config import Search
from raysearch.errors import RunError, SpecError
from raysearch.export.exporter import export
from raysearch.modalities.batch import Targets
from raysearch.modalities.loading import load_space
from raysearch.modalities.losses import example_losses
from raysearch.modalities.opening import open_split, prepare
from raysearch.modalities.table import planted
from raysearch.modalities.table.config import Planted, TableTask
from raysearch.modalities.table.primitives import above_mean, half, restore
from raysearch.modalities.table.readers import read_table
from raysearch.modalities.table.taxonomy import TAXONOMY
from raysearch.objectives.objective import Objective
from raysearch.plan import TrialPlan
from raysearch.reports.page import write_html
from raysearch.rng import stream
from raysearch.training.metrics import score
from raysearch.training.trainer import train

TRANSFORMS = TAXONOMY.functions("transform")
MLP = {"mlp": [8, 4], "activation": "tanh"}
SMALL_PLANTED = Planted(dim=12, rank=2, helpful=4, harmful=6, rows=60, train=20, meta_dev=20, select_dev=40, test=30)
QUICK_SETTINGS: dict[str, Any] = {"steps": 4, "eval_every": 2, "batch_size": 6, "aux_batch_size": 20, "m": 4, "k": 2}
META_SETTINGS = {"dev_head_examples": 8, "dev_head_steps": 2, "meta_batch_size": 8, "objectives_per_step": 0}


# ---- planted ----


def test_planted_helpful_labels_follow_end_task_directions_only() -> None:
    config = replace(SMALL_PLANTED, rows=4000, noise=0.0)
    tables = planted.draw_tables(config)
    U = planted._draw_directions(config, np.random.default_rng([0, 0]))[0]

    def explained_variance(name: str) -> float:
        z = tables[name].features @ U.T
        activations = np.column_stack([np.tanh(2 * z), np.ones(len(z))])
        coefficients, *_ = np.linalg.lstsq(activations, tables[name].labels, rcond=None)
        return float(r2_score(tables[name].labels, activations @ coefficients))

    assert [explained_variance(f"extra_{i}") for i in (1, 2, 3, 4)] == pytest.approx([1] * 4)
    assert [explained_variance(f"extra_{i}") for i in (5, 7, 10)] == pytest.approx([0] * 3, abs=0.02)


@pytest.mark.parametrize("teacher", ["tanh", "product"])
def test_planted_labels_without_noise_have_unit_variance(teacher: str) -> None:
    tables = planted.draw_tables(replace(SMALL_PLANTED, rows=20000, noise=0.0, teacher=teacher))
    assert [tables[f"extra_{i}"].labels.var() for i in (1, 6)] == pytest.approx([1, 1], rel=0.1)


def test_planted_tables_are_deterministic_and_independent() -> None:
    one, same = planted.draw_tables(SMALL_PLANTED), planted.draw_tables(replace(SMALL_PLANTED, rows=50))
    assert np.array_equal(one["train"].features, same["train"].features)
    assert not np.array_equal(
        one["train"].features, planted.draw_tables(replace(SMALL_PLANTED, draw=1))["train"].features
    )
    assert [len(one[name].labels) for name in ("train", "meta_dev", "select_dev", "test", "extra_1")] == [
        20,
        20,
        40,
        30,
        60,
    ]


def test_planted_unrelated_labels_cannot_be_predicted() -> None:
    table = planted.draw_tables(replace(SMALL_PLANTED, helpful=0, harmful=0, unrelated=1, rows=4000))["extra_1"]
    assert (
        Ridge().fit(table.features[:2000], table.labels[:2000]).score(table.features[2000:], table.labels[2000:]) < 0.01
    )


# ---- a user's files ----


def write_table_file(folder: Path, suffix: str, rows: int = 60, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    x = rng.normal(3, 2, (rows, 3)).round(4)
    columns = {"a": x[:, 0], "b": x[:, 1], "c": x[:, 2], "price": x @ [1, -2, 0.5], "rent": x @ [1, 1, 1]}
    path = folder / f"rows{seed}{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.table(columns), path)
    elif suffix == ".npz":
        np.savez(path, **columns)
    else:
        lines = [",".join(columns), *(",".join(f"{v:.6f}" for v in row) for row in zip(*columns.values(), strict=True))]
        path.write_text("\n".join(lines) + "\n")
    return path


def declared(path: Path, **more: Any) -> dict[str, Any]:
    task = {"kind": "table", "name": "houses", "train": path.name, "label": "price", "base": str(path.parent)}
    return {**task, "extra": {"rent": {"train": path.name, "label": "rent"}}, **more}


def search(task: Any, **more: Any) -> Search:
    return Search.from_dict(
        {"name": "tables", "task": task, "model": MLP, "method": {"weighting": "end_task_only"}, **more}
    )


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npz"])
def test_prepare_table_splits_rows_and_standardises_labels(tmp_path: Path, suffix: str) -> None:
    task = search(declared(write_table_file(tmp_path, suffix))).task
    prepared = prepare(task, MLP, tmp_path / "data")
    assert prepared.sizes == {"train": 48, "meta_dev": 3, "select_dev": 3, "test": 6, "extra_rent": 60}
    metadata = json.loads((tmp_path / "data" / "data.json").read_text())
    assert metadata["features"] == ["a", "b", "c"]
    train_rows = open_split(tmp_path / "data", "train")
    assert train_rows.labels.mean() == pytest.approx(0, abs=1e-6)
    assert train_rows.labels.std() == pytest.approx(1)
    raw = train_rows.features @ np.array([1, -2, 0.5])
    assert train_rows.labels * metadata["label"]["std"] + metadata["label"]["mean"] == pytest.approx(raw, abs=1e-3)
    extra = open_split(tmp_path / "data", "extra_rent")
    assert np.corrcoef(extra.labels, extra.features.sum(axis=1))[0, 1] == pytest.approx(1)


def test_prepare_table_splits_csv_and_parquet_equally(tmp_path: Path) -> None:
    rows = []
    for suffix in (".csv", ".parquet"):
        folder = tmp_path / suffix
        folder.mkdir()
        prepare(search(declared(write_table_file(folder, suffix))).task, MLP, folder / "data")
        rows.append(open_split(folder / "data", "test").features)
    np.testing.assert_allclose(np.sort(rows[0], axis=0), np.sort(rows[1], axis=0))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1,2,oops,4,5", r"rows0.csv:62: c: not a finite number: 'oops'"),
        ("1,2,nan,4,5", r"rows0.csv:62: c: not a finite number: 'nan'"),
        ("1,2,3,,5", r"rows0.csv:62: price: not a finite number: ''"),
    ],
)
def test_read_table_non_number_is_rejected_with_its_line(tmp_path: Path, line: str, message: str) -> None:
    path = write_table_file(tmp_path, ".csv")
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(SpecError, match=message):
        read_table(path, "price", numbers=True, others=frozenset({"rent"}))


def test_read_table_unknown_column_suggests_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="no column 'pice'; did you mean 'price'"):
        read_table(write_table_file(tmp_path, ".parquet"), "pice", numbers=True)


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"kind": "table", "name": "houses"}, "must have one of train: PATH and planted"),
        ({"kind": "table", "name": "p", "planted": {"dim": 6}}, "planted.dim: must be at least 8"),
        ({"kind": "table", "name": "p", "planted": {}, "test": "x.csv"}, "task.test: is not used: the tables"),
        ({"kind": "table", "name": "p", "planted": {"rows": 1}}, r"planted.rows: must be in \[2, inf\)"),
        ({"kind": "table", "name": "h", "train": "a", "split": {"dve": 0.1}}, "split.dve: .* did you mean 'dev'"),
        ({"kind": "table", "name": "h", "train": "a", "split": {"dev": 1}}, r"split.dev: must be a share in \[0, 1\)"),
        ({"kind": "table", "name": "h", "train": "a", "split": {"dev": 0.5, "test": 0.5}}, "split: .* shares sum to 1"),
        ({"kind": "table", "name": "h", "train": "a", "extra": {"B": {"train": "b"}}}, "extra.B: a name has only"),
    ],
)
def test_table_task_with_invalid_config_is_rejected(task: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        search(task)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "tiny"}, "model: is no model for tables; such as mlp"),
        ({"model": {"path": "x"}}, "model: is no model for tables; such as mlp"),
        ({"space": "image_td"}, "space: image_td has objectives on images, and the task is of tables"),
        (
            {"task": {"kind": "table", "name": "p", "planted": {"harmful": 5}}},
            r"objectives on extra_10 rows, and the task has no `planted: {helpful \+ harmful \+ unrelated: 10}`",
        ),
        ({"settings": {"max_length": 9}}, "settings.max_length: has no effect on tables"),
    ],
)
def test_table_task_with_parts_of_other_modalities_is_rejected(change: dict[str, Any], message: str) -> None:
    plain = {"task": "planted", "model": "mlp", "space": "planted", "method": {"weighting": "static"}}
    with pytest.raises(SpecError, match=message):
        parse_search({"name": "x", **plain, **change})


def test_table_search_round_trips_through_json(tmp_path: Path) -> None:
    for task in ("planted", {"kind": "table", "name": "p", "planted": {"rank": 3}}, declared(tmp_path / "x.csv")):
        one = search(task)
        assert Search.from_dict(json.loads(json.dumps(one.to_dict()))) == one


# ---- primitives and losses ----


@pytest.mark.parametrize("name", TRANSFORMS)
def test_table_transform_reports_what_it_changed(name: str) -> None:
    features = torch.randn(40, 10, generator=stream(0, "x", 0))
    seen, changed = TRANSFORMS[name](features, 0.3, stream(0, "t", 0))
    assert torch.equal(seen[~changed], features[~changed])
    assert changed.float().mean().item() == pytest.approx({"none": 0, "mask": 0.3, "swap": 0.3}.get(name, 1), abs=0.1)
    if name in ("swap", "shuffle"):
        assert all(set(seen[:, i].tolist()) <= set(features[:, i].tolist()) for i in range(10))


def test_half_representation_hides_half_of_the_features() -> None:
    hidden = half(torch.zeros(50, 20), stream(0, "r", 0))
    assert hidden.float().mean().item() == pytest.approx(0.5, abs=0.05)


def test_table_losses_match_values_by_hand() -> None:
    head = torch.nn.Linear(3, 1)
    hidden, labels = torch.randn(5, 1, 3), torch.tensor([0.5, -1.0, 0.0, 2.0, -0.1])
    outputs = head(hidden[:, 0])
    assert example_losses(outputs, labels).tolist() == pytest.approx(((outputs[:, 0] - labels) ** 2).tolist())
    targets = Targets(torch.zeros(5, 3), torch.ones(5, 3, dtype=torch.bool), labels, 0, 5)
    y = torch.tensor([1.0, 0, 0, 1, 0])
    p = torch.sigmoid(outputs[:, 0])
    expected = -(y * p.log() + (1 - y) * (1 - p).log()).mean().item()
    assert above_mean(hidden, targets, head).item() == pytest.approx(expected, rel=1e-5)
    restored = torch.tensor([[True, False, False], [True, True, False]])
    zero = torch.nn.Linear(3, 3)
    torch.nn.init.zeros_(zero.weight)
    torch.nn.init.zeros_(zero.bias)
    row = Targets(torch.tensor([[1.0, 9, 9], [1, 3, 9]]), restored, labels[:2], 0, 2)
    assert restore(hidden[:2], row, zero).item() == pytest.approx((1 + (1 + 9) / 2) / 2)


def test_r2_matches_its_definition() -> None:
    outputs, labels = torch.tensor([[1.0], [2], [4]]), torch.tensor([1.0, 2, 3])
    assert score("r2", labels, outputs) == pytest.approx(1 - 1 / 2)


# ---- training ----


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("planted") / "data"
    prepare(TableTask(name="planted", planted=SMALL_PLANTED), MLP, folder)
    return folder


def plan(data: Path, weighting: str = "static", surgery: str = "none", **more: Any) -> TrialPlan:
    known = tiny_plan(data, weighting, surgery).settings
    settings = {key: value for key, value in {**QUICK_SETTINGS, **META_SETTINGS, **more}.items() if key in known}
    objectives = () if weighting == "end_task_only" else load_space("planted").objectives
    return replace(tiny_plan(data, weighting, surgery, **settings), objectives=objectives, model=MLP)


@pytest.mark.parametrize(
    ("weighting", "surgery"),
    [("end_task_only", "none"), ("static", "attittud"), ("static", "gcs"), ("aang", "none"), ("meta_tartan", "none")],
)
def test_table_methods_train_to_the_last_step(data: Path, tmp_path: Path, weighting: str, surgery: str) -> None:
    reports = list(train(plan(data, weighting, surgery), folder=tmp_path))
    assert reports[-1].last
    assert all(report.evaluation["score"] < 1 for report in reports)
    assert reports[-1].evaluation["metric"] == "r2"


def test_table_objectives_have_finite_losses(data: Path, tmp_path: Path) -> None:
    named = [("extra_1", "extra_label"), ("extra_2", "above_mean"), ("end_task", "restore"), ("end_task", "end_task")]
    for number, (source, output) in enumerate(named):
        objective = Objective(data=source, transform="swap", representation="half", output=output)
        one = replace(plan(data, steps=1, eval_every=1), objectives=(objective,))
        (report,) = train(one, folder=tmp_path / str(number))
        assert 0 < report.evaluation["aux_loss"] < 10, objective.name


def test_table_trial_resume_is_bit_equal(data: Path, tmp_path: Path) -> None:
    assert_resume_is_bit_equal(plan(data, "aang", steps=6), tmp_path)


def test_table_classification_is_prepared_and_trained(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 3))
    np.savez(tmp_path / "rows.npz", features=x, label=np.where(x[:, 0] > 0, "up", "down"), other=x[:, 1])
    task = {"kind": "table", "name": "signs", "train": "rows.npz", "metric": "accuracy", "base": str(tmp_path)}
    task["extra"] = {"other": {"train": "rows.npz", "label": "other"}}
    folder = tmp_path / "data"
    prepared = prepare(search(task).task, MLP, folder)
    assert prepared.labels == ("down", "up")
    assert prepared.notes == ()  # that the extra table has the same rows is what it is for
    leaking = prepare(search(task | {"dev": "rows.npz", "test": "rows.npz"}).task, MLP, tmp_path / "leaking")
    assert leaking.notes[0] == "200 of 200 meta_dev rows have features that also stand in train"
    objective = Objective(data="extra_other", transform="none", representation="full", output="extra_label")
    one = replace(plan(folder, "aang", steps=40, eval_every=40, lr=1e-2), objectives=(objective,))
    (report,) = train(one, folder=tmp_path / "trial")
    assert 0.5 < report.evaluation["score"] <= 1


@pytest.mark.slow
def test_table_search_is_reported_and_its_export_rejected(tmp_path: Path) -> None:
    task = {"kind": "table", "name": "planted", "planted": {"rows": 60, "select_dev": 40, "test": 40}}
    settings = {key: value for key, value in QUICK_SETTINGS.items() if key not in ("m", "k")}
    run = raysearch.launch(
        Search.from_dict(
            {
                "name": "drawn",
                "task": task,
                "model": MLP,
                "space": "planted",
                "method": {"weighting": "gates"},
                "settings": settings,
                "baselines": {"fine_tune": {"method": {"weighting": "end_task_only"}}},
                "executor": "in_process",
                "runs": str(tmp_path / "runs"),
            }
        ),
        progress=False,
    )
    assert run.status()["metric"] == "r2"
    assert run.best()["score"] < 1
    assert "r2" in write_html(run).read_text()
    with pytest.raises(RunError, match="models of tables are not exported"):
        export(run, tmp_path / "model")


# ---- what other programs write ----


def read_csv(path: Path, header: str, rows: list[str], **options: Any) -> Any:
    path.write_text("\n".join([header, *rows]) + "\n")
    return read_table(path, "label", numbers=False, **options)


@pytest.mark.parametrize("shown", ["{}", "{}.0"])
@pytest.mark.parametrize("order", [1, 7])
def test_column_of_row_numbers_in_any_order_is_no_feature(tmp_path: Path, shown: str, order: int) -> None:
    rows = [f"{shown.format(i * order % 20)},{i % 3}.5,{'ab'[i > 9]}" for i in range(20)]
    assert read_csv(tmp_path / "a.csv", "key,x,label", rows).names == ("x",)
    rows = [f"{shown.format(i * order % 20 * 3)},{i % 3}.5,{'ab'[i > 9]}" for i in range(20)]
    assert read_csv(tmp_path / "a.csv", "index,x,label", rows).names == ("x",)
    assert read_csv(tmp_path / "a.csv", "rank,x,label", rows).names == ("rank", "x")


@pytest.mark.parametrize("name", ["", "Unnamed: 0", "Unnamed: 0.1", "__index_level_0__", "level_0", "id"])
def test_column_that_numbers_the_rows_is_no_feature(tmp_path: Path, name: str) -> None:
    rows = [f"{i},{i % 3}.5,{'ab'[i > 9]}" for i in range(20)]
    table = read_csv(tmp_path / "a.csv", f"{name},x,label", rows)
    assert table.names == ("x",)
    problem = "numbers the rows and is no feature; list it in `features:` if it is one"
    assert table.notes == (f"a.csv: {name!r} {problem}",)
    assert read_csv(tmp_path / "a.csv", f"{name},x,label", rows, features=(name, "x")).names == (name, "x")


def test_index_that_pandas_stores_is_no_feature(tmp_path: Path) -> None:
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"x": [0.5, 1.5, 2.5, 0.1], "label": list("abab")}, index=pd.Index([7, 3, 9, 4], name="key"))
    frame.to_parquet(tmp_path / "a.parquet")
    table = read_table(tmp_path / "a.parquet", "label", numbers=False)
    assert table.names == ("x",)
    assert table.notes == ("a.parquet: 'key' numbers the rows and is no feature; list it in `features:` if it is one",)


def test_column_of_distinct_whole_numbers_is_noted(tmp_path: Path) -> None:
    rows = [f"{i * 7919 % 10007},{i % 5}.5,{'ab'[i % 2]}" for i in range(60)]
    table = read_csv(tmp_path / "a.csv", "cents,x,label", rows)
    assert table.names == ("cents", "x")
    assert table.notes[0].startswith("a.csv: 'cents' has another whole number in every row; if it identifies rows")


def test_table_of_an_index_alone_has_no_features(tmp_path: Path) -> None:
    with pytest.raises(
        SpecError, match=r"a\.csv: label: there is no column beside the labels: no features; a\.csv: ''"
    ):
        read_csv(tmp_path / "a.csv", ",label", [f"{i},a" for i in range(3)])


@pytest.mark.parametrize("value", ["1e39", "-4e38", "1_000", "", "nan", "inf", "1,5", "0x10", "\uff11\uff12"])
def test_value_that_is_no_float32_names_its_place(tmp_path: Path, value: str) -> None:
    with pytest.raises(SpecError, match=r"a\.csv:3: x: "):
        read_csv(tmp_path / "a.csv", "x;label", ["1;a", f"{value};b"])


def test_value_of_hundreds_of_digits_names_its_place(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"x": 1, "label": "a"}\n{"x": 1' + "0" * 400 + ', "label": "b"}\n')
    with pytest.raises(SpecError, match=r"a\.jsonl:2: x: not a finite number"):
        read_table(tmp_path / "a.jsonl", "label", numbers=False)


def test_column_that_float32_blurs_is_noted(tmp_path: Path) -> None:
    rows = [f"{1_700_000_000 + 300 * (i % 7)},0.1,{'ab'[i % 2]}" for i in range(20)]
    (note,) = read_csv(tmp_path / "a.csv", "time,constant,label", rows).notes
    assert note.startswith("a.csv: 'time': 7 digits are kept of a number")
    rows = [f"{1_700_000_000 + i % 7},{'ab'[i % 2]}" for i in range(20)]
    with pytest.raises(SpecError, match=r"a\.csv:3: time: float32 does not tell 1700000001\.0 from 1700000000\.0"):
        read_csv(tmp_path / "a.csv", "time,label", rows)
    with pytest.raises(SpecError, match=r"a\.csv:3: x: float32 does not tell 1e-300 from 0\.0"):
        read_csv(tmp_path / "a.csv", "x,label", ["0,a", "1e-300,b"])


@pytest.mark.parametrize("scale", [1e-30, 1e-9, 1.0, 1e9, 1e30])
def test_features_are_normalised_at_any_scale(tmp_path: Path, scale: float) -> None:
    x = np.random.default_rng(0).normal(size=200) + 3
    np.savez(tmp_path / "rows.npz", x=x * scale, constant=np.full(200, 0.1 * scale), label=np.where(x > 3, "a", "b"))
    task = {"kind": "table", "name": "t", "train": "rows.npz", "metric": "accuracy", "base": str(tmp_path)}
    prepare(search(task).task, MLP, tmp_path / "data")
    metadata = json.loads((tmp_path / "data" / "data.json").read_text())
    features = open_split(tmp_path / "data", "train").features
    normalised = (features - np.float32(metadata["mean"])) / np.float32(metadata["std"])
    assert normalised[:, 0].mean() == pytest.approx(0, abs=2e-3)
    assert normalised[:, 0].std() == pytest.approx(1, rel=2e-3)
    assert np.abs(normalised[:, 1]).max() < 1e-3 * max(scale, 1)


def test_labels_that_are_one_number_are_rejected_exactly(tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", x=np.arange(30.0) ** 2, label=np.full(30, 0.1))
    task = {"kind": "table", "name": "t", "train": "rows.npz", "base": str(tmp_path)}
    with pytest.raises(SpecError, match=r"all labels are 0\.1: there is nothing to learn"):
        prepare(search(task).task, MLP, tmp_path / "data")


def test_archive_that_is_damaged_names_its_file(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.arange(500.0), label=np.arange(500))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[300:400] = bytes(100)
    cases = {"damaged": bytes(content), "cut": bytes(content[:900]), "text": b"x,label\n1,a\n", "empty": b""}
    for name, data in cases.items():
        (tmp_path / f"{name}.npz").write_bytes(data)
        with pytest.raises(SpecError, match=rf"{name}\.npz: "):
            read_table(tmp_path / f"{name}.npz", "label", numbers=False)
    np.save(tmp_path / "array.npy", np.arange(5))
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    with pytest.raises(SpecError, match=r"array\.npz: is a single array \(\.npy\), not an archive"):
        read_table(tmp_path / "array.npz", "label", numbers=False)


def test_table_hidden_test_labels_leave_the_split_out(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=40)
    np.savez(tmp_path / "train.npz", x=x, label=(x > 0).astype(int))
    np.savez(tmp_path / "test.npz", x=x + 9, label=np.full(40, -1))
    task = {"kind": "table", "name": "t", "train": "train.npz", "test": "test.npz", "metric": "accuracy"}
    prepared = prepare(search(task | {"base": str(tmp_path)}).task, MLP, tmp_path / "data")
    assert prepared.sizes["test"] == 4
    assert prepared.notes[0].startswith("test.npz: every label is -1")
