"""The gradients of four tasks that share one batch of a small model, by each engine and by plain autograd."""

import torch
from helpers.models import EXAMPLES, ModelCase
from torch import Tensor

from raysearch.gradients.capture import LayerCapture
from raysearch.gradients.directional import finite_differences, jvp
from raysearch.gradients.flat import flat_gradient
from raysearch.gradients.task_gradients import DenseTaskGradients, FactoredTaskGradients, group_by_parameter

TASKS = {7: slice(0, 2), 3: slice(2, 4), 5: slice(4, 5), 1: slice(5, EXAMPLES)}
TASK_ORDER = (1, 3, 5, 7)  # differs from the order of their examples


def direction(model_case: ModelCase) -> Tensor:
    """A random direction (D,) that is 0 on padding rows, which a backward treats as constant."""
    generator = torch.Generator().manual_seed(2)
    parts = {id(p): torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in model_case.model.parameters()}
    for module in model_case.model.modules():
        if isinstance(module, torch.nn.Embedding) and module.padding_idx is not None:
            parts[id(module.weight)][module.padding_idx] = 0
    return torch.cat([part.flatten() for part in parts.values()])


def dense_gradients(model_case: ModelCase) -> DenseTaskGradients:
    """The gradients by a forward and a backward for each task."""
    parameters, examples = list(model_case.model.parameters()), torch.arange(EXAMPLES)
    gradients = [flat_gradient(model_case.losses(examples[TASKS[t]]).sum(), parameters) for t in TASK_ORDER]
    return DenseTaskGradients(torch.stack(gradients))


def factored_gradients(model_case: ModelCase, micro_batches: int) -> FactoredTaskGradients:
    """The gradients by one forward and backward for each micro-batch, which has every n-th example of each task."""
    parameters = list(model_case.model.parameters())
    capture, batches = LayerCapture(model_case.model, parameters), []
    for i in range(micro_batches):
        examples_of = {task: torch.arange(EXAMPLES)[examples][i::micro_batches] for task, examples in TASKS.items()}
        examples_of = {task: examples for task, examples in examples_of.items() if len(examples)}
        batch, start = torch.cat(list(examples_of.values())), 0
        with capture.recording(len(batch)):
            loss = model_case.losses(batch).sum()
        places = {}
        for task, examples in examples_of.items():
            places[task], start = slice(start, start + len(examples)), start + len(examples)
        batches.append((capture.collect_factors(loss)[0], places))
    return FactoredTaskGradients(group_by_parameter(parameters, batches), TASK_ORDER, parameters[0].detach())


def products_by_forward(model_case: ModelCase, engine: str) -> Tensor:
    """The tasks' products with the direction by `engine` jvp or difference; the parameters are unchanged after it."""
    parameters, v = list(model_case.model.parameters()), direction(model_case)

    def losses() -> dict[int, Tensor]:
        example_losses = model_case.losses(torch.arange(EXAMPLES))
        return {task: example_losses[examples].sum() for task, examples in TASKS.items()}

    originals = [p.detach().clone() for p in parameters]
    if engine == "jvp":
        products = jvp(losses, model_case.model, parameters, v)
    else:
        losses_at_theta = {task: loss.detach() for task, loss in losses().items()}
        products = finite_differences(losses, losses_at_theta, parameters, v)
    assert all(torch.equal(p, original) for p, original in zip(parameters, originals, strict=True))
    return torch.stack([products[task] for task in TASK_ORDER])
