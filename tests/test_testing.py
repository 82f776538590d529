"""The contract checks that users run on their own methods: every method here passes, and broken ones are caught."""

from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from raysearch.methods import METHODS, methods_of
from raysearch.methods.surgery.base import GramianSurgery
from raysearch.methods.surgery.cosine_gating import GCS
from raysearch.methods.surgery.settings import ConflictSettings, GCSSettings
from raysearch.methods.weighting.base import Coefficients, StepObservation
from raysearch.methods.weighting.settings import StaticSettings
from raysearch.methods.weighting.static import Static
from raysearch.modalities.text.taxonomy import TAXONOMY
from raysearch.testing import check_representation, check_surgery, check_transform, check_weighting


@pytest.mark.parametrize("name", methods_of("weighting"))
def test_every_weighting_keeps_the_contract(name: str) -> None:
    check_weighting(lambda objectives: METHODS[name].load()(objectives, METHODS[name].settings()))


@pytest.mark.parametrize(
    "name", sorted(n for n, each in methods_of("surgery").items() if issubclass(each.settings, ConflictSettings))
)
def test_every_gramian_surgery_keeps_the_contract(name: str) -> None:
    if METHODS[name].why_missing():
        pytest.skip("its solver is not installed")
    check_surgery(lambda: METHODS[name].load()(METHODS[name].settings()))


@pytest.mark.parametrize("name", TAXONOMY.stages["transform"])
def test_every_transform_keeps_the_contract(name: str) -> None:
    check_transform(TAXONOMY.functions("transform")[name])


@pytest.mark.parametrize("name", TAXONOMY.stages["representation"])
def test_every_representation_keeps_the_contract(name: str) -> None:
    check_representation(TAXONOMY.functions("representation")[name])


class Forgetful(Static):
    """A weighting that learns lambda_e and does not save it."""

    learned = 0.5

    def learn(self, sampled: list[int], observation: StepObservation) -> None:
        del sampled
        self.learned *= float(observation.losses[0].clamp(0, 1))

    def coefficients(self, sampled: list[int]) -> Coefficients:
        share = torch.full((len(sampled),), 1 / max(1, len(sampled)), dtype=torch.float64)
        return Coefficients(self.learned, 1 - self.learned, share)


class Doubling(Static):
    """A weighting whose objectives' coefficients sum to 2."""

    def coefficients(self, sampled: list[int]) -> Coefficients:
        return Coefficients(0.5, 0.5, torch.full((len(sampled),), 2 / max(1, len(sampled)), dtype=torch.float64))


class Restless(GCS):
    """A surgery that draws from PyTorch's global generator."""

    def _factors(self, G: Tensor, generator: Generator) -> Tensor:
        del generator
        return torch.rand(len(G), dtype=torch.float64)


@pytest.mark.parametrize(("broken", "problem"), [(Forgetful, "loaded from state"), (Doubling, "sum to 2")])
def test_broken_weighting_is_caught(broken: type[Static], problem: str) -> None:
    with pytest.raises(AssertionError, match=problem):
        check_weighting(lambda objectives: broken(objectives, StaticSettings()))


def test_surgery_with_global_randomness_is_caught() -> None:
    make: Any = lambda: Restless(GCSSettings())  # noqa: E731
    surgery: GramianSurgery = make()
    assert surgery is not None
    with pytest.raises(AssertionError, match="differ for the same"):
        check_surgery(make)


def test_transform_that_writes_in_place_is_caught() -> None:
    def in_place(tokens: Tensor, selected: Tensor, vocabulary: Any, generator: Generator) -> Tensor:
        del generator
        tokens[selected] = vocabulary.mask
        return tokens

    with pytest.raises(AssertionError, match="changes the tokens"):
        check_transform(in_place)
