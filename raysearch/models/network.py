"""The network that training needs, in every modality: a body and its heads."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import PreTrainedModel

from raysearch.models.frozen_layers import FrozenLayers

if TYPE_CHECKING:
    from raysearch.data.prepared import Split

READ_TOGETHER = 64  # examples in a forward pass without gradients


class Network(nn.Module):
    """A body, the end task's head, and a head for each objective."""

    body: nn.Module
    end_task: nn.Module  # hidden states to logits
    heads: nn.ModuleList
    frozen: FrozenLayers | None = None  # the lower part of the body, where only its upper layers are trained

    def train(self, mode: bool = True) -> Self:
        """Switches between training and evaluation, in which the frozen part always is."""
        super().train(mode)
        if self.frozen is not None:
            self.frozen.hold_still()
        return self

    def with_cached_states(self, batches: Any, folder: Path) -> Any:
        """Returns a BatchBuilder that gives the end task's batches with states of the frozen part, where it has any.

        `folder` is the folder of prepared data, beside whose splits the states are cached.
        """
        del folder
        return batches

    @property
    def width(self) -> int:
        """H, the size of a hidden state."""
        raise NotImplementedError

    def hidden(self, *inputs: Any, **more: Any) -> Tensor:
        """Returns the body's hidden states (B, S, H) for a batch's inputs."""
        raise NotImplementedError

    def logits(self, hidden: Tensor, real: Tensor | None = None) -> Tensor:
        """Returns the end task's logits (B, C) of hidden states; `real` (B, S) as in `modalities.batch.Targets`."""
        del real
        logits: Tensor = self.end_task(hidden)
        return logits

    def vectors(self, hidden: Tensor, real: Tensor | None = None) -> Tensor:
        """Returns one vector of each example (B, H), which heads for labels read."""
        del real
        return hidden[:, 0]

    @property
    def classifier(self) -> nn.Linear:
        """The last linear layer of the end task's head, which gives the logits."""
        return [module for module in self.end_task.modules() if isinstance(module, nn.Linear)][-1]

    def pooled(self, hidden: Tensor, real: Tensor | None = None) -> Tensor:
        """Returns what `classifier` reads (B, F) of the body's hidden states (B, S, H), with its gradient."""
        read: list[Tensor] = []
        hook = self.classifier.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
        try:
            self.logits(hidden, real)
        finally:
            hook.remove()
        (vectors,) = read
        return vectors

    def head_inputs(self, batches: Any, split: Split) -> Any:
        """Returns what `classifier` reads of every example of a split, without dropout: (n, F) numbers.

        They are a NumPy array, or a SciPy CSR matrix where most of them are 0. `batches` is a BatchBuilder.
        """
        was_training, device = self.training, next(self.parameters()).device
        order = np.argsort(split.lengths, kind="stable")
        read: list[Tensor] = []
        hook = self.classifier.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].float().cpu()))
        self.eval()
        try:
            with torch.no_grad():
                for rows in torch.from_numpy(order).split(READ_TOGETHER):
                    batch = batches.end_task_batch(split, rows).to(device)
                    self.logits(self.hidden(*batch.inputs), batch.targets.real)
        finally:
            hook.remove()
            self.train(was_training)
        in_order = torch.cat(read)
        inputs = torch.empty_like(in_order)
        inputs[torch.from_numpy(order)] = in_order
        return inputs.numpy()

    @property
    def couples_examples(self) -> bool:
        """Does the body mix the examples of a batch while it trains, as BatchNorm does?"""
        return any(isinstance(module, _BatchNorm) for module in self.body.modules())

    def batch_norm_buffers(self) -> list[Tensor]:
        """Returns the running statistics of the body's BatchNorm layers."""
        return [
            buffer for module in self.body.modules() if isinstance(module, _BatchNorm) for buffer in module.buffers()
        ]

    def checkpoint_activations(self) -> None:
        """Makes the body recompute its layers' activations in the backward pass, instead of storing them.

        Raises ValueError for a body that does not support it.
        """
        for module in self.body.modules():
            if isinstance(module, PreTrainedModel) and module.supports_gradient_checkpointing:
                module.activation_checkpointing_enable({"use_reentrant": False})
                return
        raise ValueError(f"recompute: {type(self.body).__name__} cannot checkpoint its layers; leave it out")

    def body_parameters(self) -> list[nn.Parameter]:
        """Returns theta, the trained parameters of the body, in a fixed order."""
        return [parameter for parameter in self.body.parameters() if parameter.requires_grad]

    @cached_property
    def parameter_list(self) -> list[nn.Parameter]:
        """All parameters, in the order of `parameters()`, which walks through all modules each time."""
        return list(self.parameters())

    def head_parameters(self) -> list[nn.Parameter]:
        """Returns phi, all other trained parameters, in a fixed order."""
        body = {id(parameter) for parameter in self.body.parameters()}
        return [p for p in self.parameters() if id(p) not in body and p.requires_grad]
