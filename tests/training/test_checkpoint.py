import re
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from safetensors.torch import save_file

from raysearch.errors import RunError
from raysearch.storage.schemas import Report
from raysearch.training import checkpoint
from raysearch.training.checkpoint import TrialFolder
from raysearch.version import version_of


def test_checkpoint_round_trip_keeps_the_tree(tmp_path: Path) -> None:
    tree = {
        "tensor": torch.arange(6.0).reshape(2, 3).T,
        "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 0.1, "params": [0, 1]}]},
        "none": None,
        "float": 0.1 + 0.2,
        "empty": {},
        "text": "\u00e9",
    }
    checkpoint.save(tmp_path / "a.safetensors", tree)
    loaded = checkpoint.load(tmp_path / "a.safetensors")
    assert torch.equal(loaded.pop("tensor"), tree.pop("tensor"))
    assert loaded["optimizer"]["state"][0]["step"].item() == 3
    assert loaded["optimizer"]["param_groups"] == tree["optimizer"]["param_groups"]
    assert {name: loaded[name] for name in ("none", "float", "empty", "text")} == {
        "none": None, "float": 0.1 + 0.2, "empty": {}, "text": "\u00e9",
    }  # fmt: skip


def test_checkpoint_is_replaced_atomically(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, {"x": torch.zeros(3)})
    (tmp_path / "a.safetensors.tmp").write_bytes(b"half")  # a killed writer leaves this
    assert torch.equal(checkpoint.load(path)["x"], torch.zeros(3))
    checkpoint.save(path, {"x": torch.ones(3)})
    assert torch.equal(checkpoint.load(path)["x"], torch.ones(3))


def test_damaged_checkpoint_raises_one_line_error(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00not a header at all")
    with pytest.raises(RunError, match=r"a\.safetensors: not a readable checkpoint"):
        checkpoint.load(path)


def interrupted_attempt(folder: Path) -> TrialFolder:
    """Writes the files that an interrupted attempt leaves."""
    files = TrialFolder(folder)
    files.add_report(Report(2, {"step": 2, "score": 0.25}, pa.RecordBatch.from_pylist([{"step": 1, "weight": 0.5}])))
    for path in (files.state, files.best):
        checkpoint.save(path, {"x": torch.arange(9.0)})
    return files


def test_trial_folder_of_earlier_attempt_is_ready_to_resume(tmp_path: Path) -> None:
    files = interrupted_attempt(tmp_path)
    before = sorted(path.name for path in tmp_path.iterdir())
    assert files.ready() == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == before
    assert TrialFolder(tmp_path / "fresh").ready() == ""


@pytest.mark.parametrize(("format", "written"), [(7, "of format 7 by raysearch {}"), (None, "of an earlier raysearch")])
def test_checkpoint_of_other_format_restarts_trial_with_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: int | None, written: str
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "FORMAT", format)
        if format is None:
            patch.setattr(
                checkpoint, "save_file", lambda tensors, path, metadata: save_without_format(tensors, path, metadata)
            )
        files = interrupted_attempt(tmp_path)
    reader = f"raysearch {version_of('raysearch')}"
    line = (
        f"a checkpoint {written.format(version_of('raysearch'))}, and {reader} resumes from format {checkpoint.FORMAT}"
    )
    assert files.ready() == f"{files.state}: {line}; the trial restarts from scratch"
    assert list(tmp_path.iterdir()) == []


def save_without_format(tensors: dict[str, torch.Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Saves a checkpoint as it was before formats had numbers."""
    save_file(tensors, path, metadata={"tree": metadata["tree"]})


@pytest.mark.parametrize("name", ["state.safetensors", "best.safetensors", "report-000000002.arrow"])
@pytest.mark.parametrize("byte_count", [0, 7, 100, -1])
def test_truncated_trial_file_restarts_trial_with_reason(tmp_path: Path, name: str, byte_count: int) -> None:
    files = interrupted_attempt(tmp_path)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:byte_count])
    assert re.match(
        rf"{tmp_path / name}: not a readable (checkpoint|report) .*; the trial restarts from scratch", files.ready()
    )
    assert list(tmp_path.iterdir()) == []


def test_reports_are_replayed_up_to_a_step_until_cleared(tmp_path: Path) -> None:
    files = TrialFolder(tmp_path)
    weights = pa.RecordBatch.from_pylist([{"step": 1, "weight": 0.5}])
    for step, batch in ((2, weights), (4, None), (6, None)):
        files.add_report(Report(step, {"step": step, "score": 0.25}, batch, last=step == 6))
    checkpoint.save(files.best, {"x": torch.zeros(1)})
    replayed_reports = files.reports(through=4)
    assert [(r.step, r.evaluation["score"], r.replayed, r.last) for r in replayed_reports] == [
        (2, 0.25, True, False), (4, 0.25, True, False),
    ]  # fmt: skip
    assert replayed_reports[0].weights is not None
    assert replayed_reports[0].weights.equals(weights)
    assert replayed_reports[1].weights is None
    files.clear()
    assert [path.name for path in tmp_path.iterdir()] == ["best.safetensors"]
