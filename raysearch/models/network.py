"""What training needs of a body and its heads, whatever the modality."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from transformers import PreTrainedModel


class Network(nn.Module):
    """A body, the end task's head, and a head for each objective: what training needs of them, whatever the kind."""

    body: nn.Module
    end_task: nn.Module  # hidden states to logits
    heads: nn.ModuleList

    @property
    def width(self) -> int:
        """H, the size of a hidden state."""
        raise NotImplementedError

    def hidden(self, *inputs: Any, **more: Any) -> Tensor:
        """The body's hidden states (B, S, H) for a batch's inputs."""
        raise NotImplementedError

    @property
    def couples_rows(self) -> bool:
        """Does the body mix the rows of a batch while it trains, as BatchNorm does?"""
        return any(isinstance(module, _BatchNorm) for module in self.body.modules())

    def statistics(self) -> list[Tensor]:
        """What the body's BatchNorm layers have kept of the rows that they have seen."""
        return [kept for module in self.body.modules() if isinstance(module, _BatchNorm) for kept in module.buffers()]

    def recompute(self) -> None:
        """Checkpoint the body's layers: their activations are computed again on the way back.

        Raises ValueError for a body that has no such way.
        """
        for module in self.body.modules():
            if isinstance(module, PreTrainedModel) and module.supports_gradient_checkpointing:
                module.activation_checkpointing_enable({"use_reentrant": False})
                return
        raise ValueError(f"recompute: {type(self.body).__name__} cannot checkpoint its layers; leave it out")

    def body_parameters(self) -> list[nn.Parameter]:
        """theta, in a fixed order."""
        return [parameter for parameter in self.body.parameters() if parameter.requires_grad]

    def head_parameters(self) -> list[nn.Parameter]:
        """phi: what is not theta, in a fixed order."""
        body = {id(parameter) for parameter in self.body.parameters()}
        return [p for p in self.parameters() if id(p) not in body and p.requires_grad]
