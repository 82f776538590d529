import pytest

from raysearch.config.sections import DECLARED_SAMPLERS, DECLARED_SCHEDULERS, Scheduler
from raysearch.schema.node import Node
from raysearch.search.samplers import SAMPLERS


def test_every_declared_sampler_can_be_made() -> None:
    assert SAMPLERS.keys() == DECLARED_SAMPLERS.keys()


@pytest.mark.parametrize("name", DECLARED_SCHEDULERS)
def test_scheduler_short_form_round_trips(name: str) -> None:
    scheduler = Scheduler.read(Node(name))
    assert scheduler == Scheduler(name=name)
    assert Scheduler.read(Node(scheduler.to_plain())) == scheduler
