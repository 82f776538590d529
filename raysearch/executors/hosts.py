"""The hosts of the Ray cluster that this process belongs to, and where on it things are placed."""

from __future__ import annotations

import fcntl
import socket
import struct
import sys
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raysearch.executors.capacity import Host

WATCHER_SHARE = 0.0001  # of a node's own resource, of which there is 1: Ray's smallest amount
_GET_INTERFACE_ADDRESS = 0x8915  # SIOCGIFADDR of Linux, see netdevice(7)
_REQUEST = struct.Struct("16s24x")  # struct ifreq
_ADDRESS = slice(20, 24)  # of its IPv4 address


def alive_hosts() -> list[Host]:
    """Returns the nodes that are alive, in the order in which Ray lists them."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return [
        Host(
            node["NodeID"],
            node["NodeManagerAddress"],
            node["NodeManagerHostname"],
            node["Resources"].get("CPU", 0.0),
            node["Resources"].get("GPU", 0.0),
        )
        for node in nodes
        if node["Alive"]
    ]


def free_amounts() -> tuple[float, float]:
    """Returns the CPUs and GPUs of the cluster that nothing uses."""
    free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
    return free.get("CPU", 0.0), free.get("GPU", 0.0)


def has_unplaced_groups() -> bool:
    """Says whether a placement group of the cluster, of whichever search, waits for CPUs or GPUs."""
    table: dict[str, dict[str, Any]] = ray.util.placement_group_table()
    return any(group["state"] in ("PENDING", "RESCHEDULING") for group in table.values())


def this_node() -> str:
    """Returns Ray's identifier of the node of this process."""
    return str(ray.get_runtime_context().get_node_id())


def on_this_node() -> NodeAffinitySchedulingStrategy:
    """Returns where to place an actor that this process cannot do without: it is lost only with this process."""
    return NodeAffinitySchedulingStrategy(this_node(), soft=False)


def watcher_resources() -> dict[str, float]:
    """Returns what an actor takes that computes nothing and has to be on this process's node.

    Each node has 1 of a resource with its own address, which is no CPU.
    """
    node = this_node()
    address = next(host.address for host in alive_hosts() if host.node == node)
    return {f"node:{address}": WATCHER_SHARE}


def interface_of(address: str) -> str | None:
    """Returns the name of the network interface that has an IPv4 address; None if that cannot be told."""
    if not sys.platform.startswith("linux"):
        return None
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(asking, _GET_INTERFACE_ADDRESS, _REQUEST.pack(name.encode()[:15]))
            except OSError:  # it has no IPv4 address
                continue
            if socket.inet_ntoa(answer[_ADDRESS]) == address:
                return name
    return None
