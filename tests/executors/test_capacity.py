"""How many worker groups fit, host by host, and what is said of a trial that waits."""

import pytest

from raysearch.config.sections import Resources
from raysearch.executors.capacity import Host, QueueOverview, fitting_groups, waiting_reasons

TWO_RANKS = Resources(workers=2, cpus=1)


def hosts(*cpus: float) -> list[Host]:
    return [Host(f"n{i}", f"10.0.0.{i}", f"host{i}", each) for i, each in enumerate(cpus)]


@pytest.mark.parametrize(
    ("resources", "cpus", "groups"),
    [
        (TWO_RANKS, (2, 2), 2),
        (TWO_RANKS, (1, 1), 1),  # a group may be on both
        (TWO_RANKS, (1, 1, 1), 1),
        (TWO_RANKS, (3, 3), 3),
        (Resources(workers=1, cpus=2), (3, 3), 2),  # 6 CPUs, but no rank is on two hosts
        (Resources(workers=2, cpus=3), (5, 5), 1),
        (Resources(workers=1, cpus=4), (2, 2), 0),
        (Resources(workers=2, cpus=1, groups=1), (2, 2), 1),
        (TWO_RANKS, (), 0),
    ],
)
def test_groups_fit_host_by_host(resources: Resources, cpus: tuple[float, ...], groups: int) -> None:
    assert fitting_groups(resources, hosts(*cpus)) == groups


def why(overview: QueueOverview, *cpus: float, lost: str = "", is_free: bool = True) -> dict[tuple[str, int], str]:
    return waiting_reasons(overview, TWO_RANKS, hosts(*cpus), lost=lost, is_free=is_free)


def test_trial_waits_for_a_group_that_starts() -> None:
    assert why(QueueOverview(waiting=(("t", 0),)), 2) == {("t", 0): "its worker group starts"}


def test_trial_waits_while_all_groups_are_busy() -> None:
    overview = QueueOverview(waiting=(("t", 0), ("u", 1)), groups=1, busy=1)
    assert why(overview, 2) == {("t", 0): "1 worker group busy", ("u", 1): "1 worker group busy"}
    assert why(overview, 2, lost="host9")["t", 0] == "1 worker group busy since host9 is lost"


def test_trial_waits_for_cpus_that_others_use() -> None:
    reason = why(QueueOverview(waiting=(("t", 0),)), 2, is_free=False)["t", 0]
    assert reason == "no free CPUs or GPUs for its worker group, which takes 2 workers x 1 CPUs: others use them"


def test_trial_waits_for_a_host_where_no_group_fits() -> None:
    overview = QueueOverview(waiting=(("t", 0),), absent=(("u", 2, "host host9 is lost"),))
    reasons = why(overview, 1, lost="host9 (10.0.0.9)")
    assert set(reasons) == {("t", 0), ("u", 2)}
    assert set(reasons.values()) == {
        "no worker group fits since host9 (10.0.0.9) is lost: it takes 2 workers x 1 CPUs, and the cluster has 1 CPUs "
        "(1 on its largest node); it goes on when a host joins"
    }


def test_trial_waits_for_its_lost_group() -> None:
    reasons = why(QueueOverview(absent=(("u", 2, "rank 1: killed"),)), 2)
    assert reasons == {("u", 2): "its worker group is lost: rank 1: killed"}


def test_trial_waits_for_a_group_that_fails_to_start() -> None:
    overview = QueueOverview(waiting=(("t", 0),), failures={"g": (2, "no route to host")})
    assert why(overview, 2)["t", 0] == "its worker group fails to start (2 times): no route to host"
