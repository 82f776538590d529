"""Addresses and folders with which no cluster can be joined or started."""

import pytest

from raysearch.config.sections import Resources
from raysearch.errors import RunError
from raysearch.executors.ray_cluster import open_cluster


@pytest.mark.parametrize(
    ("address", "variable", "named"),
    [
        ("http://127.0.0.1:8265", "", "http://127.0.0.1:8265"),
        ("https://cluster:8265", "", "https://cluster:8265"),
        ("auto", "http://127.0.0.1:8265", "RAY_ADDRESS=http://127.0.0.1:8265"),
    ],
)
def test_address_of_the_dashboard_is_rejected_with_a_remedy(
    address: str, variable: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", variable)
    with pytest.raises(RunError) as caught, open_cluster(address, Resources(), dashboard=False):
        pass
    assert str(caught.value).startswith(f"{named} is the address of Ray's dashboard; give --address HOST:6379")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("variable", ["TMPDIR", "RAY_TMPDIR"])
def test_folder_too_deep_for_sockets_is_rejected(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv(variable, f"/tmp/{'x' * 60}")
    problem = r"has a path of 65 bytes, and Ray's sockets leave room for \d\d; set RAY_TMPDIR=/tmp"
    with pytest.raises(RunError, match=problem), open_cluster(None, Resources(), dashboard=False):
        pass
