"""Which interface the ranks of a worker group use."""

import os
import sys

import pytest

from raysearch.executors.hosts import interface_of
from raysearch.executors.rendezvous import use_interface

VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")


@pytest.fixture(autouse=True)
def without_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="interfaces are told on Linux alone")
def test_interface_with_the_address_of_the_node_is_used() -> None:
    assert interface_of("127.0.0.1") == use_interface("127.0.0.1") == "lo"
    assert [os.environ[name] for name in VARIABLES] == ["lo", "lo"]


def test_interface_that_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "ib0")
    assert use_interface("127.0.0.1") == "ib0"


def test_address_that_no_interface_has_changes_nothing() -> None:
    assert interface_of("192.0.2.7") is None
    assert use_interface("192.0.2.7") == ""
    assert not set(VARIABLES) & set(os.environ)
