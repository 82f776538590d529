"""Phases of every schedule agree with the settings that declare their lengths."""

import pytest

from raysearch import load_search
from raysearch.config.compatibility import uses_setting
from raysearch.config.parameters import DEFAULTS, PHASE_LENGTHS
from raysearch.methods import METHODS, methods_of
from raysearch.methods.schedule.phases import Phase
from raysearch.training_settings import TrainingSettings


def phases_of(name: str) -> tuple[Phase, ...]:
    phases: tuple[Phase, ...] = METHODS[name].load()(TrainingSettings(), METHODS[name].settings())
    return phases


@pytest.mark.parametrize("name", methods_of("schedule"))
def test_declared_phase_lengths_add_up_to_the_steps_of_a_trial(name: str) -> None:
    methods = {"weighting": "end_task_only", "surgery": "none", "schedule": name}
    lengths = [key for key in PHASE_LENGTHS if uses_setting(methods, key, load_search("smoke").model)]
    optimised = [phase for phase in phases_of(name) if not phase.fits_head]
    assert sum(int(DEFAULTS[key]) for key in lengths) == sum(phase.steps for phase in optimised)
    assert METHODS[name].takes_steps == bool(optimised)
    assert METHODS[name].has_main_phase == ("steps" in lengths)


@pytest.mark.parametrize("name", methods_of("schedule"))
def test_phases_have_names_of_their_own_and_train_something(name: str) -> None:
    phases = phases_of(name)
    assert len({phase.name for phase in phases}) == len(phases)
    assert all(phase.trains_end_task or phase.trains_objectives or phase.contrasts_labels for phase in phases)


@pytest.mark.parametrize("name", methods_of("schedule"))
def test_declared_joint_phase_is_one_that_trains_both(name: str) -> None:
    is_joint = any(phase.trains_end_task and phase.trains_objectives for phase in phases_of(name))
    assert is_joint == METHODS[name].trains_jointly


def test_probe_then_finetune_begins_with_the_probe() -> None:
    first, second = phases_of("probe_then_finetune")
    assert first.fits_head
    assert first.trains_end_task
    assert not first.trains_objectives
    assert second == phases_of("joint")[0]
    assert phases_of("probe") == (first,)
