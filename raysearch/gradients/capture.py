"""Records what each layer receives in one forward, and derives per-example gradients from one backward.

The backward ends at the layers' outputs: no parameter's gradient is computed or materialised. Linear, embedding,
convolution and normalisation layers have gradient rules (`layer_rules`). Any other module that owns parameters is
slower, as a backward through it is run for each example; `LayerCapture.slow_modules` names these.
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
from torch.autograd.graph import get_gradient_edge

from raysearch.gradients.factors import Factor
from raysearch.gradients.layer_rules import LAYERS_WITH_A_RULE
from raysearch.gradients.module_calls import WHOLE_BATCH, ModuleCall, OutputGradients, split_streamed

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TaskFactor:
    """One use of a parameter: its factor, and the task whose examples it holds (WHOLE_BATCH: those of all tasks)."""

    factor: Factor
    task: int


FactorCallback = Callable[[int, TaskFactor], None]  # number of a parameter, its only use


class LayerCapture:
    """Hooks on the layers of `root` that use `parameters`; `collect_factors` gives each parameter's factors."""

    def __init__(self, root: nn.Module, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = list(parameters)
        self.slow_modules: dict[str, str] = {}  # names of modules without a gradient rule, and their class
        captured = {id(p) for p in parameters}
        self._names = {module: name for name, module in root.named_modules()}
        self._owners: dict[int, list[nn.Module]] = {id(p): [] for p in parameters}
        self._hooked: list[nn.Module] = []
        for module in root.modules():
            for parameter in module._parameters.values():
                if id(parameter) in captured and module not in self._owners[id(parameter)]:
                    self._owners[id(parameter)].append(module)
            if any(id(p) in captured for p in module.parameters()):
                self._hooked.append(module)
        self._parents = {child: module for module in root.modules() for child in module.children()}
        self._calls: dict[nn.Module, list[ModuleCall]] = {}
        self._examples = 0
        self._task = WHOLE_BATCH

    @contextmanager
    def recording(self, examples: int) -> Iterator[None]:
        """Records the calls of a forward on a batch of this many examples."""
        self._calls, self._examples = {}, examples
        embeddings = [module for module in self._hooked if isinstance(module, nn.Embedding)]
        hooks = [module.register_forward_hook(self._record_call) for module in self._hooked]
        hooks += [module.register_forward_pre_hook(self._expand_ids) for module in embeddings]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    @contextmanager
    def inside_head(self, task: int) -> Iterator[None]:
        """Marks the calls within as part of a task's head, which sees the examples of this task only."""
        self._task = task
        try:
            yield
        finally:
            self._task = WHOLE_BATCH

    def collect_factors(
        self, loss: Tensor, other_inputs: Sequence[Tensor] = (), on_factor: FactorCallback | None = None
    ) -> tuple[list[tuple[TaskFactor, ...]], list[Tensor]]:
        """Runs the backward of `loss`; returns each parameter's factors, and the gradients in `other_inputs`.

        With `on_factor`, the factor of a parameter that is used only once is handed to it during the backward and is
        not kept. Raises ValueError for a layer in which examples cannot be separated.
        """
        users = [self._calls_using(parameter) for parameter in self.parameters]
        calls = list({id(call): call for parameter_calls in users for call in parameter_calls}.values())
        self._calls = {}
        uses = list(zip(self.parameters, users, strict=True))
        retain_graph = any(not call.has_rule(p) for p, parameter_calls in uses for call in parameter_calls)
        parameters_of: dict[int, list[nn.Parameter]] = {id(call): [] for call in calls}
        for parameter, parameter_calls in uses:
            for call in parameter_calls:
                parameters_of[id(call)].append(parameter)
        number_if_used_once = {id(p): i for i, (p, parameter_calls) in enumerate(uses) if len(parameter_calls) == 1}
        factors: dict[tuple[int, int], list[Factor]] = {}  # by call and parameter

        def process_call(call: ModuleCall, output_gradients: OutputGradients) -> None:
            for parameter in parameters_of[id(call)]:
                call_factors = self._factors(call, parameter, output_gradients)
                if on_factor is not None and id(parameter) in number_if_used_once and len(call_factors) == 1:
                    on_factor(number_if_used_once[id(parameter)], TaskFactor(call_factors[0], call.task))
                else:
                    factors[id(call), id(parameter)] = call_factors

        consumed_at_once = {
            id(call)
            for call in calls
            if on_factor is not None and all(id(p) in number_if_used_once for p in parameters_of[id(call)])
        }
        other_gradients = _run_backward(loss, calls, other_inputs, consumed_at_once, process_call, retain_graph)
        collected = [
            tuple(TaskFactor(f, call.task) for call in parameter_calls for f in factors.get((id(call), id(p)), ()))
            for p, parameter_calls in uses
        ]
        return collected, other_gradients

    def check_gradient(self, gradient: Tensor, expected: Tensor, tolerance: float) -> None:
        """Raises ValueError, naming a layer, unless a gradient (D,) from factors equals one by plain autograd (D,)."""
        sizes = [p.numel() for p in self.parameters]
        error = (gradient - expected).norm()
        if error <= tolerance * expected.norm():
            return
        errors = [float(part.norm()) for part in (gradient - expected).split(sizes)]
        worst = self.parameters[errors.index(max(errors))]
        layer = next(self._describe(module) for module in self._owners[id(worst)])
        raise ValueError(
            f"{layer}: the examples' gradients do not add up (relative error {float(error / expected.norm()):.1e}); "
            "this model needs engine: backward"
        )

    def warn_about_slow_modules(self) -> None:
        """Logs which modules have no gradient rule, if any."""
        if self.slow_modules:
            modules = ", ".join(f"{name} ({type_name})" for name, type_name in sorted(self.slow_modules.items()))
            logger.warning("no gradient rule for %s: a backward through each is run for every example", modules)

    # ---- recording ----

    def _record_call(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if not torch.is_grad_enabled():
            raise ValueError(
                f"{self._describe(module)} runs without gradients, as under re-entrant activation checkpointing; "
                "use use_reentrant=False"
            )
        has_rule = isinstance(module, LAYERS_WITH_A_RULE)
        first = inputs[0] if inputs and isinstance(inputs[0], Tensor) and has_rule else None
        call = ModuleCall(
            module=module,
            name=self._describe(module),
            input=first,
            input_version=first._version if first is not None else 0,
            outputs=tuple(get_gradient_edge(tensor) for tensor in _tensors(output) if tensor.requires_grad),
            task=self._task,
            examples=self._examples,
        )
        self._calls.setdefault(module, []).append(call)

    def _expand_ids(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """Repeats ids that all examples share, such as positions, so that each example has a gradient of its own."""
        del module
        ids = inputs[0]
        if ids.shape[0] == 1 < self._examples:
            return (ids.expand(self._examples, *ids.shape[1:]), *inputs[1:])
        return None

    def _calls_using(self, parameter: nn.Parameter) -> list[ModuleCall]:
        """Returns the calls of the modules that own a parameter, or of their nearest parents that were called."""
        calls: dict[int, ModuleCall] = {}
        for owner in self._owners[id(parameter)]:
            module: nn.Module | None = owner
            while module is not None and module not in self._calls:
                module = self._parents.get(module)
            for call in self._calls.get(module, []) if module is not None else []:
                calls[id(call)] = call
        return list(calls.values())

    def _factors(self, call: ModuleCall, parameter: nn.Parameter, output_gradients: OutputGradients) -> list[Factor]:
        if not call.has_rule(parameter) and any(gradient is not None for gradient in output_gradients):
            self.slow_modules[self._names.get(call.module, "?")] = type(call.module).__name__
        return call.factors(parameter, output_gradients)

    def _describe(self, module: nn.Module) -> str:
        return f"{self._names.get(module, '?')} ({type(module).__name__})"


CallCallback = Callable[[ModuleCall, OutputGradients], None]


def _run_backward(
    loss: Tensor,
    calls: Sequence[ModuleCall],
    other_inputs: Sequence[Tensor],
    consumed_at_once: set[int],
    process_call: CallCallback,
    retain_graph: bool,
) -> list[Tensor]:
    """Hands the output gradients of each call to `process_call`; returns the gradients in `other_inputs`."""
    streamed, deferred = split_streamed(loss, calls, consumed_at_once)
    hooks = [call.outputs[0].node.register_prehook(partial(_process_streamed, process_call, call)) for call in streamed]
    outputs: list[Any] = [edge for call in deferred for edge in call.outputs]
    try:
        gradients = torch.autograd.grad(loss, [*outputs, *other_inputs], retain_graph=retain_graph, allow_unused=True)
    finally:
        for hook in hooks:
            hook.remove()
    start = 0
    for call in deferred:
        process_call(call, gradients[start : start + len(call.outputs)])
        start += len(call.outputs)
    return [
        torch.zeros_like(tensor) if gradient is None else gradient
        for tensor, gradient in zip(other_inputs, gradients[start:], strict=True)
    ]


def _process_streamed(process_call: CallCallback, call: ModuleCall, gradients: tuple[Tensor | None, ...]) -> None:
    """Hands on the gradient that arrives at a call's only output, among those of its autograd node."""
    process_call(call, (gradients[call.outputs[0].output_nr],))


def _tensors(output: Any) -> Iterator[Tensor]:
    """Yields the tensors in a module's output: a tensor, or any nesting of dicts, lists and tuples."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, dict):
        for part in output.values():
            yield from _tensors(part)
    elif isinstance(output, list | tuple):
        for part in output:
            yield from _tensors(part)
