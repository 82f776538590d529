"""Where a declared model lies."""

from pathlib import Path

import pytest
import yaml

from raysearch.config.loading import load_file, parse_search
from raysearch.config.model_paths import locate_model, locate_models, with_located_models
from raysearch.config.search_config import Search
from raysearch.errors import SpecError
from raysearch.search.resume import check_resumable

SEARCH = {"name": "a", "task": "docstrings", "method": {"weighting": "end_task_only"}, "budget": {"trials": 1}}


@pytest.mark.parametrize(
    ("path", "located"),
    [
        ("./enc", "/base/enc"),
        ("../enc", "/enc"),
        (".", "/base"),
        ("/abs/enc/", "/abs/enc"),
        ("~/enc", "/home/me/enc"),
        ("roberta-base", "roberta-base"),
        ("org/name", "org/name"),
        ("a/b/c", "/base/a/b/c"),
        ("my model", "/base/my model"),
    ],
)
def test_locate_model_makes_paths_absolute(monkeypatch: pytest.MonkeyPatch, path: str, located: str) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert locate_model(path, Path("/base")) == (located, "")
    assert locate_model(located, Path("/other"))[0] == located


def test_locate_model_prefers_a_folder_beside_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "org" / "name").mkdir(parents=True)
    folder, remark = locate_model("org/name", tmp_path)
    assert folder == str(tmp_path / "org" / "name")
    assert remark == f"'org/name' is the folder {folder} here, not the model of the hub; ./org/name says so"
    assert locate_model("./org/name", tmp_path) == (folder, "")


def test_locate_models_covers_models_of_baselines(tmp_path: Path) -> None:
    declared = {"model": "tiny", "baselines": {"a": {"model": {"path": "./x"}}, "b": {"method": {}}, "c": {}}}
    located, remarks = locate_models(declared, tmp_path)
    assert located["baselines"]["a"]["model"] == {"path": str(tmp_path / "x")}
    assert located["model"] == "tiny"
    assert (located["baselines"]["b"], remarks) == ({"method": {}}, ())
    assert declared["baselines"]["a"]["model"] == {"path": "./x"}


def test_load_file_refuses_a_folder_that_is_not_there(tmp_path: Path) -> None:
    file = tmp_path / "a.yaml"
    file.write_text(yaml.safe_dump(SEARCH | {"model": {"path": "./nowhere"}}, sort_keys=False))
    with pytest.raises(SpecError, match=rf"a\.yaml:\d+: model\.path: there is no folder {tmp_path}/nowhere"):
        load_file(file)


def test_check_resumable_keeps_the_relative_path_of_an_older_run() -> None:
    model = {"path": "./enc", "pooling": "head"} if "pooling" in _text_model_keys() else {"path": "./enc"}
    before = parse_search(SEARCH | {"model": {**model, "path": "/abs/enc"}}).search
    older = type(before).from_dict({**before.to_dict(), "model": {**before.model.to_plain(), "path": "./enc"}})
    now = type(before).from_dict({**before.to_dict(), "task": {**before.task.to_plain(), "base": "/abs"}})
    assert check_resumable(older, now, "a", extend=False).model == older.model
    assert older.resolve("search", {}, number=0, seed=0).model["path"] == "./enc"
    elsewhere = type(before).from_dict({**now.to_dict(), "task": {**before.task.to_plain(), "base": "/other"}})
    with pytest.raises(Exception, match=r"model\.path"):
        check_resumable(older, elsewhere, "a", extend=False)


def test_models_of_a_search_in_python_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    search = Search.from_dict(SEARCH | {"model": {"path": "./enc"}})
    assert with_located_models(search).model.to_plain()["path"] == str(tmp_path / "enc")
    named = Search.from_dict(SEARCH | {"model": {"path": "org/name"}})
    assert with_located_models(named) == named


def _text_model_keys() -> set[str]:
    from raysearch.modalities.text.config import TextModel

    return set(TextModel.__dataclass_fields__)
