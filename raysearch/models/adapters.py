"""LoRA: each linear layer of the trained layers keeps its weight W and learns a low-rank change B A of it.

Hu et al. 2021, https://arxiv.org/abs/2106.09685: W x + (alpha / r) B A x, with A (r, in) drawn at random and B (out, r)
initially 0. Here alpha is 2 r, so that a rate that suits one rank suits others too. The package peft has the layers;
their matrices A and B are linear layers themselves, for which the gradient engine has a rule.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

ALPHA_PER_RANK = 2
_NAME = "default"  # peft's name of an adapter


def add_adapters(body: nn.Module, layers: Sequence[nn.Module], rank: int) -> None:
    """Gives every linear layer within `layers` of the body an adapter, and freezes all other parameters of the body.

    Raises ValueError where peft is missing or the layers have no linear layer.
    """
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ValueError("lora_rank needs the package peft; pip install 'raysearch[peft]'") from error
    within = {module for layer in layers for module in layer.modules()}
    names = [name for name, module in body.named_modules() if module in within and type(module) is nn.Linear]
    if not names:
        raise ValueError(f"lora_rank: the layers of {type(body).__name__} have no linear layers")
    config = LoraConfig(r=rank, lora_alpha=ALPHA_PER_RANK * rank, target_modules=names, lora_dropout=0.0, bias="none")
    inject_adapter_in_model(config, body, adapter_name=_NAME)
    for name, parameter in body.named_parameters():
        parameter.requires_grad_("lora_" in name)


def merge_adapters(body: nn.Module) -> None:
    """Adds the changes of all adapters to the weights and removes the adapters; a body without any stays as it is."""
    adapted = [(name, module) for name, module in body.named_modules() if hasattr(module, "lora_A")]
    for name, module in adapted:
        module.merge()
        body.set_submodule(name, module.get_base_layer())
    if hasattr(body, "peft_config"):
        del body.peft_config
