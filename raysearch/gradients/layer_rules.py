"""The gradient rule of each layer type: from a layer's input and output gradient to its per-example gradients.

    activations (m, ...)  the layer's input, a leading dimension of m examples
    backprops (m, ...)    the gradient of the loss in the layer's output

The names are those of Opacus' grad samplers. A rule returns the factor of one parameter, "weight" or "bias".
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

from raysearch.gradients.factors import ConvolutionFactor, DenseFactor, EmbeddingFactor, Factor, OuterProductFactor

GradientRule = Callable[[nn.Module, str, Tensor, Tensor], Factor]
BatchNorm = nn.modules.batchnorm._BatchNorm


def gradient_rule_for(module: nn.Module) -> GradientRule | None:
    """Returns the rule of a layer, or None: its gradients then take one backward for each example.

    Raises ValueError for BatchNorm in training mode, which mixes examples.
    """
    if isinstance(module, BatchNorm) and (module.training or module.running_mean is None):
        raise ValueError("BatchNorm in training mode mixes the examples of a batch: they have no separate gradients")
    has_zero_padding = getattr(module, "padding_mode", "zeros") == "zeros"
    has_numeric_padding = not isinstance(getattr(module, "padding", 0), str)
    if isinstance(module, nn.Embedding) and (module.max_norm is not None or module.scale_grad_by_freq):
        return None
    for layer_type, rule in GRADIENT_RULES.items():
        has_same_forward = getattr(type(module), "forward", None) is layer_type.forward  # a subclass may override it
        if isinstance(module, layer_type) and has_same_forward and has_zero_padding and has_numeric_padding:
            return rule
    return None


def merge_windows(factor: Factor, examples: int) -> Factor:
    """Returns the factor with one leading entry per example, where a layer saw each example as several windows.

    Raises ValueError for a convolution whose windows cannot be assigned to examples.
    """
    if factor.leading_size == examples:
        return factor
    if isinstance(factor, DenseFactor):
        return DenseFactor(factor.gradients.unflatten(0, (examples, -1)).sum(dim=1))
    if isinstance(factor, ConvolutionFactor):
        raise ValueError(
            f"a convolution has {factor.leading_size} inputs for {examples} examples: they cannot be separated"
        )
    right = factor.right.unflatten(0, (examples, -1)).flatten(1, 2)
    if isinstance(factor, EmbeddingFactor):
        return EmbeddingFactor(factor.ids.unflatten(0, (examples, -1)).flatten(1, 2), right)
    return OuterProductFactor(factor.left.unflatten(0, (examples, -1)).flatten(1, 2), right)


def linear(module: nn.Module, name: str, activations: Tensor, backprops: Tensor) -> Factor:
    """Returns the factor of z = W a + bias, applied at every position."""
    del module
    if name == "bias":
        return DenseFactor(backprops.reshape(len(backprops), -1, backprops.shape[-1]).sum(dim=1)[:, :, None])
    backprops = backprops.reshape(len(backprops), -1, backprops.shape[-1])
    activations = activations.reshape(len(activations), -1, activations.shape[-1])
    if backprops.shape[1] > 1:
        is_unused = _unused_positions(backprops)
        if 2 * int(is_unused.sum()) > len(is_unused):  # otherwise the copies cost more than they save
            backprops, activations = backprops[:, ~is_unused], activations[:, ~is_unused]
    return OuterProductFactor(backprops, activations)


def _unused_positions(backprops: Tensor) -> Tensor:
    """Returns a mask (T,) of the positions where no example has a gradient.

    Such are the positions of the last layer that a head does not read.
    """
    is_unused = (backprops[:, :, 0] == 0).all(dim=0)  # the first channel usually decides
    if is_unused.any():
        is_unused[is_unused.clone()] = (backprops[:, is_unused] == 0).all(dim=2).all(dim=0)
    return is_unused


def embedding(module: nn.Module, name: str, activations: Tensor, backprops: Tensor) -> Factor:
    """Returns the factor of z = W[a]; the padding row has no gradient."""
    del name
    assert isinstance(module, nn.Embedding)
    if module.padding_idx is not None:
        backprops = backprops * (activations != module.padding_idx)[..., None]
    ids = activations.reshape(len(activations), -1)
    return EmbeddingFactor(ids, backprops.reshape(len(backprops), -1, backprops.shape[-1]))


def convolution(module: nn.Module, name: str, activations: Tensor, backprops: Tensor) -> Factor:
    """Returns the factor of z = W * a + bias, in one or two dimensions."""
    assert isinstance(module, nn.Conv1d | nn.Conv2d)
    if name == "bias":
        return DenseFactor(backprops.flatten(2).sum(dim=2)[:, :, None])
    if isinstance(module, nn.Conv1d):
        activations, backprops = activations[:, :, None], backprops[:, :, None]
    extra = [1] * (2 - len(module.kernel_size))  # the height of a one-dimensional convolution
    kernel, dilation, stride = ((*extra, *v) for v in (module.kernel_size, module.dilation, module.stride))
    assert not isinstance(module.padding, str)
    padding = (*([0] * len(extra)), *module.padding)
    if module.groups > 1:  # each group has a small kernel, whose gradients are materialised
        m, channels = len(activations), backprops.shape[1]
        shape = (m * channels, activations.shape[1] // module.groups, *kernel)
        activations, backprops = activations.flatten(0, 1)[None], backprops.flatten(0, 1)[None].contiguous()
        gradients = conv2d_weight(activations, shape, backprops, stride, padding, dilation, m * module.groups)
        return DenseFactor(gradients.view(m, channels, -1))
    if math.prod((*kernel, *stride)) == 1 and not sum(padding):  # a 1 x 1 kernel is a linear layer at every place
        return OuterProductFactor(backprops.flatten(2).transpose(1, 2), activations.flatten(2).transpose(1, 2))
    return ConvolutionFactor(activations, backprops, kernel, stride, padding, dilation)


def layer_norm(module: nn.Module, name: str, activations: Tensor, backprops: Tensor) -> Factor:
    """Returns the factor of z = weight x^ + bias, where x^ is normalised over the last dimensions."""
    assert isinstance(module, nn.LayerNorm)
    shape = module.normalized_shape
    if name == "weight":
        backprops = backprops * F.layer_norm(activations, shape, eps=module.eps)
    return DenseFactor(backprops.reshape(len(backprops), -1, shape[0], math.prod(shape[1:])).sum(dim=1))


def group_norm(module: nn.Module, name: str, activations: Tensor, backprops: Tensor) -> Factor:
    """Returns the factor of z = weight x^ + bias, where x^ is normalised over groups of channels."""
    assert isinstance(module, nn.GroupNorm)
    if name == "weight":
        backprops = backprops * F.group_norm(activations, module.num_groups, eps=module.eps)
    return _channel_factor(backprops)


def frozen_batch_norm(module: nn.Module, name: str, activations: Tensor, backprops: Tensor) -> Factor:
    """Returns the factor of z = weight x^ + bias, where x^ is normalised by running statistics."""
    assert isinstance(module, BatchNorm)
    if name == "weight":
        backprops = backprops * F.batch_norm(activations, module.running_mean, module.running_var, eps=module.eps)
    return _channel_factor(backprops)


def _channel_factor(backprops: Tensor) -> Factor:
    """Returns the gradients (m, C, 1) of one number per channel, from output gradients (m, C, ...)."""
    return DenseFactor(backprops.flatten(2).sum(dim=2)[:, :, None] if backprops.ndim > 2 else backprops[:, :, None])


GRADIENT_RULES: dict[type[nn.Module], GradientRule] = {
    nn.Linear: linear,
    nn.Embedding: embedding,
    nn.Conv1d: convolution,
    nn.Conv2d: convolution,
    nn.LayerNorm: layer_norm,
    nn.GroupNorm: group_norm,
    BatchNorm: frozen_batch_norm,
}
LAYERS_WITH_A_RULE = tuple(GRADIENT_RULES)
NORMALIZATION_LAYERS = (nn.LayerNorm, nn.GroupNorm, BatchNorm)  # their per-example gradients are as small as the layer
