"""Contract checks for your own weightings, surgeries and primitives; each raises AssertionError with what is broken.

    from raysearch.testing import check_weighting

    def test_my_weighting_keeps_the_contract():
        check_weighting(lambda objectives: MyWeighting(objectives, MySettings()))

The project runs the same checks on every method in METHODS.
"""

from __future__ import annotations

import copy
import itertools
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor

from raysearch.methods.surgery.base import GramianSurgery
from raysearch.methods.weighting.base import GradientSimilarities, StepObservation, Weighting
from raysearch.modalities.text.primitives.transforms import Vocabulary
from raysearch.objectives.objective import Objective
from raysearch.training import checkpoint

__all__ = ["OBJECTIVES", "check_representation", "check_surgery", "check_transform", "check_weighting"]

OBJECTIVES = tuple(
    Objective(data="end_task", transform=transform, representation=representation, output="denoise")
    for transform, representation in itertools.product(("none", "bert"), ("bidirectional", "left_to_right"))
)


# ---- weightings ----


def check_weighting(
    make: Callable[[tuple[Objective, ...]], Weighting], objectives: tuple[Objective, ...] = OBJECTIVES, steps: int = 12
) -> None:
    """Checks a weighting over `steps` random steps, once uninterrupted and once resumed from its saved state.

    `make` builds a new weighting for the given objectives. Sampling is deterministic and in the plan's order; the
    coefficients are finite, not negative, and those of the sampled objectives sum to 1; every sampled objective gets
    an example; `names` and `weights` agree; learning changes none of what it observes; a weighting that loads the
    saved state of another goes on exactly as that one does.
    """
    uninterrupted, interrupted = make(objectives), make(objectives)
    for step in range(1, steps + 1):
        sampled, _ = (_check_sampling(each, len(objectives), step) for each in (uninterrupted, interrupted))
        observation = _random_observation(len(sampled), step)
        before = copy.deepcopy(observation)
        for weighting in (uninterrupted, interrupted):
            _check_coefficients(weighting, sampled)
            weighting.required_gradients(step)
            weighting.learn(sampled, observation)
            weighting.observe_after_update(sampled, observation.losses * 0.9)
        assert torch.equal(observation.losses, before.losses), "learn() changes the losses that it is given"
        if step == steps // 2:
            interrupted = make(objectives)
            interrupted.load(_saved_and_loaded(uninterrupted.state()))
        assert torch.equal(uninterrupted.weights(), interrupted.weights()), (
            f"step {step}: a weighting that was loaded from state() differs from the one that was saved"
        )


def _check_sampling(weighting: Weighting, count: int, step: int) -> list[int]:
    """Returns the objectives of a step after checking them."""
    sampled = weighting.sample(Generator().manual_seed(step))
    assert sampled == weighting.sample(Generator().manual_seed(step)), "sample() differs for the same generator"
    assert sampled == sorted(set(sampled)), f"sample() gives repeated or unsorted objectives: {sampled}"
    assert all(0 <= number < count for number in sampled), f"sample() gives unknown objectives: {sampled}"
    return sampled


def _check_coefficients(weighting: Weighting, sampled: list[int]) -> None:
    """Checks the coefficients of a step and the weights for the weights table."""
    factors = weighting.coefficients(sampled)
    assert len(factors.objectives) == len(sampled), "coefficients() does not match the sampled objectives"
    assert bool(factors.objectives.isfinite().all()), f"coefficients() are not finite: {factors}"
    assert factors.end_task >= 0, f"the end task's coefficient is negative: {factors.end_task}"
    assert factors.aux >= 0, f"the auxiliaries' coefficient is negative: {factors.aux}"
    assert 0 <= weighting.lambda_e <= 1, f"lambda_e is outside [0, 1]: {weighting.lambda_e}"
    if sampled:
        total = float(factors.objectives.sum())
        assert abs(total - 1) < 1e-6, f"the coefficients of the sampled objectives sum to {total}, not 1"
        counts = weighting.split_batch(sampled, 32)
        assert len(counts) == len(sampled), "split_batch() does not match the sampled objectives"
        assert all(count >= 1 for count in counts), f"split_batch() leaves an objective without examples: {counts}"
    weights = weighting.weights()
    assert len(weights) == len(weighting.names()), "weights() and names() have different lengths"


def _random_observation(count: int, step: int) -> StepObservation:
    """Returns losses (n + 1,), similarities (n,) and a Gramian (n + 1, n + 1) drawn from the step's number."""
    generator = Generator().manual_seed(step)
    gradients = torch.randn(count + 1, 2 * count + 3, generator=generator, dtype=torch.float64)
    similarities = torch.rand(count + 2, generator=generator, dtype=torch.float64) * 2 - 1
    return StepObservation(
        torch.rand(count + 1, generator=generator, dtype=torch.float64) + 0.1,
        GradientSimilarities(similarities[2:], float(similarities[0]), float(similarities[1])),
        gradients @ gradients.T,
    )


def _saved_and_loaded(state: dict[str, Any]) -> dict[str, Any]:
    """Returns a state after a round trip through a checkpoint file."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "state.safetensors"
        checkpoint.save(file, {"state": state})
        loaded: dict[str, Any] = checkpoint.load(file)["state"]
    return loaded


# ---- surgeries ----


def check_surgery(make: Callable[[], GramianSurgery], sizes: Sequence[int] = (2, 3, 5), steps: int = 6) -> None:
    """Checks a surgery that acts on the Gramian of a step's gradients.

    For Gramians of `sizes` rows its factors are finite, one for each row, the same for the same generator and state;
    a single row keeps the factor 1; a row of zeros changes nothing; and a surgery that loads the saved state of
    another goes on exactly as that one does.
    """
    assert _factors(make(), torch.ones(1, 1, dtype=torch.float64), 0).tolist() == [1.0], "a single gradient is changed"
    for size in sizes:
        uninterrupted, interrupted = make(), make()
        for step in range(1, steps + 1):
            gramian = _random_gramian(size, step)
            before = gramian.clone()
            factors = _factors(uninterrupted, gramian, step)
            assert factors.shape == (size,), f"{size} gradients have {tuple(factors.shape)} factors"
            assert bool(factors.isfinite().all()), f"the factors are not finite: {factors.tolist()}"
            assert torch.equal(gramian, before), "coefficients() changes the Gramian that it is given"
            assert torch.equal(factors, _factors(interrupted, gramian, step)), (
                f"step {step}: the factors differ for the same Gramian, generator and state"
            )
            if step == steps // 2:
                interrupted = make()
                interrupted.load(_saved_and_loaded(uninterrupted.state()))
        gramian = _random_gramian(size, 0)
        gramian[-1, :] = gramian[:, -1] = 0.0
        assert bool(_factors(make(), gramian, 0).isfinite().all()), "a gradient of zeros makes the factors infinite"


def _factors(surgery: GramianSurgery, gramian: Tensor, seed: int) -> Tensor:
    return surgery.factors(gramian, Generator().manual_seed(seed))


def _random_gramian(size: int, seed: int) -> Tensor:
    gradients = torch.randn(size, 3 * size, generator=Generator().manual_seed(seed), dtype=torch.float64)
    return gradients @ gradients.T


# ---- primitives of text ----

VOCABULARY = Vocabulary(size=40, pad=0, cls=1, sep=2, mask=3)


def _text_batch() -> tuple[Tensor, Tensor]:
    """Returns tokens (3, 12), the last row padded, and selected positions (3, 12) bool."""
    generator = Generator().manual_seed(0)
    tokens = torch.randint(5, VOCABULARY.size, (3, 12), generator=generator)
    tokens[:, 0], tokens[:, -1] = VOCABULARY.cls, VOCABULARY.sep
    tokens[2, 7], tokens[2, 8:] = VOCABULARY.sep, VOCABULARY.pad
    selected = (torch.rand(tokens.shape, generator=generator) < 0.4) & (tokens >= 5)
    return tokens, selected


def check_transform(transform: Callable[[Tensor, Tensor, Vocabulary, Generator], Tensor]) -> None:
    """Checks a transform primitive on a small batch of texts, one of them padded.

    It returns new integer tokens of the same shape, leaves its inputs unchanged, gives the same result for the same
    generator, keeps padding, and gives only token ids, -1 (delete) or -2 - id (noise on the embedding).
    """
    tokens, selected = _text_batch()
    tokens_before, selected_before = tokens.clone(), selected.clone()
    first, second = (transform(tokens, selected, VOCABULARY, Generator().manual_seed(1)) for _ in range(2))
    assert torch.equal(tokens, tokens_before), "the transform changes the tokens that it is given"
    assert torch.equal(selected, selected_before), "the transform changes the selected positions that it is given"
    assert first.shape == tokens.shape, f"tokens {tuple(tokens.shape)} become {tuple(first.shape)}"
    assert first.dtype == tokens.dtype, f"token ids become {first.dtype}"
    assert torch.equal(first, second), "the transform differs for the same generator"
    assert torch.equal(first[tokens == VOCABULARY.pad], tokens[tokens == VOCABULARY.pad]), "padding is changed"
    ids = torch.where(first < -1, -2 - first, first)
    assert int(ids.min()) >= -1, "a token id is below -1"
    assert int(ids.max()) < VOCABULARY.size, "a token id is not in the vocabulary"


def check_representation(representation: Callable[[Tensor, Generator], Tensor]) -> None:
    """Checks a representation primitive: a mask (b, S, S) that says which position sees which.

    It is boolean, the same for the same generator, and every real position sees at least one real position.
    """
    tokens, _ = _text_batch()
    real = tokens != VOCABULARY.pad
    first, second = (representation(real.clone(), Generator().manual_seed(1)) for _ in range(2))
    assert first.shape == (*real.shape, real.shape[1]), f"the mask has shape {tuple(first.shape)}"
    assert first.dtype == torch.bool, f"the mask has type {first.dtype}, not bool"
    assert torch.equal(first, second), "the representation differs for the same generator"
    visible = (first & real[:, None, :]).any(dim=2)
    assert bool(visible[real].all()), "a position sees nothing: its attention is undefined"
