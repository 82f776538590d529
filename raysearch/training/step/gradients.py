"""The gradients of a step, as each strategy has computed them; implementations of `StepGradients`.

g_E, g_aux (D + H,)   the two sides, of body (D) and heads (H);  g_aux = sum_k w_k g_k
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor

from raysearch.gradients.task_gradients import TaskGradients
from raysearch.methods.surgery.base import NetworkGradient
from raysearch.methods.weighting.base import END_TASK, Coefficients
from raysearch.training.step.description import Step
from raysearch.training.step.head_scaling import HeadScaling


class ComputedGradients(ABC):
    """The base: what a strategy does not compute raises NotImplementedError."""

    def __init__(self, step: Step, heads: HeadScaling) -> None:
        self.step, self.heads = step, heads

    @abstractmethod
    def without_surgery(self) -> NetworkGradient:
        """Returns c_E g_E + c_aux g_aux."""

    @property
    def coefficients(self) -> Coefficients:
        """c_E, c_aux and w."""
        return self.step.coefficients

    def sides(self) -> tuple[Tensor, Tensor]:
        """Returns g_E and g_aux, (D + H,) each."""
        raise NotImplementedError

    def task_coefficients(self) -> list[float]:
        """Returns every task's coefficient, with 1 for an end task whose is 0."""
        return [self.step.head_coefficient(task) for task in self.step.tasks]

    def gramian(self) -> Tensor:
        """Returns the Gramian (tasks, tasks) of the tasks' gradients in the body, on the CPU."""
        raise NotImplementedError

    def weighted_sum(self, weights: Tensor) -> Tensor:
        """Returns the sum (D,) of the tasks' gradients in the body by `weights` (tasks,)."""
        raise NotImplementedError

    def from_sides(self, gradient: Tensor) -> NetworkGradient:
        """Splits a combination (D + H,) of the sides; the end task's head gets g_E times its `Step.head_coefficient`.

        It also gets c_aux times what objectives that borrow it have there.
        """
        g_e, g_aux = self.sides()
        D, is_of_end_task = len(g_e) - len(self.heads.is_of_end_task), self.heads.is_of_end_task
        end_task_head = self.step.head_coefficient(END_TASK) * g_e[D:] + self.coefficients.aux * g_aux[D:]
        return NetworkGradient(gradient[:D], torch.where(is_of_end_task, end_task_head, gradient[D:]))

    def from_body(self, gradient: Tensor) -> NetworkGradient:
        """Adds the heads to a gradient of the body (D,)."""
        raise NotImplementedError


class SumGradient(ComputedGradients):
    """The gradient of the weighted sum of all losses, from one backward pass."""

    def __init__(self, step: Step, heads: HeadScaling, total: Callable[[Step], Tensor]) -> None:
        """`total` computes the gradient (D + H,) with the step's coefficients."""
        super().__init__(step, heads)
        self.total = total

    def without_surgery(self) -> NetworkGradient:
        """Returns the gradient of the sum."""
        total, H = self.total(self.step), sum(self.heads.sizes)
        return NetworkGradient(total[: len(total) - H], total[len(total) - H :])


class SideGradients(ComputedGradients):
    """The gradients of the two sides, from one backward pass each."""

    def __init__(self, step: Step, heads: HeadScaling, sides: tuple[Tensor, Tensor]) -> None:
        super().__init__(step, heads)
        self._sides = sides

    def sides(self) -> tuple[Tensor, Tensor]:
        """Returns g_E and g_aux."""
        return self._sides

    def without_surgery(self) -> NetworkGradient:
        """Returns the weighted sum of the sides."""
        total, H = (
            self.coefficients.end_task * self._sides[0] + self.coefficients.aux * self._sides[1],
            sum(self.heads.sizes),
        )
        return NetworkGradient(total[: len(total) - H], total[len(total) - H :])


class PerTaskGradients(ComputedGradients):
    """The gradients of all tasks, from one backward pass to the layers' outputs."""

    def __init__(
        self,
        step: Step,
        heads: HeadScaling,
        gradients: TaskGradients,
        body_sides: tuple[Tensor, Tensor],
        head_gradient: Tensor,
        gramian: Tensor,
        reduce: Callable[[Tensor], Tensor],
        lent: Tensor | None = None,
    ) -> None:
        """`head_gradient` (H,) is of every head by its own task; `reduce` sums over ranks what is not summed yet.

        `lent` (H,) is sum_k w_k of the objectives' gradients in the end task's head.
        """
        super().__init__(step, heads)
        self.gradients, self.body_sides, self.head_gradient = gradients, body_sides, head_gradient
        self._gramian, self._reduce, self._lent = gramian, reduce, lent

    @cached_property
    def _sides(self) -> tuple[Tensor, Tensor]:
        end_task = self.head_gradient * self.heads.is_of_end_task
        aux = self.heads.scale_by_weight(self.step, self.head_gradient * ~self.heads.is_of_end_task)
        g_e, g_aux = self.body_sides
        aux = aux if self._lent is None else aux + self._lent
        return torch.cat([g_e, end_task]), torch.cat([g_aux, aux])

    def sides(self) -> tuple[Tensor, Tensor]:
        """Returns g_E and g_aux."""
        return self._sides

    def gramian(self) -> Tensor:
        """Returns the Gramian of the tasks' gradients in the body."""
        return self._gramian.cpu()

    def weighted_sum(self, weights: Tensor) -> Tensor:
        """Returns the weighted sum of the tasks' gradients in the body."""
        (total,) = self.gradients.summarise(weights[None]).sums
        return self._reduce(total)

    def from_body(self, gradient: Tensor) -> NetworkGradient:
        """Adds the heads, each with its own gradient times its `Step.head_coefficient`."""
        heads = self.heads.scale_by_coefficient(self.step, self.head_gradient)
        return NetworkGradient(gradient, heads if self._lent is None else heads + self.coefficients.aux * self._lent)

    def without_surgery(self) -> NetworkGradient:
        """Returns the weighted sum of the sides in the body, which overwrites g_E; and the heads as in `from_body`."""
        g_e, g_aux = self.body_sides
        return self.from_body(g_e.mul_(self.coefficients.end_task).add_(g_aux, alpha=self.coefficients.aux))
