"""How the ranks of a worker group find each other and form torch's process group.

Ray Train would form it before the training function runs, and a failure there is no failure of a rank to it: it keeps
the placement group, and tries again for ever. So its backend only tells each rank where to meet, and the ranks form
the process group in the training function, where a failure counts and is told.

A rank offers the others the address that Ray knows its host by. torch would take the one that the host's own name
stands for, which the hosts files of Debian and Ubuntu make a loopback address.
"""

from __future__ import annotations

import contextlib
import os
import uuid
from datetime import timedelta
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch.distributed as dist
from ray.train.torch import TorchConfig
from ray.train.torch.config import _set_torch_distributed_env_vars, _TorchBackend

from raysearch.executors.hosts import alive_hosts, interface_of, this_node
from raysearch.executors.loopback import INTERFACE_VARIABLES

torch_stores: Any = dist  # torch declares no types of its stores
MEETING_SECONDS = 60.0  # in which all ranks have to come
COLLECTIVE_SECONDS = 600.0  # after which torch gives up a collective operation
PLACE = "RAYSEARCH_MEETING_PLACE"  # environment variable: a file, or HOST PORT


class _MeetingBackend(_TorchBackend):
    """Tells each rank who it is and where the ranks meet."""

    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        """Sets the variables of all ranks; gives up what the group has reserved if a rank is lost meanwhile."""
        assert isinstance(backend_config, MeetingConfig)
        try:
            worker_group.execute(_set_torch_distributed_env_vars)
            folder = backend_config.folder
            place = str(Path(folder) / uuid.uuid4().hex) if folder else worker_group.execute_single(0, _free_place)
            worker_group.execute(_remember_place, place)
        except Exception:
            with contextlib.suppress(Exception):
                worker_group.get_worker_group_state().shutdown()
            raise

    def on_shutdown(self, worker_group: Any, backend_config: Any) -> None:
        """Does nothing: the ranks' processes end, and those that wait for a lost rank could not answer."""


class MeetingConfig(TorchConfig):
    """Ray Train's configuration of ranks that meet in a file of `folder`, or else at a TCP store of rank 0."""

    def __init__(self, folder: str = "") -> None:
        super().__init__()
        self.folder = folder

    @property
    def backend_cls(self) -> type[_TorchBackend]:
        """The backend that Ray Train starts."""
        return _MeetingBackend


def own_address() -> str:
    """Returns the address of this process's node."""
    node = this_node()
    return next(host.address for host in alive_hosts() if host.node == node)


def _free_place() -> str:
    from ray.train._internal.utils import get_address_and_port

    return f"{own_address()} {get_address_and_port()[1]}"


def _remember_place(place: str) -> None:
    os.environ[PLACE] = place


def use_interface(address: str) -> str:
    """Makes gloo and NCCL use the interface with that address; what the user has set stays. Returns its name."""
    interface = interface_of(address)
    for variable in INTERFACE_VARIABLES if interface else ():
        os.environ.setdefault(variable, str(interface))
    return os.environ.get("GLOO_SOCKET_IFNAME", "")


def form_process_group(backend: str) -> None:
    """Forms torch's process group of the ranks of this worker group. Raises RuntimeError, one line, if it cannot."""
    context = ray.train.get_context()
    rank, world, address = context.get_world_rank(), context.get_world_size(), own_address()
    interface, place = use_interface(address), os.environ[PLACE]
    try:
        if place.startswith("/"):
            store = torch_stores.FileStore(place, world)
            store.set_timeout(timedelta(seconds=MEETING_SECONDS))
        else:
            host, port = place.split()
            store = torch_stores.TCPStore(host, int(port), world, rank == 0, timeout=timedelta(seconds=MEETING_SECONDS))
        limit = timedelta(seconds=COLLECTIVE_SECONDS)
        dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=limit)
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        where = f"rank {rank} on {address}" + (f" ({interface})" if interface else "")
        raise RuntimeError(f"the ranks cannot form a process group: {where}, meeting at {place}: {reason}") from error
