"""What each layer is given and sends on in one forward, and from it every row's gradient after one backward.

The backward goes to the layers' outputs only: no parameter's gradient is computed, none is written down. Linear,
embedding, convolution and normalisation layers have product forms (`factors`); in any other module that owns
parameters the rows go back through that module alone, one at a time, and `LayerCapture.slow` names it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from raysearch.gradients.factors import DenseFactor, Factor
from raysearch.gradients.layer_rules import NORMALIZATION_LAYERS, SUPPORTED_LAYERS, gradient_rule_for, group_by_example

WHOLE_BATCH = -2
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TaskFactor:
    """One use of a parameter: its factor, and the task whose rows alone are in it (WHOLE_BATCH: the whole batch's)."""

    factor: Factor
    task: int


@dataclass(frozen=True)
class ModuleCall:
    """One call of a module."""

    module: nn.Module
    given: Tensor | None  # its first input
    version: int  # of that input
    sent: tuple[GradientEdge, ...]  # where the gradients of its outputs arrive; the outputs are not kept
    task: int  # whose head it is part of; WHOLE_BATCH in the body, where all rows are


FactorCallback = Callable[[int, TaskFactor], None]  # number of a parameter, its only use


class LayerCapture:
    """Watches the layers of `root` that use `parameters`; `pieces` gives each parameter's factors."""

    def __init__(self, root: nn.Module, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = list(parameters)
        self.slow_modules: dict[str, str] = {}  # modules whose rows go back one at a time, and their class
        wanted = {id(p) for p in parameters}
        self._names = {module: name for name, module in root.named_modules()}
        self._owners: dict[int, list[nn.Module]] = {id(p): [] for p in parameters}
        self._watched: list[nn.Module] = []
        for module in root.modules():
            for own in module._parameters.values():
                if id(own) in wanted and module not in self._owners[id(own)]:
                    self._owners[id(own)].append(module)
            if any(id(p) in wanted for p in module.parameters()):
                self._watched.append(module)
        self._parents = {child: module for module in root.modules() for child in module.children()}
        self._calls: dict[nn.Module, list[ModuleCall]] = {}
        self._rows = 0
        self._task = WHOLE_BATCH

    @contextmanager
    def recording(self, rows: int) -> Iterator[None]:
        """Remember the calls of a forward whose inputs have `rows` rows."""
        self._calls, self._rows = {}, rows
        hooks = [module.register_forward_hook(self._remember) for module in self._watched]
        hooks += [m.register_forward_pre_hook(self._expand) for m in self._watched if isinstance(m, nn.Embedding)]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @contextmanager
    def inside_head(self, task: int) -> Iterator[None]:
        """What is called now sees rows of this task alone, in an order of its own."""
        self._task = task
        try:
            yield
        finally:
            self._task = WHOLE_BATCH

    def collect_factors(
        self, loss: Tensor, others: Sequence[Tensor] = (), at_once: FactorCallback | None = None
    ) -> tuple[list[tuple[TaskFactor, ...]], list[Tensor]]:
        """For each parameter the factors of every row's own share of the gradient of `loss`; gradients of `others`.

        With `at_once`, the factor of a parameter that is used but once is handed to it as the backward passes by, and
        not kept. Raises ValueError for a layer in which rows cannot be told apart.
        """
        used = [self._users(parameter) for parameter in self.parameters]
        calls = list({id(call): call for found in used for call in found}.values())
        self._calls = {}
        keep = any(not self._has_form(call, p) for p, own in zip(self.parameters, used, strict=True) for call in own)
        owned: dict[int, list[nn.Parameter]] = {id(call): [] for call in calls}
        for parameter, own in zip(self.parameters, used, strict=True):
            for call in own:
                owned[id(call)].append(parameter)
        factors: dict[tuple[int, int], list[Factor]] = {}
        once = {id(p): n for n, (p, own) in enumerate(zip(self.parameters, used, strict=True)) if len(own) == 1}

        def take(call: ModuleCall, back: tuple[Tensor | None, ...]) -> None:
            for p in owned[id(call)]:
                found = list(self._factor(call, p, back))
                if at_once is not None and id(p) in once and len(found) == 1:
                    at_once(once[id(p)], TaskFactor(found[0], call.task))
                else:
                    factors[id(call), id(p)] = found

        alone = {id(call) for call in calls if all(id(p) in once for p in owned[id(call)])} if at_once else set()
        passed, asked = _passed(loss, calls, alone)
        hooks = [call.sent[0].node.register_prehook(partial(_taking, take, call)) for call in passed]
        sent: list[Any] = [edge for call in asked for edge in call.sent]
        try:
            got = torch.autograd.grad(loss, [*sent, *others], retain_graph=keep, allow_unused=True)
        finally:
            for hook in hooks:
                hook.remove()
        at = 0
        for call in asked:
            take(call, got[at : at + len(call.sent)])
            at += len(call.sent)
        found = [
            tuple(
                TaskFactor(factor, call.task) for call in own for factor in factors.get((id(call), id(parameter)), ())
            )
            for parameter, own in zip(self.parameters, used, strict=True)
        ]
        rest = [torch.zeros_like(o) if g is None else g for o, g in zip(others, got[at:], strict=True)]
        return found, rest

    def check_gradient(self, found: Tensor, expected: Tensor, tolerance: float) -> None:
        """Raise ValueError, naming a layer, unless a gradient from factors is that of a plain backward, (D,) both."""
        sizes = [p.numel() for p in self.parameters]
        off = (found - expected).norm()
        if off <= tolerance * expected.norm():
            return
        errors = [float(part.norm()) for part in (found - expected).split(sizes)]
        worst = self.parameters[errors.index(max(errors))]
        layer = next(self._name(module) for module in self._owners[id(worst)])
        raise ValueError(
            f"{layer}: rows' gradients do not add up (off by {float(off / expected.norm()):.1e} of the whole); "
            "this model needs engine: backward"
        )

    def warn_about_slow_modules(self) -> None:
        """Log which modules have no product form, if any."""
        if self.slow_modules:
            named = ", ".join(f"{name} ({kind})" for name, kind in sorted(self.slow_modules.items()))
            logger.warning("no product form for %s: rows go back through each alone, one at a time", named)

    # ---- what was called ----

    def _remember(self, module: nn.Module, given: tuple[Any, ...], sent: Any) -> None:
        tensors = [tensor for tensor in _tensors(sent) if tensor.requires_grad]
        if not torch.is_grad_enabled():
            raise ValueError(
                f"{self._name(module)} runs without gradients, as under re-entrant activation checkpointing; "
                "use use_reentrant=False"
            )
        first = given[0] if given and isinstance(given[0], Tensor) and isinstance(module, SUPPORTED_LAYERS) else None
        edges = tuple(get_gradient_edge(tensor) for tensor in tensors)
        call = ModuleCall(module, first, first._version if first is not None else 0, edges, self._task)
        self._calls.setdefault(module, []).append(call)

    def _expand(self, module: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Ids that all rows share, as positions are, once for each row: the same sum, told apart."""
        del module
        ids = given[0]
        return (ids.expand(self._rows, *ids.shape[1:]), *given[1:]) if ids.shape[0] == 1 < self._rows else None

    def _users(self, parameter: nn.Parameter) -> list[ModuleCall]:
        """The calls of the modules that own a parameter, or of the nearest that were called around them."""
        found: dict[int, ModuleCall] = {}
        for module in self._owners[id(parameter)]:
            around: nn.Module | None = module
            while around is not None and around not in self._calls:
                around = self._parents.get(around)
            for call in self._calls.get(around, []) if around is not None else []:
                found[id(call)] = call
        return list(found.values())

    def _name(self, module: nn.Module) -> str:
        return f"{self._names.get(module, '?')} ({type(module).__name__})"

    # ---- factors ----

    def _has_form(self, call: ModuleCall, parameter: nn.Parameter) -> bool:
        return (
            any(own is parameter for own in call.module._parameters.values())
            and gradient_rule_for(call.module) is not None
        )

    def _factor(self, call: ModuleCall, parameter: nn.Parameter, back: tuple[Tensor | None, ...]) -> Iterator[Factor]:
        if all(g is None for g in back):
            return
        if self._has_form(call, parameter):
            form, gradient = gradient_rule_for(call.module), back[0]
            assert form is not None
            assert gradient is not None
            assert call.given is not None
            if call.given._version != call.version:
                raise ValueError(f"{self._name(call.module)}: its input is changed in place afterwards")
            in_head = call.task != WHOLE_BATCH
            for tensor in () if in_head else (call.given, gradient):
                self._lines(call, tensor)
            dtype = torch.float64 if parameter.dtype == torch.float64 else torch.float32
            given = call.given.detach()
            given = given.to(dtype) if given.is_floating_point() else given
            for name, own in call.module._parameters.items():
                if own is parameter:
                    factor = form(call.module, name, given, gradient.to(dtype))
                    yield factor if in_head else group_by_example(factor, self._rows)
        else:
            self.slow_modules[self._names.get(call.module, "?")] = type(call.module).__name__
            yield DenseFactor(self._one_by_one(call, parameter, back))

    def _lines(self, call: ModuleCall, tensor: Tensor) -> int:
        """Lines that a row has in this layer: one, or several in succession, as windows of an image are."""
        if len(tensor) % self._rows:
            raise ValueError(
                f"{self._name(call.module)} has {len(tensor)} lines for {self._rows} rows: they cannot be told apart"
            )
        return len(tensor) // self._rows

    def _one_by_one(self, call: ModuleCall, parameter: nn.Parameter, back: tuple[Tensor | None, ...]) -> Tensor:
        outputs = [s for s, g in zip(call.sent, back, strict=True) if g is not None]
        gradients = [g for g in back if g is not None]
        rows = []
        for i in range(self._rows):
            own = []
            for g in gradients:
                lines = self._lines(call, g)
                alone = torch.zeros_like(g)
                alone[i * lines : (i + 1) * lines] = g[i * lines : (i + 1) * lines]
                own.append(alone)
            (gradient,) = torch.autograd.grad(outputs, [parameter], own, retain_graph=True, allow_unused=True)
            rows.append(torch.zeros_like(parameter) if gradient is None else gradient)
        return torch.stack(rows).reshape(self._rows, parameter.shape[0] if parameter.ndim else 1, -1)


def _passed(loss: Tensor, calls: Sequence[ModuleCall], alone: set[int]) -> tuple[list[ModuleCall], list[ModuleCall]]:
    """Calls whose factors are taken while the backward passes by, so that nothing else is kept of them; the rest.

    Those are norms, whose factors are small, and the calls in `alone`, whose factors are used up at once. The backward
    passes by a call if it goes on from there to a layer that something is asked of. One without a product form needs
    backwards of its own, for which this one would wait forever.
    """
    able = {
        call.sent[0].node: call
        for call in calls
        if len(call.sent) == 1
        and (isinstance(call.module, NORMALIZATION_LAYERS) or id(call) in alone)
        and gradient_rule_for(call.module)
    }
    leads: dict[Node, bool] = {edge.node: True for call in calls for edge in call.sent if edge.node not in able}
    passed: list[ModuleCall] = []
    stack: list[tuple[Node, bool]] = [(loss.grad_fn, False)] if loss.grad_fn is not None else []
    while stack:
        node, seen = stack.pop()
        before = [earlier for earlier, _ in node.next_functions if earlier is not None]
        if seen:
            if (goes_on := any(leads[earlier] for earlier in before)) and node in able:
                passed.append(able[node])
            leads[node] = goes_on or node in able
        elif node not in leads:
            leads[node] = False
            stack.append((node, True))
            stack += [(earlier, False) for earlier in before if earlier not in leads]
    return passed, [call for call in calls if not any(call is one for one in passed)]


def _taking(
    take: Callable[[ModuleCall, tuple[Tensor | None, ...]], None], call: ModuleCall, back: tuple[Tensor | None, ...]
) -> None:
    """Hand on what arrives at a call's only output."""
    take(call, (back[call.sent[0].output_nr],))


def _tensors(sent: Any) -> Iterator[Tensor]:
    """The tensors in a module's output, whatever it is made of."""
    if isinstance(sent, Tensor):
        yield sent
    elif isinstance(sent, dict):
        for part in sent.values():
            yield from _tensors(part)
    elif isinstance(sent, list | tuple):
        for part in sent:
            yield from _tensors(part)
