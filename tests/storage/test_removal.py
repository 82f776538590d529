from __future__ import annotations

from pathlib import Path

import pytest

from raysearch.errors import RunError
from raysearch.storage.lock import take_lock
from raysearch.storage.removal import folder_size, remove_run
from raysearch.storage.run import run_names


def make_run(folder: Path) -> Path:
    (folder / "tables").mkdir(parents=True)
    (folder / "tables" / "trials.arrow").write_bytes(b"x" * 100)
    return folder


def test_remove_run_deletes_the_folder_and_nothing_beyond(tmp_path: Path) -> None:
    run, outside = make_run(tmp_path / "runs" / "first"), tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    (run / "link").symlink_to(outside)
    (run / "file-link").symlink_to(outside / "kept")
    assert 100 <= folder_size(run) < 1000
    remove_run(run)
    assert list((tmp_path / "runs").iterdir()) == []
    assert (outside / "kept").read_text() == "kept"


def test_remove_run_refuses_a_link_and_keeps_its_target(tmp_path: Path) -> None:
    run = make_run(tmp_path / "first")
    (tmp_path / "alias").symlink_to(run)
    with pytest.raises(RunError, match="is a link to"):
        remove_run(tmp_path / "alias")
    assert (run / "tables" / "trials.arrow").exists()


def test_remove_run_refuses_a_run_that_is_written(tmp_path: Path) -> None:
    run = make_run(tmp_path / "first")
    with take_lock(run), pytest.raises(RunError, match="is writing this run"):
        remove_run(run)
    assert (run / "tables").is_dir()


def test_remove_run_refuses_what_is_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunError, match="is no run"):
        remove_run(tmp_path)
    run = make_run(tmp_path / "first")
    monkeypatch.chdir(run / "tables")
    with pytest.raises(RunError, match="is no run that can be removed from here"):
        remove_run(run)


def test_half_removed_run_is_not_listed_and_goes_with_the_next(tmp_path: Path) -> None:
    make_run(tmp_path / ".removed-first")
    run = make_run(tmp_path / "first")
    assert run_names(tmp_path) == ["first"]
    remove_run(run)
    assert list(tmp_path.iterdir()) == []
