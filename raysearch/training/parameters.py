"""The tensors of a network that training changes."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def parameters_of(network: nn.Module) -> dict[str, Tensor]:
    """Returns what a network has learned, each tensor once: its trained parameters, and its layers' statistics."""
    trained = {name: parameter for name, parameter in network.named_parameters() if parameter.requires_grad}
    return trained | layer_statistics(network)


def layer_statistics(network: nn.Module) -> dict[str, Tensor]:
    """Returns the buffers that belong to the network's state, such as BatchNorm's running statistics."""
    names = network.state_dict().keys()
    return {name: buffer for name, buffer in network.named_buffers() if name in names}


def set_parameters(network: nn.Module, values: dict[str, Tensor]) -> None:
    """Sets the tensors that `parameters_of` returns."""
    with torch.no_grad():
        for name, tensor in parameters_of(network).items():
            tensor.copy_(values[name])
