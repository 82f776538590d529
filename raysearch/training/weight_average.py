"""A moving average of a network's parameters, which is evaluated, kept and exported in place of them.

    theta_t    the parameters after step t of a phase, t = 1, 2, ...
    d          the decay, `weight_average`
    mean       sum_i d^(t - i) theta_i / sum_i d^(t - i), that is
               mean_t = mean_(t-1) + (1 - d) / (1 - d^t) (theta_t - mean_(t-1))

It starts afresh with every phase, and a phase ends with its mean. The initial parameters of a phase do not count.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from raysearch.training.parameters import parameters_of, set_parameters


class WeightAverage:
    """The mean of a network's parameters and layer statistics over the steps of a phase."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network, self.decay = network, decay
        self.steps, self.mean = 0, dict[str, Tensor]()  # empty before the first step

    def restart(self) -> None:
        """Forgets all steps."""
        self.steps, self.mean = 0, {}

    def update(self) -> None:
        """Adds the network's parameters after a step; numbers that are no floats are taken as they are."""
        self.steps += 1
        share = (1 - self.decay) / (1 - self.decay**self.steps)
        with torch.no_grad():
            for name, value in parameters_of(self.network).items():
                if name not in self.mean or not value.is_floating_point():
                    self.mean[name] = value.detach().clone()
                else:
                    self.mean[name].lerp_(value, share)

    def finish(self) -> None:
        """Sets the network to the mean, if there is one, and forgets it."""
        if self.mean:
            set_parameters(self.network, self.mean)
        self.restart()

    @contextmanager
    def loaded(self) -> Iterator[None]:
        """Sets the network to the mean within the context, and back to its parameters after it."""
        if not self.mean:
            yield
            return
        current = {name: value.detach().clone() for name, value in parameters_of(self.network).items()}
        set_parameters(self.network, self.mean)
        try:
            yield
        finally:
            set_parameters(self.network, current)

    def state(self) -> dict[str, Any]:
        """Returns what `load` needs to resume."""
        return {"steps": self.steps, "mean": self.mean}

    def load(self, state: dict[str, Any]) -> None:
        """Resumes from what `state` returned."""
        self.steps, self.mean = state["steps"], state["mean"]
