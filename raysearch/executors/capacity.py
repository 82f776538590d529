"""How many worker groups fit on hosts, and why a trial that is queued does not run. Imports neither ray nor torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from raysearch.config.sections import Resources
from raysearch.formatting import format_count


@dataclass(frozen=True)
class Host:
    """A node of the cluster that is alive."""

    node: str  # Ray's identifier, new each time that Ray is started there
    address: str
    name: str = ""
    cpus: float = 0.0
    gpus: float = 0.0

    def __str__(self) -> str:
        return f"{self.name} ({self.address})" if self.name and self.name != self.address else self.address


def fitting_ranks(resources: Resources, host: Host) -> int:
    """Returns how many ranks of worker groups fit on a host."""
    pairs = ((host.cpus, resources.cpus), (host.gpus, resources.gpus))
    return min(int(total / each + 1e-9) for total, each in pairs if each)


def fitting_groups(resources: Resources, hosts: Iterable[Host]) -> int:
    """Returns how many worker groups fit, at most as many as `resources` declares.

    A rank takes its CPUs and GPUs on one host; the ranks of a group may be on several.
    """
    groups = sum(fitting_ranks(resources, host) for host in hosts) // resources.workers
    return min(groups, resources.groups) if resources.groups else groups


def describe_needs(resources: Resources) -> str:
    """Returns what a worker group takes, such as `2 workers x 1 CPUs`."""
    each = [f"{value:g} {name}" for value, name in ((resources.cpus, "CPUs"), (resources.gpus, "GPUs")) if value]
    return f"{resources.workers} workers x {' and '.join(each)}"


def describe_room(resources: Resources, hosts: Sequence[Host]) -> str:
    """Returns what a cluster has."""
    cpus, gpus = sum(host.cpus for host in hosts), sum(host.gpus for host in hosts)
    largest = max((host.cpus for host in hosts), default=0.0)
    gpu_part = f" and {gpus:g} GPUs" if resources.gpus or gpus else ""
    return f"the cluster has {cpus:g} CPUs ({largest:g} on its largest node){gpu_part}"


@dataclass(frozen=True)
class QueueOverview:
    """The broker's state, as far as it tells why trials wait."""

    waiting: tuple[tuple[str, int], ...] = ()  # trial and attempt
    absent: tuple[tuple[str, int, str], ...] = ()  # trial, attempt and why, of trials whose worker group is lost
    groups: int = 0  # that are up
    busy: int = 0  # of these, those that run a trial
    failures: Mapping[str, tuple[int, str]] = field(default_factory=dict)  # of groups that are not up: times and why


def waiting_reasons(
    overview: QueueOverview, resources: Resources, hosts: Sequence[Host], *, lost: str, is_free: bool
) -> dict[tuple[str, int], str]:
    """Returns why each trial that has no worker group waits, by trial and attempt.

    `lost`: the host that was lost last; `is_free`: the cluster has free CPUs and GPUs for a further group.
    """
    reasons = {(trial, attempt): f"its worker group is lost: {why}" for trial, attempt, why in overview.absent}
    fits = fitting_groups(resources, hosts)
    since = f" since {lost} is lost" if lost else ""
    if fits < 1:
        needs, room = describe_needs(resources), describe_room(resources, hosts)
        why = f"no worker group fits{since}: it takes {needs}, and {room}; it goes on when a host joins"
        reasons = dict.fromkeys(reasons, why)
    elif overview.groups < fits and overview.failures:
        times, problem = max(overview.failures.values())
        why = f"its worker group fails to start ({format_count(times, 'time')}): {problem}"
    elif overview.groups < fits and not is_free:
        why = f"no free CPUs or GPUs for its worker group, which takes {describe_needs(resources)}: others use them"
    elif overview.groups < fits:
        why = "its worker group starts"
    else:
        busy = format_count(overview.busy, "worker group")
        why = f"{busy} busy{since}"
    return reasons | dict.fromkeys(overview.waiting, why)
