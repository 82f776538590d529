"""The Ray cluster that a search runs on: started on this machine or joined, and measured against what trials need."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import ray
import torch

from raysearch.config.sections import Resources
from raysearch.errors import RunError
from raysearch.executors.capacity import Host, describe_needs, describe_room, fitting_groups
from raysearch.executors.hosts import alive_hosts, watcher_resources
from raysearch.executors.loopback import ADDRESS, closed_environment, meeting_folder
from raysearch.executors.messages import NAMESPACE

OBJECT_STORE = 256 << 20  # bytes; only small objects pass through it
LONGEST_SOCKET_PATH = 107  # bytes, of a socket on Linux
SOCKET_BELOW_TMPDIR = "/ray/session_2026-01-01_00-00-00_000000_{pid}/sockets/plasma_store"
REACH_SECONDS = 10.0  # in which a cluster's host has to answer
TRAIN_RUN_THREAD = "raysearch-run-"  # begins the names of threads that wait for a Ray Train run
_SETTINGS = b"\x04"  # the type of an HTTP/2 frame
_CLIENT_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00" + _SETTINGS + b"\x00" * 5  # and empty settings


@dataclass(frozen=True)
class Cluster:
    """What a search has to run on."""

    groups: int  # worker groups, that is, trials at a time
    slot: dict[str, float]  # what a Tune trial takes: it computes nothing
    notes: tuple[str, ...] = ()  # for the user
    meeting_folder: str = ""  # of a local cluster: where ranks of a torch process group meet, see `loopback`


@contextlib.contextmanager
def open_cluster(address: str | None, resources: Resources, *, dashboard: bool) -> Iterator[Cluster]:
    """Yields the cluster at `address`, or the one that this process has joined already, or a new local one.

    A local one listens on the loopback interface alone, wants a token, and is shut down at the end. `dashboard`: Ray
    Train needs one to clean up after runs that are killed. Raises RunError, before anything starts on the cluster, when
    it cannot be reached or does not have what a trial needs.
    """
    if address is not None and address.startswith("ray://"):
        raise RunError(
            f"{address}: Ray Client is not supported; run the driver on the cluster: "
            "ray job submit --working-dir . -- raysearch launch FILE --address auto"
        )
    _refuse_dashboard(address)
    for name in ("ray", "ray.tune", "ray.train", "ray.data"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    was_connected = ray.is_initialized()
    with contextlib.ExitStack() as entered:
        if not was_connected and address is None:
            entered.enter_context(closed_environment())
            folder = entered.enter_context(meeting_folder())
        else:
            folder = ""
        if not was_connected:
            entered.callback(_shut_down)
        if folder:
            context = _start(resources, dashboard)
        elif not was_connected:
            context = _join(str(address))
        else:
            context = ray.init(ignore_reinit_error=True, logging_level=logging.CRITICAL)
        cluster = _measure(resources, lacks_dashboard=dashboard and not context.dashboard_url)
        notes = (*cluster.notes, *_exposure(context, is_local=bool(folder)))
        yield replace(cluster, notes=notes, meeting_folder=folder)


def _shut_down() -> None:
    if not has_train_runs():
        ray.shutdown()


def _exposure(context: Any, *, is_local: bool) -> list[str]:
    """Returns a sentence if others on the network can use the cluster."""
    address = str(context.address_info.get("node_ip_address", ""))
    if is_local and address != ADDRESS:
        return [f"Ray listens on {address}, not on this machine alone; a token protects it"]
    if not is_local and os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        return ["the cluster asks for no token (RAY_AUTH_MODE): whoever reaches its ports can run code on it"]
    return []


def has_train_runs() -> bool:
    """Says whether a thread of this process still waits for a Ray Train run.

    Ray must not be shut down then, because it would end the whole process. What Ray has started ends with the process.
    """
    return any(thread.name.startswith(TRAIN_RUN_THREAD) for thread in threading.enumerate())


def _start(resources: Resources, dashboard: bool) -> Any:
    cores, gpus = os.cpu_count() or 1, torch.cuda.device_count()
    groups = fitting_groups(resources, [Host("", ADDRESS, "", cores, gpus)])
    if groups < 1:
        raise RunError(f"a trial takes {describe_needs(resources)}; this machine has {cores} CPUs and {gpus} GPUs")
    _check_socket_paths()
    os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # no cloud will take this node away
    return ray.init(
        address="local",
        num_cpus=max(cores, round(groups * resources.workers * resources.cpus)),
        num_gpus=gpus,
        include_dashboard=dashboard,
        object_store_memory=OBJECT_STORE,
        log_to_driver=False,
        logging_level=logging.CRITICAL,
        namespace=NAMESPACE,
    )


def _refuse_dashboard(address: str | None) -> None:
    """Raises RunError for the address of Ray's dashboard, which takes jobs and is no cluster that can be joined."""
    variable = os.environ.get("RAY_ADDRESS", "") if address == "auto" else ""
    where = variable or address or ""
    if where.startswith(("http://", "https://")):
        source = f"RAY_ADDRESS={where}" if variable else where
        remedy = "give --address HOST:6379, or auto without RAY_ADDRESS on a node of the cluster"
        raise RunError(f"{source} is the address of Ray's dashboard; {remedy}")


def _check_socket_paths() -> None:
    """Raises RunError if the folder of temporary files is so deep that Ray's sockets in it would have no address."""
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or tempfile.gettempdir()
    free = LONGEST_SOCKET_PATH - len(SOCKET_BELOW_TMPDIR.format(pid=os.getpid()))
    if len(os.fsencode(folder)) > free:
        problem = f"the folder of temporary files, {folder}, has a path of {len(os.fsencode(folder))} bytes"
        raise RunError(f"{problem}, and Ray's sockets leave room for {free}; set RAY_TMPDIR=/tmp")


def _join(address: str) -> Any:
    check_reachable(address)
    try:
        return ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL, namespace=NAMESPACE)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise RunError(f"cannot join the cluster at {address}: {reason}") from error


def check_reachable(address: str, patience: float = REACH_SECONDS) -> None:
    """Raises RunError unless a server that may be Ray's answers at host:port; Ray would try for many minutes.

    Ray's control service speaks HTTP/2 (gRPC): a server answers the client's first bytes with a frame of type SETTINGS
    (RFC 9113, section 3.4). An address that is to be found on this machine (`auto`) is not checked.
    """
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", "")
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
        return
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=patience / 2) as connection:
            connection.settimeout(patience / 2)
            connection.sendall(_CLIENT_PREFACE)
            is_http2 = connection.recv(9)[3:4] == _SETTINGS
    except (OSError, OverflowError) as error:
        reason = "no answer" if isinstance(error, TimeoutError) else str(error)
        raise RunError(f"cannot join the cluster at {address}: {reason}") from error
    if not is_http2:
        raise RunError(f"cannot join the cluster at {address}: what answers there is no Ray cluster")


def _measure(resources: Resources, *, lacks_dashboard: bool) -> Cluster:
    """Returns what the cluster has room for. Raises RunError when not one trial fits."""
    hosts = alive_hosts()
    groups = fitting_groups(resources, hosts)
    if groups < 1:
        raise RunError(f"a trial takes {describe_needs(resources)}; {describe_room(resources, hosts)}")
    notes: list[str] = []
    if 0 < groups < resources.groups:
        notes.append(f"{groups} trials at a time: no more fit")
    if lacks_dashboard:
        notes.append("the cluster has no dashboard: a Ray Train run whose controller is killed keeps its resources")
    return Cluster(groups, watcher_resources(), tuple(notes))
