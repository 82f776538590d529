"""A local Ray cluster that nobody else can reach: it listens on the loopback interface, and wants a token.

Ray's processes listen on all interfaces unless the node's address is the loopback address, which Ray chooses where it
supports no clusters (its constant ENABLE_RAY_CLUSTER). Every request then carries a token (RAY_AUTH_MODE,
https://docs.ray.io/en/latest/ray-security/token-auth.html), which is made for this process and known to its children.

torch's processes of a group would meet at a TCP store, which listens on all interfaces and asks for no token: whoever
reaches it can send a pickle. On one machine they meet in a file instead, and gloo and NCCL use the loopback interface.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from typing import Any

import ray
import ray._private.ray_constants as constants

ADDRESS = "127.0.0.1"
AUTH_VARIABLES = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
INTERFACE_VARIABLES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")
_TOKEN = secrets.token_hex(32)


@contextlib.contextmanager
def closed_environment() -> Iterator[None]:
    """Sets what makes a cluster that starts while it is entered a closed one; the environment is restored at the end.

    Ray reads token and mode once, so its caches are emptied before and after.
    """
    names = (*AUTH_VARIABLES, *INTERFACE_VARIABLES)
    before = {name: os.environ.get(name) for name in names}
    os.environ.pop("RAY_AUTH_TOKEN_PATH", None)
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": _TOKEN}
    if (interface := loopback_interface()) is not None:
        os.environ |= dict.fromkeys(INTERFACE_VARIABLES, interface)
    allows_clusters, constants.ENABLE_RAY_CLUSTER = constants.ENABLE_RAY_CLUSTER, False
    _forget_authentication()
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = allows_clusters
        for name, value in before.items():
            os.environ.pop(name, None)
            os.environ |= {name: value} if value is not None else {}
        if not ray.is_initialized():
            _forget_authentication()


def loopback_interface() -> str | None:
    """Returns the name of the loopback interface; None where it has another name than the usual ones."""
    names = {name for _, name in socket.if_nameindex()}
    return next((name for name in ("lo", "lo0") if name in names), None)


def _forget_authentication() -> None:
    """Makes Ray read the mode and the token of the environment again."""
    raylet: Any = importlib.import_module("ray._raylet")
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()


@contextlib.contextmanager
def meeting_folder() -> Iterator[str]:
    """Yields a new folder that the user alone can open, and removes it at the end."""
    folder = tempfile.mkdtemp(prefix="raysearch-ranks-")
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
