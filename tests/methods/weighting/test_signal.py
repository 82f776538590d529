"""Means and standard errors of what is observed of each objective."""

import pytest
import torch

from raysearch.methods.weighting.signal import MAX_BATCHES, SignalTracker


def test_summary_of_few_steps_is_the_mean_and_its_standard_error() -> None:
    tracker, values = SignalTracker(2), torch.randn(10, 2, generator=torch.Generator().manual_seed(0))
    for row in values:
        tracker.add([0, 1], row)
    mean, error = tracker.summary()
    assert mean.tolist() == pytest.approx(values.double().mean(0).tolist(), rel=1e-5)
    assert error.tolist() == pytest.approx((values.std(0) / 10**0.5).tolist(), rel=1e-5)


def test_summary_counts_what_is_alike_in_neighbouring_steps_once() -> None:
    generator = torch.Generator().manual_seed(0)
    errors, means = [], []
    for _ in range(40):
        tracker, x = SignalTracker(1), torch.zeros(1)
        for _ in range(1000):
            x = 0.9 * x + torch.randn(1, generator=generator)
            tracker.add([0], x)
        mean, error = tracker.summary()
        errors.append(float(error))
        means.append(float(mean))
    true_error = float(torch.tensor(means).std())
    assert sum(errors) / len(errors) == pytest.approx(true_error, rel=0.35)


def test_objective_in_few_batches_has_no_standard_error() -> None:
    tracker = SignalTracker(3)
    for step in range(3 * MAX_BATCHES):
        tracker.add([0, 1] if step < 3 else [0], torch.ones(2 if step < 3 else 1))
    mean, error = tracker.summary()
    assert mean[:2].tolist() == [1.0, 1.0]
    assert error[0] == 0
    assert error[1].isnan()
    assert mean[2].isnan()


def test_tracker_loads_what_it_saved() -> None:
    tracker, other = SignalTracker(2), SignalTracker(2)
    for step in range(100):
        tracker.add([step % 2], torch.tensor([float(step)]))
    other.load(tracker.state())
    tracker.add([1], torch.tensor([3.0]))
    other.add([1], torch.tensor([3.0]))
    assert all(torch.equal(a, b) for a, b in zip(tracker.summary(), other.summary(), strict=True))
