"""The moving average of a trial's own weights as a teacher (Tarvainen and Valpola 2017, arXiv 1703.01780).

    p (b, C)   the average network's probabilities of b unchanged examples
    tau        a moving average of mean(max p);  p~ (C,) one of mean(p); both begin at 1 / C
    tau_c      p~_c / max(p~) * tau: the threshold of class c

A guess is used where max p >= tau_c (FreeMatch, Wang et al. 2023, equations 5 to 8, https://arxiv.org/abs/2205.07246),
so that thresholds rise as the network learns, and are lower for classes that it rarely sees. The network has learned
the labelled rows by heart, so that these cannot tell how often it is right. What they say of the ensemble stands in:
a class of which even the ensemble's best guesses are not pure enough has no guesses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Generator, Tensor

from raysearch.data.prepared import Split
from raysearch.modalities.batch import BatchBuilder
from raysearch.modalities.guessing import Guesses
from raysearch.models.network import Network
from raysearch.training.weight_average import WeightAverage


class MovingAverageTeacher:
    """Guesses by the average network, batch by batch."""

    def __init__(
        self,
        network: Network,
        batches: BatchBuilder,
        decay: float,
        is_open: Tensor,
        autocast: Callable[[], torch.autocast],
        pools: Mapping[int, Tensor],
    ) -> None:
        """`is_open` (C,) bool says which classes may have guesses; `batches` gives unchanged examples.

        `pools` has the rows (R,) to draw from, by the split's id.
        """
        self.pools = pools
        self.network, self.batches, self.is_open, self.autocast = network, batches, is_open, autocast
        self.average = WeightAverage(network, decay)
        classes = len(is_open)
        self.tau, self.mean = 1 / classes, torch.full((classes,), 1 / classes, dtype=torch.float64)

    def draw(self, split: Split, count: int, generator: Generator) -> Tensor:
        """Returns the numbers (count,) of examples, each as likely as another."""
        pool = self.pools[id(split)]
        return pool[torch.randint(len(pool), (count,), generator=generator)]

    def guess(self, split: Split, rows: Tensor) -> Guesses:
        """Returns the average network's probabilities, and 1 for those above their class's threshold."""
        device, was_training = next(self.network.parameters()).device, self.network.training
        batch = self.batches.end_task_batch(split, rows).to(device)
        self.network.eval()
        with self.average.loaded(), torch.no_grad(), self.autocast():
            logits = self.network.logits(self.network.hidden(*batch.inputs), batch.targets.real)
        self.network.train(was_training)
        p = logits.float().softmax(dim=1).cpu()
        confidence, guess = p.max(dim=1)
        decay = self.average.decay
        self.tau = decay * self.tau + (1 - decay) * float(confidence.mean())
        self.mean = decay * self.mean + (1 - decay) * p.double().mean(dim=0)
        thresholds = self.mean / self.mean.max() * self.tau
        is_used = (confidence >= thresholds[guess]) & self.is_open[guess]
        return Guesses(p, is_used.float())

    def update(self) -> None:
        """Takes the network's parameters into the average, after a step."""
        self.average.update()

    def state(self) -> dict[str, Any]:
        """Returns what `load` needs to resume."""
        return {"average": self.average.state(), "tau": self.tau, "mean": self.mean}

    def load(self, state: dict[str, Any]) -> None:
        """Resumes from what `state` returned."""
        self.average.load(state["average"])
        self.tau, self.mean = state["tau"], state["mean"].cpu()
