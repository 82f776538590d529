"""One step of the update rule that all methods share.

    theta <- theta - lr * [ c_E g_E  +  c_aux D( sum_k w_k g_k ) ]

A weighting gives c_E, c_aux and w, a surgery is D. One forward and one backward serve the end task and all sampled
objectives where their sum is all that is needed. Otherwise this is the reference: one backward for each gradient that
a method wants to see on its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from raysearch.batches import Batches, Group, Shuffled, number_of, stream
from raysearch.gradients import assign, cosine, flat_gradient, per_example_gradients
from raysearch.methods import METHODS
from raysearch.methods.attittud import Attittud
from raysearch.methods.dev_head import dev_loss, draw, parts
from raysearch.methods.schedules import Phase
from raysearch.methods.static import Coefficients, Scores, Weighting
from raysearch.model import Network
from raysearch.plan import TrialPlan
from raysearch.primitives.output import OUTPUTS, example_losses
from raysearch.ranks import Ranks
from raysearch.settings import DevHead
from raysearch.tasks import Split, open_split

END_TASK = -1  # beside the objectives' numbers


class Splits:
    """The splits that a trial may read, each mapped once; test is not among them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._open: dict[str, Split] = {}

    def __call__(self, name: str) -> Split:
        """One split by name."""
        if name == "test":
            raise ValueError("a trial may not open the test split")
        if name not in self._open:
            self._open[name] = open_split(self.folder, name)
        return self._open[name]


@dataclass(frozen=True)
class Losses:
    """Mean losses of a step over all ranks, nat."""

    end_task: float
    aux: float  # sum_k w_k L_k


class Update:
    """Computes the gradient of a step and leaves it in `.grad`; knows nothing of optimizers, phases' ends and files."""

    def __init__(
        self, plan: TrialPlan, network: Network, splits: Splits, batches: Batches, classes: int, ranks: Ranks
    ) -> None:
        self.plan, self.network, self.splits, self.ranks = plan, network, splits, ranks
        self.batches, self.classes, self.training = batches, classes, plan.training
        self.body, self.heads = network.body_parameters(), network.head_parameters()
        self.weighting: Weighting = METHODS[plan.weighting].load()(plan.objectives, plan.method("weighting"))
        self.surgery: Attittud | None = METHODS[plan.surgery].load()(plan.method("surgery"))
        self.order = Shuffled(len(splits("train")), plan.seed)
        self.basis_order = Shuffled(len(splits("train")), number_of(plan.seed, "basis", 0))
        self.bases = 0  # Jacobians taken so far
        self.last_scores: tuple[list[int], Scores] | None = None

    # ---- a step ----

    def __call__(self, phase: Phase, step: int) -> Losses:
        """Set the gradients of step `step` (from 1) and let the weighting learn.

        Raises ArithmeticError if a loss is not finite.
        """
        generator = stream(self.plan.seed, "step", step)
        torch.manual_seed(number_of(self.plan.seed, f"dropout {self.ranks.rank}", step))
        sampled = self.weighting.sample(generator) if phase.auxiliary else []
        factors = _within(phase, self.weighting.coefficients(sampled))
        wants_scores = bool(sampled) and self.weighting.wants_scores(step)
        with_end_task = phase.end_task or (self.surgery is not None and bool(sampled))
        groups = self._groups(sampled, factors, with_end_task, step, generator)
        apart = wants_scores or (self.surgery is not None and bool(sampled))
        end_task, each = self._losses(groups, sampled, with_end_task, apart)
        aux = sum((w * loss for w, loss in zip(factors.objectives.tolist(), each, strict=True)), torch.zeros(()))
        losses = self._checked(end_task, aux, step)
        self.last_scores = None
        if apart:
            self._apart(factors, sampled, end_task, each, aux, wants_scores, step)
        else:
            self._together(factors.end_task * end_task + factors.aux * aux)
        return losses

    def _together(self, total: Tensor) -> None:
        """One backward for body and heads."""
        gradient = self.ranks.sum(flat_gradient(total, [*self.body, *self.heads]))
        assign(gradient, [*self.body, *self.heads])

    def _apart(
        self,
        factors: Coefficients,
        sampled: list[int],
        end_task: Tensor,
        each: list[Tensor],
        aux: Tensor,
        wants_scores: bool,
        step: int,
    ) -> None:
        """A backward for each gradient that is looked at, then one for the heads."""
        flat = partial(flat_gradient, parameters=self.body, keep_graph=True)
        g_e = self.ranks.sum(flat(end_task))
        if wants_scores:
            g_each = [self.ranks.sum(flat(loss)) for loss in each]
            g_aux = torch.zeros_like(g_e)
            for weight, gradient in zip(factors.objectives.tolist(), g_each, strict=True):
                g_aux += weight * gradient
        else:
            g_aux = self.ranks.sum(flat(aux))
        total = factors.end_task * end_task + factors.aux * aux
        if self.surgery is not None and not factors.end_task:
            total = total + end_task  # its head still learns while only the auxiliaries move the body
        head_gradient = self.ranks.sum(flat_gradient(total, self.heads))
        if wants_scores:
            self._learn(sampled, g_e, g_each, g_aux, step)
        if self.surgery is not None:
            g_aux = self.surgery(g_aux, g_e, self._jacobian)
        assign(factors.end_task * g_e + factors.aux * g_aux, self.body)
        assign(head_gradient, self.heads)

    def _learn(self, sampled: list[int], g_e: Tensor, g_each: list[Tensor], g_aux: Tensor, step: int) -> None:
        """Compare every gradient with the dev gradient and tell the weighting."""
        v = self._dev_gradient(step)
        settings: DevHead = self.plan.method("weighting")
        alike = cosine if settings.similarity == "cosine" else torch.dot
        values = [alike(g, v) for g in (g_e, g_aux, *g_each)]
        numbers = torch.stack(values).double().cpu()
        scores = Scores(numbers[2:], float(numbers[0]), float(numbers[1]))
        self.weighting.learn(sampled, scores)
        self.last_scores = (sampled, scores)

    # ---- its parts ----

    def _groups(
        self, sampled: list[int], factors: Coefficients, with_end_task: bool, step: int, generator: torch.Generator
    ) -> list[Group]:
        """The step's rows: the end task's first if it takes part, then each objective's share of the batch."""
        training, groups = self.training, []
        if with_end_task:
            rows = self.order.rows((step - 1) * training.batch_size, training.batch_size)
            groups.append(self.batches.plain(self.splits("train"), rows))
        for index, weight in zip(sampled, factors.objectives.tolist(), strict=True):
            count = max(1, round(weight * training.aux_batch_size))
            groups.append(self.batches.objective(self.plan.objectives[index], count, generator))
        return [group.slice(self.ranks.rank, self.ranks.world).to(self.ranks.device) for group in groups]

    def _losses(
        self, groups: list[Group], sampled: list[int], with_end_task: bool, apart: bool
    ) -> tuple[Tensor, list[Tensor]]:
        """This rank's part of the end task's mean loss and of each objective's.

        One forward for all rows; or, where gradients are looked at `apart`, one for each group, so that a group's
        backward goes through its own rows alone. A group of which this rank has no row has loss 0 here.
        """
        whose = [END_TASK] * with_end_task + sampled
        losses = {END_TASK: torch.zeros((), device=self.ranks.device)} | dict.fromkeys(sampled, torch.zeros(()))
        mine = [(index, group) for index, group in zip(whose, groups, strict=True) if len(group)]
        with self._arithmetic():
            if apart:
                hidden = [self.network.hidden(*group.inputs) for _, group in mine]
            else:
                rows = self.network.hidden(*self.batches.stack([group for _, group in mine]))
                hidden = list(rows.split([len(group) for _, group in mine]))
            for (index, group), part in zip(mine, hidden, strict=True):
                losses[index] = self._loss(index, part[:, : group.inputs[0].shape[1]], group)
        return losses[END_TASK], [losses[index] for index in sampled]

    def _loss(self, index: int, hidden: Tensor, group: Group) -> Tensor:
        """This rank's part of one task's mean loss."""
        if index != END_TASK:
            output = OUTPUTS[self.plan.objectives[index].output]
            return output(hidden, group.targets, self.network.heads[index])
        return example_losses(self.network.end_task(hidden), group.targets.labels).sum() / group.targets.rows_total

    def _checked(self, end_task: Tensor, aux: Tensor, step: int) -> Losses:
        both = torch.stack([end_task.detach(), aux.detach().to(end_task.device)])
        e, a = self.ranks.sum(both).tolist()
        if not (abs(e) < float("inf") and abs(a) < float("inf")):
            raise ArithmeticError(f"step {step}: the loss is not finite (end task {e}, auxiliary {a})")
        return Losses(e, a)

    def _jacobian(self, m: int) -> Tensor:
        """J (m, D): gradients of m end-task examples drawn anew, dropout off; the ranks share the work."""
        rows = self.basis_order.rows(self.bases * m, m)[self.ranks.rank :: self.ranks.world]
        self.bases += 1
        split = self.splits("train")

        def loss_of(i: int) -> Tensor:
            group = self.batches.plain(split, rows[i : i + 1]).to(self.ranks.device)
            logits = self.network.end_task(self.network.hidden(*group.inputs))
            return example_losses(logits, group.targets.labels).mean()

        self.network.eval()
        J = per_example_gradients(loss_of, len(rows), self.body)
        self.network.train()
        return self.ranks.gather_rows(J)

    def _dev_gradient(self, step: int) -> Tensor:
        """The gradient v (D,) of meta-dev's loss through a newly fitted dev head; the same on every rank."""
        split, settings = self.splits("meta_dev"), self.plan.method("weighting")
        generator = stream(self.plan.seed, "meta", step)
        fitted_on, rest = parts(len(split), settings)
        meta = draw(rest, settings.meta_batch_size, generator)

        def encode(rows: Tensor) -> tuple[Tensor, Tensor]:
            group = self.batches.plain(split, rows).to(self.ranks.device)
            with self._arithmetic():
                return self.network.hidden(*group.inputs)[:, 0], group.targets.labels

        self.network.eval()
        v = flat_gradient(dev_loss(encode, fitted_on, meta, self.classes, settings, generator), self.body)
        self.network.train()
        return v

    def _arithmetic(self) -> torch.autocast:
        lower = self.training.precision == "bfloat16"
        return torch.autocast(self.ranks.device.type, dtype=torch.bfloat16, enabled=lower)


def _within(phase: Phase, factors: Coefficients) -> Coefficients:
    """The weighting's factors, as far as the phase lets each side take part."""
    if phase.end_task and phase.auxiliary:
        return factors
    return Coefficients(float(phase.end_task), float(phase.auxiliary), factors.objectives)
