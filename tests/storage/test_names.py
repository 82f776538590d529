"""Names of runs, and where runs cannot be."""

import pytest

from raysearch.schema import catalog
from raysearch.storage.names import LONGEST_NAME, name_problem, runs_problem, valid_name


@pytest.mark.parametrize("name", [*catalog.names("trials"), "a", "A.b_c-2", "_x", "2026", "a" * LONGEST_NAME])
def test_name_problem_of_a_plain_name_is_empty(name: str) -> None:
    assert name_problem(name) == ""


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../../x", "/abs", "a/b", "a b", ".hidden", "-x", "a\n", "a;b", "$x", "a" * (LONGEST_NAME + 1)],
)
def test_name_problem_names_the_rule_and_a_name_that_passes(name: str) -> None:
    problem = name_problem(name)
    assert "letters, digits, '.', '_' and '-'" in problem
    assert "\n" not in problem
    assert name_problem(valid_name(name)) == ""


def test_valid_name_keeps_a_valid_name_and_the_end_of_a_long_one() -> None:
    assert valid_name("first-search-0001") == "first-search-0001"
    assert valid_name("my run-search-0001") == "my_run-search-0001"
    assert valid_name("x" * 200 + "-0001").endswith("x-0001")


@pytest.mark.parametrize(
    "folder", ["s3://bucket/runs", "gs://b", "az://b", "http://h/x", "https://h", "s3:/b", "hdfs://x"]
)
def test_runs_problem_refuses_the_address_of_a_store(folder: str) -> None:
    assert "object stores are not supported yet" in runs_problem(folder)


@pytest.mark.parametrize("folder", ["runs", "/abs/runs", "../runs", "a:b", "~/runs", "C:x"])
def test_runs_problem_of_a_folder_is_empty(folder: str) -> None:
    assert runs_problem(folder) == ""
