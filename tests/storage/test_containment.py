"""What a run's folder may hold, and what is removed from it."""

import os
from pathlib import Path

import pytest

from raysearch.errors import RunError
from raysearch.storage.containment import check_contained, path_inside, remove_inside
from raysearch.storage.names import is_plain

HOSTILE_NAMES = ["", ".", "..", "../x", "/abs", "a/b", "a\\b", "a b", "-rf", ".hidden", "a\n", "\x1b[2J", "a" * 201]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run's folder beside a victim's."""
    (tmp_path / "victim").mkdir()
    (tmp_path / "victim" / "precious").write_text("kept")
    (tmp_path / "run" / "trials").mkdir(parents=True)
    return tmp_path / "run"


def is_intact(folder: Path) -> bool:
    return (folder.parent / "victim" / "precious").read_text() == "kept"


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_name_that_is_no_plain_word_becomes_no_path(folder: Path, name: str) -> None:
    assert not is_plain(name)
    for act in (path_inside, remove_inside):
        with pytest.raises(RunError, match="cannot be the name of a file of a run"):
            act(folder, "trials", name)
    assert is_intact(folder)


def test_remove_inside_removes_files_folders_and_links(folder: Path) -> None:
    (folder / "trials" / "a" / "deep").mkdir(parents=True)
    (folder / "trials" / "b").write_text("")
    (folder / "trials" / "c").symlink_to(folder.parent / "victim")
    for name in ("a", "b", "c", "absent"):
        remove_inside(folder, "trials", name)
    assert list((folder / "trials").iterdir()) == []
    assert is_intact(folder)


def test_remove_inside_through_a_link_is_refused(folder: Path) -> None:
    (folder / "trials").rmdir()
    (folder / "trials").symlink_to(folder.parent)
    with pytest.raises(RunError, match="lies outside of the run's folder"):
        remove_inside(folder, "trials", "victim")
    assert is_intact(folder)


def test_check_contained_names_the_link_that_leads_out(folder: Path) -> None:
    (folder / "trials" / "in").symlink_to(folder / "trials")
    check_contained(folder)
    (folder / "trials" / "out").symlink_to("../../victim/precious")
    with pytest.raises(RunError, match=r"trials/out: is a link that leads out of the run's folder, to .*/victim"):
        check_contained(folder)


def test_check_contained_of_a_linked_run_follows_that_link(folder: Path) -> None:
    (folder.parent / "link").symlink_to(folder)
    check_contained(folder.parent / "link")


def test_check_contained_refuses_a_pipe(folder: Path) -> None:
    os.mkfifo(folder / "search.json")
    with pytest.raises(RunError, match="neither a file nor a folder"):
        check_contained(folder)
