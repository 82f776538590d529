"""Deltas of branches: what each branch of a round has changed, how deltas are merged, and how merges score on meta-dev.

theta      parameters of body and heads as one vector (D,);  delta_b = theta_b - theta, of B branches
alpha      (B,) float64; the merged parameters are theta + sum_b alpha_b delta_b
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from raysearch.distributed import ProcessGroup
from raysearch.gradients.flat import flat_gradient
from raysearch.methods.weighting.settings import BranchSettings
from raysearch.modalities.losses import example_losses
from raysearch.rng import stream
from raysearch.training.context import TrainingContext
from raysearch.training.evaluation import evaluate
from raysearch.training.parameters import layer_statistics
from raysearch.training.step.dev_gradients import DevGradients
from raysearch.training.step.dev_head import sample_rows

MAX_ROWS = 64  # examples of meta-dev in one forward pass


class Snapshot:
    """The common parameters and statistics from which all branches of a round start."""

    def __init__(self, network: nn.Module, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters, self.buffers = parameters, layer_statistics(network)
        self.theta = self.current_theta()
        self.statistics = {name: value.clone() for name, value in self.buffers.items()}

    def current_theta(self) -> Tensor:
        """Returns the network's parameters now, (D,)."""
        return torch.cat([p.detach().flatten() for p in self.parameters])

    def restore(self) -> None:
        """Sets the network to the snapshot."""
        self._load(self.theta, self.statistics)

    def load_merged(self, alphas: Tensor, deltas: BranchDeltas) -> None:
        """Sets the network to theta + sum_b alpha_b delta_b, and its statistics to match.

        Statistics move by the mean of the branches' changes weighted by |alpha_b|; integers among them, such as counts,
        by the change of the first branch.
        """
        theta = self.theta.clone()
        for alpha, delta in zip(alphas.tolist(), deltas.deltas, strict=True):
            if alpha and delta is not None:
                theta += alpha * delta.to(theta)
        statistics, size = {name: value.clone() for name, value in self.statistics.items()}, alphas.abs()
        if float(size.sum()) > 0:
            shares = (size / size.sum()).tolist()
            for name, value in statistics.items():
                if value.is_floating_point():
                    for share, changes in zip(shares, deltas.statistics, strict=True):
                        value += share * changes[name]
                else:
                    value += deltas.statistics[0][name]
        self._load(theta, statistics)

    def _load(self, theta: Tensor, statistics: Mapping[str, Tensor]) -> None:
        start = 0
        with torch.no_grad():
            for parameter in self.parameters:
                parameter.copy_(theta[start : start + parameter.numel()].view_as(parameter))
                start += parameter.numel()
            for name, buffer in self.buffers.items():
                buffer.copy_(statistics[name])


class BranchDeltas:
    """The delta (D,) of every branch of a round, None if it did not train, and the changes of its statistics."""

    def __init__(self, before: Snapshot, settings: BranchSettings, process_group: ProcessGroup) -> None:
        self.before, self.process_group = before, process_group
        self.precision = torch.bfloat16 if settings.delta_precision == "bfloat16" else torch.float32
        self.device = torch.device("cpu") if settings.delta_place == "cpu" else process_group.device
        self.deltas: list[Tensor | None] = []
        self.statistics: list[dict[str, Tensor]] = []
        self._of_rank: dict[int, tuple[Tensor, dict[str, Tensor]]] = {}

    def record(self, branch: int) -> None:
        """Records what a branch of this rank has changed, while the network is at its end."""
        before = self.before
        delta = (before.current_theta() - before.theta).to(self.precision).to(self.device)
        self._of_rank[branch] = delta, {name: v - before.statistics[name] for name, v in before.buffers.items()}

    def exchange(self, lengths: Sequence[int]) -> None:
        """Sends the deltas of all branches to all ranks; `lengths` are the steps that each branch took."""
        for branch, length in enumerate(lengths):
            unchanged = {name: torch.zeros_like(value) for name, value in self.before.statistics.items()}
            if not length:
                self.deltas.append(None)
                self.statistics.append(unchanged)
                continue
            empty = torch.empty_like(self.before.theta, dtype=self.precision, device=self.device)
            delta, changes = self._of_rank.pop(branch, (empty, unchanged))
            owner = branch % self.process_group.world
            self.deltas.append(self.process_group.share(delta, owner))
            self.statistics.append({name: self.process_group.share(v, owner) for name, v in changes.items()})

    def equalise_norms(self) -> None:
        """Scales all deltas to their mean norm."""
        norms = [float(delta.float().norm()) for delta in self.deltas if delta is not None]
        for delta in self.deltas:
            if delta is not None and (norm := float(delta.float().norm())) > 0:
                delta *= sum(norms) / len(norms) / norm

    def directional_derivatives(self, gradient: Tensor) -> Tensor:
        """Returns <gradient, delta_b> of every branch, (B,) float64."""
        dots = [0.0 if delta is None else float(delta.to(gradient) @ gradient) for delta in self.deltas]
        return torch.tensor(dots, dtype=torch.float64)


class MetaDevEvaluator:
    """Evaluates merged deltas on meta-dev. All ranks ask for the same merges and get the same results."""

    def __init__(
        self,
        context: TrainingContext,
        dev_gradients: DevGradients,
        before: Snapshot,
        deltas: BranchDeltas,
        round_number: int = 0,
    ) -> None:
        """`context` is of one rank; rounds are numbered from 0."""
        self.context, self.dev_gradients = context, dev_gradients
        self.before, self.deltas, self.round_number = before, deltas, round_number
        self._scores: dict[tuple[float, ...], tuple[float, float]] = {}

    def gradient(self, alphas: Tensor, number: int, count: int) -> tuple[float, Tensor]:
        """Returns L(alpha) and its gradient (B,) on batch `number` of the round, of `count` examples (0: all).

        One backward pass, and an inner product with each delta. Raises ArithmeticError if the loss is not finite.
        """
        context, split = self.context, self.context.splits("meta_dev")
        generator = stream(context.plan.seed, f"alphas {number}", self.round_number)
        rows = sample_rows(torch.arange(len(split)), count or len(split), generator)
        self.before.load_merged(alphas, self.deltas)
        context.network.eval()
        value, slope = 0.0, torch.zeros_like(self.before.theta)
        for part in rows.split(MAX_ROWS):
            batch = context.batches.end_task_batch(split, part).to(slope.device)
            with context.autocast():
                logits = context.network.logits(context.network.hidden(*batch.inputs), batch.targets.real)
            loss = example_losses(logits, batch.targets.labels).sum() / len(rows)
            slope += flat_gradient(loss, context.parameters)
            value += float(loss.detach())
        if not abs(value) < float("inf"):
            place = f"round {self.round_number + 1}"
            raise ArithmeticError(f"{place}: the loss on meta-dev is not finite; use a smaller alpha_lr or lr")
        return value, self.deltas.directional_derivatives(slope)

    def score(self, alphas: Tensor) -> tuple[float, float]:
        """Returns the metric and -L(alpha) on all of meta-dev; minus infinity for both if L is not finite."""
        key = tuple(alphas.tolist())
        if key not in self._scores:
            self.before.load_merged(alphas, self.deltas)
            context = self.context
            metric, loss = evaluate(
                context.network, context.splits("meta_dev"), context.batches, context.metric, context.process_group
            )
            lowest = float("-inf")
            self._scores[key] = (metric, -loss) if abs(loss) < float("inf") else (lowest, lowest)
        return self._scores[key]

    def leave_one_out_errors(self, alphas: Tensor, *, held_out: bool = False) -> Tensor:
        """Returns the leave-one-out errors (n,) of the round's examples, the same examples for all alphas."""
        self.before.load_merged(alphas, self.deltas)
        return self.dev_gradients.leave_one_out_errors(self.round_number, held_out=held_out).cpu()
