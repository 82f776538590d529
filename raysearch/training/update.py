"""One step of the update rule that all methods share.

    theta <- theta - lr * [ c_E g_E  +  c_aux D( sum_k w_k g_k ) ]

A weighting gives c_E, c_aux and w, a surgery is D. Where the sum is all that is needed, one forward and one backward
serve the end task and all sampled objectives; where the end task's gradient is looked at apart from the auxiliaries',
they have one each; where every task's is, one backward that ends at the layers' outputs serves them all, and the
tasks' gradients are products of what the layers were given and got back (`gradients`). What a weighting learns from is
what it has in `required_gradients`: losses cost nothing, anything else has every task's gradient looked at.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Generator, Tensor

from raysearch.data.prepared import Splits
from raysearch.distributed import ProcessGroup
from raysearch.gradients.capture import LayerCapture
from raysearch.gradients.flat import assign_gradient, flat_gradient
from raysearch.gradients.parameter_blocks import ParameterBlocks, select_parameter_blocks
from raysearch.gradients.task_gradients import (
    DenseTaskGradients,
    FactoredTaskGradients,
    StreamingTaskGradients,
    SummaryRequest,
    TaskGradients,
    check_task_sum,
    group_by_parameter,
)
from raysearch.methods import METHODS
from raysearch.methods.schedule.phases import Phase
from raysearch.methods.surgery.attittud import Attittud
from raysearch.methods.weighting.base import END_TASK, GradientQuery, GradientSimilarities, StepObservation, Weighting
from raysearch.methods.weighting.task_sampling import no_auxiliary_tasks, sample_tasks
from raysearch.modalities.batch import BatchBuilder, TaskBatch
from raysearch.modalities.losses import example_losses
from raysearch.models.network import Network
from raysearch.plan import TrialPlan
from raysearch.rng import ShuffledRows, number_of, stream
from raysearch.training.basis_jacobian import Examples
from raysearch.training.dev_gradients import DevGradients
from raysearch.training.observations import (
    clip_factors,
    gradient_similarities,
    recompute_losses,
    reduce_losses,
    similarities_from_forwards,
)
from raysearch.training.step import SHARED, Losses, Step, TaskBatches, add_losses, assign_tasks_to_rank, rows_of, within

FORWARDS = ("jvp", "difference")  # engines that take no task's gradient


class Update:
    """Computes the gradient of a step and leaves it in `.grad`; knows nothing of optimizers, phases' ends and files."""

    def __init__(
        self,
        plan: TrialPlan,
        network: Network,
        splits: Splits,
        batches: BatchBuilder,
        classes: int,
        process_group: ProcessGroup,
    ) -> None:
        self.plan, self.network, self.splits, self.process_group = plan, network, splits, process_group
        self.batches, self.classes, self.training = batches, classes, plan.training
        self.body, self.heads = network.body_parameters(), network.head_parameters()
        self.parameters = [*self.body, *self.heads]
        self.weighting: Weighting = METHODS[plan.weighting].load()(
            plan.objectives, plan.method_settings("weighting"), *([plan.weights] if plan.weights else [])
        )
        self.surgery = METHODS[plan.surgery].load()(plan.method_settings("surgery"))
        self.order = ShuffledRows(len(splits("train")), plan.seed)
        self.capture = LayerCapture(network, self.body)
        self.dev_gradients = DevGradients(plan, network, splits, batches, classes, process_group, self.arithmetic)
        self.last_similarities: tuple[list[int], GradientSimilarities] | None = None
        self._taken: tuple[Step, TaskBatches] | None = None  # the step and its rows on this rank, to be looked at after
        self.scope: ParameterBlocks | None = None
        self.examples: Examples | None = None
        if isinstance(self.surgery, Attittud):
            settings = self.surgery.settings
            self.scope = select_parameter_blocks(
                settings.scope, network.body, self.body, self.heads, settings.last_layers
            )
            self.examples = Examples(
                plan, network, self.scope, splits("train"), batches, process_group, self.arithmetic
            )
        own = {id(p): END_TASK for p in network.end_task.parameters()}
        for number, head in enumerate(network.heads):
            own |= {id(p): SHARED if id(p) in own else number for p in head.parameters()}
        self.head_tasks = [own[id(p)] for p in self.heads]
        self.shared = [p for p, task in zip(self.heads, self.head_tasks, strict=True) if task == SHARED]
        owners = [torch.full((p.numel(),), task) for p, task in zip(self.heads, self.head_tasks, strict=True)]
        of = torch.cat(owners).to(process_group.device)  # whose each number of the heads' flat gradient is
        self.of_end_task, self.of_shared = of == END_TASK, of == SHARED

    # ---- a step ----

    def __call__(self, phase: Phase, number: int) -> Losses:
        """Set the gradients of step `number` (from 1) and let the weighting learn.

        Raises ArithmeticError if a loss is not finite.
        """
        generator = stream(self.plan.seed, "step", number)
        self.seed(number)
        drawn = (
            sample_tasks(self.weighting, self.training, generator)
            if phase.trains_objectives
            else no_auxiliary_tasks(self.weighting)
        )
        sampled = drawn.sampled
        cuts = self.surgery is not None and bool(sampled)
        query = self.weighting.required_gradients(number) if sampled else GradientQuery()
        tasks = [END_TASK] * (phase.trains_end_task or cuts) + sampled
        step = Step(number, tasks, sampled, within(phase, drawn.coefficients), drawn.batch_sizes, drawn.sets)
        groups = self._groups(step, generator)
        self.last_similarities = self._taken = None
        apart = cuts and (self.weighting.weights_from_current_step or not isinstance(self.surgery, Attittud))
        forwards = query.compare == "dev_head" and self.training.engine in FORWARDS
        if (query and not forwards) or apart:
            return self._per_task_step(step, groups, query, generator)
        if cuts or forwards:
            return self._two_backward_step(step, groups, forwards, generator)
        return self._joint_step(step, groups)

    def single_rank(self) -> Update:
        """The same for this rank by itself: whole batches, and nothing is summed over ranks."""
        other = copy.copy(self)
        other.process_group = ProcessGroup(device=self.process_group.device)
        return other

    def compute_step(self, step: Step, generator: Generator) -> Losses:
        """Set the gradients of a step that is settled already; ArithmeticError if a loss is not finite."""
        return self._joint_step(step, self._groups(step, generator))

    def observe_after_update(self) -> None:
        """Tell a weighting that looks after the update the losses of the step's rows now, dropout drawn as before."""
        if self._taken is None:
            return
        (step, mine), buffers = self._taken, [buffer.clone() for buffer in self.network.buffers()]
        with torch.no_grad():
            said = recompute_losses(self, step, [mine])
            for buffer, before in zip(self.network.buffers(), buffers, strict=True):
                buffer.copy_(before)
        self.weighting.observe_after_update(step.sampled, reduce_losses(self.process_group, step, said))

    def seed(self, number: int) -> None:
        """Begin dropout's random numbers of a step, once more if need be."""
        self.process_group.seed(number_of(self.plan.seed, f"dropout {self.process_group.rank}", number))

    def _joint_step(self, step: Step, groups: TaskBatches) -> Losses:
        """One backward for body and heads."""
        mine = self._mine(groups)
        if step.sampled and self.weighting.weights_from_current_step:  # in one part: micro-batches are refused
            (some,) = self.micro(mine)
            losses = self.losses(some)
            said = reduce_losses(self.process_group, step, losses)
            step = self._learn(step, said)
            gradient = self._gradient(losses, step.coefficient)
        else:
            parts, gradient = self._backward(mine, step.coefficient)
            said = reduce_losses(self.process_group, step, parts)
            step = self._learn(step, said)
        self._taken = (step, mine) if step.sampled and self.weighting.needs_losses_after_update else None
        self._level()
        assign_gradient(self.process_group.sum(gradient), self.parameters)
        return step.losses(said)

    def _two_backward_step(self, step: Step, groups: TaskBatches, forwards: bool, generator: Generator) -> Losses:
        """A forward and a backward for the end task, and for the auxiliaries' sum; products with v from forwards."""
        v = self.dev_gradients("dev_head", step.number) if forwards else None
        mine = self._mine(groups)
        sides = [[pair for pair in mine if (pair[0] == END_TASK) == own] for own in (True, False)]
        self.seed(step.number)
        (e_said, g_e), (a_said, g_aux) = (self._backward(side, step.weight) for side in sides)
        said = reduce_losses(self.process_group, step, before := e_said | a_said)
        self._level()
        sums = self.process_group.sum(g_e), self.process_group.sum(g_aux)
        similarities = similarities_from_forwards(self, step, sides, before, sums, v) if v is not None else None
        self._learn(step, said, similarities)
        if forwards and self.surgery is None:
            assign_gradient(step.factors.end_task * sums[0] + step.factors.aux * sums[1], self.parameters)
        else:
            self._cut(step, *sums, generator)
        return step.losses(said)

    def _per_task_step(self, step: Step, groups: TaskBatches, query: GradientQuery, generator: Generator) -> Losses:
        """One backward to the layers' outputs, and from there every task's gradient."""
        v = self.dev_gradients(query.compare, step.number)
        conflict = self.surgery is not None and not isinstance(self.surgery, Attittud)
        pairs = conflict or query.gradients == "products" or query.compare == "end_task"
        cosine = getattr(self.weighting.settings, "similarity", "dot") == "cosine"
        clips = getattr(self.weighting.settings, "task_clip", 0.0) if v is not None else 0.0
        norms = bool(query.gradients or cosine or clips)
        once = not (pairs or clips or self.weighting.weights_from_current_step) and self.training.micro_batches == 1
        heads, gradients, parts = self._task_gradients(
            step, groups, SummaryRequest(step.sides(), v, norms) if once else None
        )
        said = reduce_losses(self.process_group, step, parts)
        self._level()
        whole = pairs and self.process_group.world > 1
        if whole:  # rows of one product on two ranks: every gradient is summed over ranks
            everything = gradients.summarise(torch.eye(len(step.tasks), dtype=torch.float64)).sums
            gradients = DenseTaskGradients(self.process_group.sum(everything))
        look = gradients.summarise(step.sides(), v, norms=norms, gramian=pairs)
        g_e, g_aux = look.sums if whole else self.process_group.sum(look.sums)
        if clips and (kept := clip_factors(self.process_group, clips, look, summed=whole)) is not None:
            sums = gradients.summarise(step.sides() * kept).sums
            g_e, g_aux = sums if whole else self.process_group.sum(sums)
        taught = self._learn(
            step,
            said,
            *gradient_similarities(self.process_group, step, query, look, (g_e, g_aux), v, cosine=cosine, summed=whole),
        )
        if taught is not step:
            step, sums = taught, gradients.summarise(taught.sides()).sums
            g_e, g_aux = sums if whole else self.process_group.sum(sums)
        self._taken = (step, self._whole(groups)) if self.weighting.needs_losses_after_update else None
        heads = self.process_group.sum(heads)
        if conflict:
            assign_gradient(self._settled(step, gradients, look.gramian, generator), self.body)
            assign_gradient(self._scaled(step, heads), self.heads)
        elif self.surgery is not None:
            both = torch.cat([g_e, heads * self.of_end_task])
            aux = torch.cat([g_aux, self._weighed(step, heads * ~self.of_end_task)])
            self._cut(step, both, aux, generator)
        else:
            assign_gradient(g_e.mul_(step.factors.end_task).add_(g_aux, alpha=step.factors.aux), self.body)
            assign_gradient(self._scaled(step, heads), self.heads)
        return step.losses(said)

    # ---- learning ----

    def _learn(
        self, step: Step, said: Tensor, similarities: GradientSimilarities | None = None, gramian: Tensor | None = None
    ) -> Step:
        """Tell the weighting what the step has shown; the step with its factors after that, if it settles then."""
        if not step.sampled:
            return step
        if step.tasks[0] != END_TASK:
            said = torch.cat([said.new_zeros(1), said])
        self.weighting.learn(step.sampled, StepObservation(said, similarities, gramian))
        if similarities is not None:
            self.last_similarities = (step.sampled, similarities)
        if not self.weighting.weights_from_current_step:
            return step
        return replace(step, factors=self.weighting.coefficients(step.sampled))

    # ---- surgery ----

    def _cut(self, step: Step, g_e: Tensor, g_aux: Tensor, generator: Generator) -> None:
        """ATTITTUD on the auxiliaries' gradient; both are of body and heads, (D + heads,)."""
        assert isinstance(self.surgery, Attittud)
        assert self.scope is not None
        assert self.examples is not None
        jacobians = self.examples.jacobians(step.number, generator)
        parts_aux, parts_e = self.scope.split(g_aux), self.scope.split(g_e)
        cut = self.scope.replace(g_aux, self.surgery(parts_aux, parts_e, jacobians, generator))
        gradient = cut.mul_(step.factors.aux).add_(g_e, alpha=step.factors.end_task)
        own = step.factors.end_task or 1.0  # its head still learns while only the auxiliaries move the body
        D = len(g_e) - len(self.of_end_task)
        gradient[D:] = torch.where(self.of_end_task, own * g_e[D:], gradient[D:])
        assign_gradient(gradient, self.parameters)

    def _settled(self, step: Step, gradients: TaskGradients, gramian: Tensor, generator: Generator) -> Tensor:
        """The body's gradient (D,) after a surgery that looks at all pairs of tasks."""
        whole = [step.coefficient(t) or 1.0 for t in step.tasks]  # an end task that is only looked at is seen whole
        rows = torch.diag(torch.tensor(whole, dtype=torch.float64))
        if self.surgery.settings.conflict_between == "sum":
            rows = torch.stack([rows[0], rows[1:].sum(dim=0)])
        gramian = gramian.cpu()
        factors: Tensor = self.surgery.coefficients(rows @ gramian @ rows.T, generator)
        if not step.factors.end_task:
            factors[0] = 0.0
        summed = isinstance(gradients, DenseTaskGradients)
        (gradient,) = gradients.summarise((factors @ rows)[None]).sums
        return gradient if summed else self.process_group.sum(gradient)

    # ---- gradients ----

    def _backward(self, groups: TaskBatches, factor: Callable[[int], float]) -> tuple[dict[int, Tensor], Tensor]:
        """This rank's part of each task's loss, and the gradient of their sum by `factor`, in body and heads."""
        said: dict[int, Tensor] = {}
        gradient: Tensor | None = None
        for some in self.micro(groups):
            losses = self.losses(some)
            own = self._gradient(losses, factor)
            gradient = own if gradient is None else gradient.add_(own)
            add_losses(said, losses)
        return said, self._gradient({}, factor) if gradient is None else gradient  # zeros where a rank has no rows

    def _gradient(self, losses: dict[int, Tensor], factor: Callable[[int], float]) -> Tensor:
        """The gradient of the losses' sum by `factor`, in body and heads."""
        total = sum((factor(task) * loss for task, loss in losses.items()), torch.zeros(()))
        return flat_gradient(total, self.parameters)

    def _task_gradients(
        self, step: Step, groups: TaskBatches, request: SummaryRequest | None
    ) -> tuple[Tensor, TaskGradients, dict[int, Tensor]]:
        """The heads' gradients, unweighted but shared ones; every task's in the body; their losses.

        A task's rows are on one rank. `request` is the only summary that will be taken, if that is known.
        """
        said: dict[int, Tensor] = {}
        mine = self._whole(groups)
        heads = torch.zeros(sum(p.numel() for p in self.heads), device=self.process_group.device)
        if self.training.engine == "backward" or (self.network.couples_rows and self.training.engine != "products"):
            D = sum(p.numel() for p in self.body)
            g = torch.zeros(len(step.tasks), D, device=self.process_group.device)
            for task, group in mine:
                own, gradient = self._backward([(task, group)], lambda _: 1.0)
                add_losses(said, own)
                g[step.tasks.index(task)] = gradient[:D]
                heads += torch.where(self.of_shared, self._head_factor(step, task), 1.0) * gradient[D:]
            return heads, DenseTaskGradients(g), said
        found = []
        for some in self.micro(mine):
            with self.capture.recording(sum(len(group) for _, group in some)):
                losses = self.losses(some)
            total = sum(losses.values(), torch.zeros(()))
            expected = flat_gradient(total, self.body, keep_graph=True) if not self._is_checked else None
            together = [self._head_factor(step, task) * loss for task, loss in losses.items()] if self.shared else []
            shared = flat_gradient(sum(together, torch.zeros(())), self.shared, keep_graph=True) if together else None
            ahead = (
                StreamingTaskGradients(self.body, tuple(step.tasks), rows_of(some), request)
                if request is not None and expected is None
                else None
            )
            pieces, own_heads = self.capture.collect_factors(total, self.heads, ahead.add_parameter if ahead else None)
            if own_heads:
                flat = torch.cat([g.flatten() for g in own_heads])
                heads += flat if shared is None else flat.masked_scatter(self.of_shared, shared)
            if ahead is not None:
                ahead.add_remaining(pieces)
                add_losses(said, losses)
                return heads, ahead, said
            found.append((pieces, rows_of(some)))
            if expected is not None:
                here = FactoredTaskGradients(
                    group_by_parameter(self.body, found[-1:]), tuple(task for task, _ in some), self.body[0]
                )
                check_task_sum(here, expected, self.capture, is_low_precision=self.training.precision == "bfloat16")
                self.capture.warn_about_slow_modules()
                self._is_checked = True
            add_losses(said, losses)
        return (
            heads,
            FactoredTaskGradients(group_by_parameter(self.body, found), tuple(step.tasks), self.body[0].detach()),
            said,
        )

    _is_checked = False  # have the tasks' gradients been held against a plain backward?

    def _weighed(self, step: Step, heads: Tensor) -> Tensor:
        """Each head's gradient times its task's w_k; 0 for tasks that have no part in the step."""
        return self._times(heads, {task: step.weight(task) for task in step.tasks})

    def _scaled(self, step: Step, heads: Tensor) -> Tensor:
        """Each head's gradient times its task's coefficient; an end task that is only looked at keeps its own."""
        return self._times(heads, {task: step.coefficient(task) or 1.0 for task in step.tasks})

    def _head_factor(self, step: Step, task: int) -> float:
        """What a task's gradient in its head is multiplied by, as in `_weighed` and `_scaled`."""
        return step.weight(task) if isinstance(self.surgery, Attittud) else step.coefficient(task) or 1.0

    def _times(self, heads: Tensor, factors: dict[int, float]) -> Tensor:
        factors = {SHARED: 1.0, **factors}
        pieces = heads.split([p.numel() for p in self.heads])
        return torch.cat([piece * factors.get(t, 0.0) for piece, t in zip(pieces, self.head_tasks, strict=True)])

    def _level(self) -> None:
        """Let what BatchNorm has kept, on each rank of its own rows, be its mean over ranks; no backward is to come."""
        if self.process_group.world > 1 and (kept := self.network.statistics()):
            mean = (
                self.process_group.sum(torch.cat([one.double().flatten() for one in kept])) / self.process_group.world
            )
            for one, part in zip(kept, mean.split([one.numel() for one in kept]), strict=True):
                one.copy_(part.view_as(one))

    # ---- forwards ----

    def _groups(self, step: Step, generator: Generator) -> TaskBatches:
        """The step's rows: the end task's, and each objective's share of the auxiliary batch."""
        groups: TaskBatches = []
        for task in step.tasks:
            if task == END_TASK:
                rows = self.order.rows((step.number - 1) * self.training.batch_size, self.training.batch_size)
                groups.append((task, self.batches.end_task_batch(self.splits("train"), rows)))
            else:
                groups.append(
                    (task, self.batches.objective_batch(self.plan.objectives[task], step.rows[task], generator))
                )
        return groups

    def _mine(self, groups: TaskBatches) -> TaskBatches:
        """Every rank's slice of every task's rows."""
        return [
            (task, group.slice(self.process_group.rank, self.process_group.world).to(self.process_group.device))
            for task, group in groups
        ]

    def _whole(self, groups: TaskBatches) -> TaskBatches:
        """The tasks of this rank, all their rows: norms and products of a task's gradient are then its alone."""
        return [
            (task, group.to(self.process_group.device))
            for task, group in assign_tasks_to_rank(groups, self.process_group.rank, self.process_group.world)
        ]

    def micro(self, groups: TaskBatches) -> Iterator[TaskBatches]:
        """The same rows in parts, one after another in memory."""
        count = self.training.micro_batches
        for i in range(count):
            some = [(task, group.slice(i, count)) for task, group in groups]
            if some := [(task, group) for task, group in some if len(group)]:
                yield some

    def losses(self, groups: TaskBatches) -> dict[int, Tensor]:
        """Each task's share of its mean loss, by one forward, or by one each where a body mixes rows."""
        losses = {}
        with self.arithmetic():
            if self.network.couples_rows:
                hidden = [self.network.hidden(*group.inputs) for _, group in groups]
            else:
                rows = self.network.hidden(*self.batches.collate([group for _, group in groups]))
                hidden = list(rows.split([len(group) for _, group in groups]))
            for (task, group), part in zip(groups, hidden, strict=True):
                with self.capture.inside_head(task):
                    losses[task] = self._loss(task, part[:, : group.inputs[0].shape[1]], group)
        return losses

    def _loss(self, task: int, hidden: Tensor, group: TaskBatch) -> Tensor:
        if task != END_TASK:
            return self.batches.output(self.plan.objectives[task])(hidden, group.targets, self.network.heads[task])
        return example_losses(self.network.end_task(hidden), group.targets.labels).sum() / group.targets.rows_total

    def arithmetic(self) -> torch.autocast:
        """The precision of forwards."""
        lower = self.training.precision == "bfloat16"
        return torch.autocast(self.process_group.device.type, dtype=torch.bfloat16, enabled=lower)
