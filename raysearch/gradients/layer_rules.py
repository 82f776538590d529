"""The product form of a row's gradient in each kind of layer that has one.

a (m, ...)  what the layer was given;   b (m, ...)  the loss's gradient in what it sent on
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
    """The form of a layer, or None: then its rows have to go back one at a time."""
    if isinstance(module, BatchNorm) and (module.training or module.running_mean is None):
        raise ValueError("BatchNorm in training mode mixes the rows of a batch: they have no gradients of their own")
    plain_padding = getattr(module, "padding_mode", "zeros") == "zeros" and not isinstance(
        getattr(module, "padding", 0), str
    )
    if isinstance(module, nn.Embedding) and (module.max_norm is not None or module.scale_grad_by_freq):
        return None
    for kind, form in GRADIENT_RULES.items():
        own = getattr(type(module), "forward", None) is kind.forward  # not one derived for another layout
        if isinstance(module, kind) and own and plain_padding:
            return form
    return None


def group_by_example(factor: Factor, rows: int) -> Factor:
    """The same with the lines of a row, where a layer saw it as several in succession, put together again."""
    if factor.lines == rows:
        return factor
    if isinstance(factor, DenseFactor):
        return DenseFactor(factor.g.unflatten(0, (rows, -1)).sum(dim=1))
    if isinstance(factor, ConvolutionFactor):
        raise ValueError(f"a convolution has {len(factor.a)} lines for {rows} rows: they cannot be told apart")
    first = factor.ids if isinstance(factor, EmbeddingFactor) else factor.x
    first, y = (t.unflatten(0, (rows, -1)).flatten(1, 2) for t in (first, factor.y))
    return EmbeddingFactor(first, y) if isinstance(factor, EmbeddingFactor) else OuterProductFactor(first, y)


def linear(module: nn.Module, name: str, a: Tensor, b: Tensor) -> Factor:
    """Of z = W a + bias, at every position."""
    del module
    if name == "bias":
        return DenseFactor(b.reshape(len(b), -1, b.shape[-1]).sum(dim=1)[:, :, None])
    b, a = b.reshape(len(b), -1, b.shape[-1]), a.reshape(len(a), -1, a.shape[-1])
    if b.shape[1] > 1 and 2 * int((dead := _dead(b)).sum()) > len(dead):  # else copies cost more than they spare
        b, a = b[:, ~dead], a[:, ~dead]
    return OuterProductFactor(b, a)


def _dead(b: Tensor) -> Tensor:
    """Positions (T,) at which no row has a gradient, as those are that a head does not read from the last layer."""
    dead = (b[:, :, 0] == 0).all(dim=0)  # most often settled by one number a position
    if dead.any():
        dead[dead.clone()] = (b[:, dead] == 0).all(dim=2).all(dim=0)
    return dead


def embedding(module: nn.Module, name: str, a: Tensor, b: Tensor) -> Factor:
    """Of z = W[a]; the padding line learns nothing."""
    del name
    assert isinstance(module, nn.Embedding)
    if module.padding_idx is not None:
        b = b * (a != module.padding_idx)[..., None]
    return EmbeddingFactor(a.reshape(len(a), -1), b.reshape(len(b), -1, b.shape[-1]))


def convolution(module: nn.Module, name: str, a: Tensor, b: Tensor) -> Factor:
    """Of z = W * a + bias: a product at every place that the kernel is laid on."""
    assert isinstance(module, nn.Conv1d | nn.Conv2d)
    if name == "bias":
        return DenseFactor(b.flatten(2).sum(dim=2)[:, :, None])
    if isinstance(module, nn.Conv1d):
        a, b = a[:, :, None], b[:, :, None]
    ahead = [1] * (2 - len(module.kernel_size))
    kernel, dilation, stride = ((*ahead, *v) for v in (module.kernel_size, module.dilation, module.stride))
    assert not isinstance(module.padding, str)
    padding = (*([0] * len(ahead)), *module.padding)
    if module.groups > 1:  # a kernel for each group of channels: small, and every row its own
        m, shape = len(a), (len(a) * b.shape[1], a.shape[1] // module.groups, *kernel)
        a, b = a.flatten(0, 1)[None], b.flatten(0, 1)[None].contiguous()
        return DenseFactor(
            conv2d_weight(a, shape, b, stride, padding, dilation, m * module.groups).view(m, shape[0] // m, -1)
        )
    if math.prod((*kernel, *stride)) == 1 and not sum(padding):
        return OuterProductFactor(b.flatten(2).transpose(1, 2), a.flatten(2).transpose(1, 2))
    return ConvolutionFactor(a, b, kernel, stride, padding, dilation)


def layer_norm(module: nn.Module, name: str, a: Tensor, b: Tensor) -> Factor:
    """Of z = weight x^ + bias, x^ normalised over the last dimensions."""
    assert isinstance(module, nn.LayerNorm)
    shape = module.normalized_shape
    if name == "weight":
        b = b * F.layer_norm(a, shape, eps=module.eps)
    return DenseFactor(b.reshape(len(b), -1, shape[0], math.prod(shape[1:])).sum(dim=1))


def group_norm(module: nn.Module, name: str, a: Tensor, b: Tensor) -> Factor:
    """Of z = weight x^ + bias, x^ normalised over groups of channels."""
    assert isinstance(module, nn.GroupNorm)
    if name == "weight":
        b = b * F.group_norm(a, module.num_groups, eps=module.eps)
    return DenseFactor(b.flatten(2).sum(dim=2)[:, :, None] if b.ndim > 2 else b[:, :, None])


def frozen_batch_norm(module: nn.Module, name: str, a: Tensor, b: Tensor) -> Factor:
    """Of z = weight x^ + bias with the statistics kept so far: a line for each channel."""
    assert isinstance(module, BatchNorm)
    if name == "weight":
        b = b * F.batch_norm(a, module.running_mean, module.running_var, eps=module.eps)
    return DenseFactor(b.flatten(2).sum(dim=2)[:, :, None] if b.ndim > 2 else b[:, :, None])


GRADIENT_RULES: dict[type[nn.Module], GradientRule] = {
    nn.Linear: linear,
    nn.Embedding: embedding,
    nn.Conv1d: convolution,
    nn.Conv2d: convolution,
    nn.LayerNorm: layer_norm,
    nn.GroupNorm: group_norm,
    BatchNorm: frozen_batch_norm,
}
SUPPORTED_LAYERS = tuple(GRADIENT_RULES)
NORMALIZATION_LAYERS = (nn.LayerNorm, nn.GroupNorm, BatchNorm)  # whose rows' gradients are no larger than the layer
