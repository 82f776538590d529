"""A cluster that is not there is refused soon."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from raysearch.errors import RunError
from raysearch.executors.ray_cluster import REACH_SECONDS, check_reachable

SETTINGS_FRAME = b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64"  # as RFC 9113 prints a frame


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening


def answer_once(server: socket.socket, answer: bytes) -> None:
    """Answers the first connection, in another thread."""

    def run() -> None:
        connection, _ = server.accept()
        connection.recv(100)
        connection.sendall(answer)
        connection.close()

    threading.Thread(target=run, daemon=True).start()


def address_of(server: socket.socket) -> str:
    return f"127.0.0.1:{server.getsockname()[1]}"


def test_unreachable_cluster_is_refused_at_once(server: socket.socket) -> None:
    address = address_of(server)
    server.close()
    with pytest.raises(RunError, match=f"cannot join the cluster at {address}: .*Connection refused"):
        check_reachable(address)


def test_silent_server_is_refused_in_time(server: socket.socket) -> None:
    start = time.monotonic()
    with pytest.raises(RunError, match="no answer"):
        check_reachable(address_of(server), patience=0.2)
    assert time.monotonic() - start < 2
    assert REACH_SECONDS <= 10


def test_server_of_something_else_is_refused(server: socket.socket) -> None:
    answer_once(server, b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with pytest.raises(RunError, match="what answers there is no Ray cluster"):
        check_reachable(address_of(server))


def test_server_that_speaks_http2_is_accepted(server: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    answer_once(server, SETTINGS_FRAME)
    monkeypatch.setenv("RAY_ADDRESS", address_of(server))
    check_reachable("auto")


def test_addresses_without_a_port_are_left_to_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for address in ("auto", "local", "somewhere"):
        check_reachable(address)
