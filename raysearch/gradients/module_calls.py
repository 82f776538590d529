"""One recorded call of a module, and the factors of its parameters' gradients after a backward.

A module with a gradient rule (`layer_rules`) gives its factor from its input and output gradient. In any other module
that owns parameters, a backward through this module alone is run for each example.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node

from raysearch.gradients.factors import DenseFactor, Factor
from raysearch.gradients.layer_rules import NORMALIZATION_LAYERS, gradient_rule_for, merge_windows

WHOLE_BATCH = -2  # the task of a module that sees all examples

OutputGradients = Sequence[Tensor | None]  # one for each output of a call, None where no gradient arrives


@dataclass(frozen=True)
class ModuleCall:
    """One call of a module during a forward."""

    module: nn.Module
    name: str  # the module's, for error messages
    input: Tensor | None  # the first one, for layers with a gradient rule
    input_version: int  # of that tensor at the call, to notice changes in place
    outputs: tuple[GradientEdge, ...]  # where the outputs' gradients arrive; the outputs themselves are not kept
    task: int  # the task whose head the module is part of; WHOLE_BATCH in the body
    examples: int  # in the batch

    def has_rule(self, parameter: nn.Parameter) -> bool:
        """Returns whether the module owns the parameter itself and has a gradient rule."""
        is_owner = any(owned is parameter for owned in self.module._parameters.values())
        return is_owner and gradient_rule_for(self.module) is not None

    def factors(self, parameter: nn.Parameter, output_gradients: OutputGradients) -> list[Factor]:
        """Returns the factors of the parameter's gradient: one, or none if no gradient arrives at the outputs.

        A parameter that the module holds under several names has a factor for each. Raises ValueError where the
        examples of the batch cannot be separated, or the input was changed in place.
        """
        if all(gradient is None for gradient in output_gradients):
            return []
        if not self.has_rule(parameter):
            return [DenseFactor(self._gradients_one_by_one(parameter, output_gradients))]
        rule, output_gradient = gradient_rule_for(self.module), output_gradients[0]
        assert rule is not None
        assert output_gradient is not None
        assert self.input is not None
        if self.input._version != self.input_version:
            raise ValueError(f"{self.name}: its input is changed in place afterwards")
        in_head = self.task != WHOLE_BATCH
        if not in_head:
            for tensor in (self.input, output_gradient):
                self._entries_per_example(tensor)
        dtype = torch.float64 if parameter.dtype == torch.float64 else torch.float32
        activations = self.input.detach()
        activations = activations.to(dtype) if activations.is_floating_point() else activations
        factors = []
        for name, owned in self.module._parameters.items():
            if owned is parameter:
                factor = rule(self.module, name, activations, output_gradient.to(dtype))
                factors.append(factor if in_head else merge_windows(factor, self.examples))
        return factors

    def _entries_per_example(self, tensor: Tensor) -> int:
        """Returns how many leading entries of `tensor` belong to one example: one, or its number of windows."""
        if len(tensor) % self.examples:
            raise ValueError(
                f"{self.name} has {len(tensor)} inputs for {self.examples} examples: they cannot be separated"
            )
        return len(tensor) // self.examples

    def _gradients_one_by_one(self, parameter: nn.Parameter, output_gradients: OutputGradients) -> Tensor:
        """Returns every example's gradient (m, p, q), by one backward through the module for each example."""
        arriving = [(edge, g) for edge, g in zip(self.outputs, output_gradients, strict=True) if g is not None]
        outputs = [edge for edge, _ in arriving]
        gradients = []
        for i in range(self.examples):
            masked = []
            for _, output_gradient in arriving:
                size = self._entries_per_example(output_gradient)
                only_this = torch.zeros_like(output_gradient)
                only_this[i * size : (i + 1) * size] = output_gradient[i * size : (i + 1) * size]
                masked.append(only_this)
            (gradient,) = torch.autograd.grad(outputs, [parameter], masked, retain_graph=True, allow_unused=True)
            gradients.append(torch.zeros_like(parameter) if gradient is None else gradient)
        return torch.stack(gradients).reshape(self.examples, parameter.shape[0] if parameter.ndim else 1, -1)


def split_streamed(
    loss: Tensor, calls: Sequence[ModuleCall], consumed_at_once: Collection[int]
) -> tuple[list[ModuleCall], list[ModuleCall]]:
    """Returns the calls whose factors are computed during the backward, and those whose are computed after it.

    Streamed are normalisation layers, whose factors are small, and the calls (by `id`) in `consumed_at_once`, whose
    factors are used up at once; so no output gradient is kept for them. A hook on a call runs only if the backward
    continues below it, to a layer whose output gradient is requested. A call without a gradient rule is never
    streamed: it runs backwards of its own, for which the surrounding one would wait forever.
    """
    candidates = {
        call.outputs[0].node: call
        for call in calls
        if len(call.outputs) == 1
        and (isinstance(call.module, NORMALIZATION_LAYERS) or id(call) in consumed_at_once)
        and gradient_rule_for(call.module)
    }
    # Whether a requested output is reached from a node of the graph; a depth-first search in post-order.
    reaches: dict[Node, bool] = {
        edge.node: True for call in calls for edge in call.outputs if edge.node not in candidates
    }
    streamed: list[ModuleCall] = []
    stack: list[tuple[Node, bool]] = [(loss.grad_fn, False)] if loss.grad_fn is not None else []
    while stack:
        node, is_expanded = stack.pop()
        inputs = [below for below, _ in node.next_functions if below is not None]
        if is_expanded:
            continues = any(reaches[below] for below in inputs)
            if continues and node in candidates:
                streamed.append(candidates[node])
            reaches[node] = continues or node in candidates
        elif node not in reaches:
            reaches[node] = False
            stack.append((node, True))
            stack += [(below, False) for below in inputs if below not in reaches]
    return streamed, [call for call in calls if not any(call is other for other in streamed)]
