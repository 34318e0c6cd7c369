"""BatchNorm over the samples of all replicas (recipe `sync_batch_norm`), on any device and any backend.

torch.nn.SyncBatchNorm does it on GPUs alone. Where NCCL carries the messages it is used; elsewhere each BatchNorm layer
gets a forward of its own, and stays the module that it is, with its parameters, buffers, hooks and name:

    forward     one all-reduce of count, sum and sum of squares per channel, in fp64
    backward    one all-reduce of the sums of the gradient and of its product with the normalised input

Both are sums over samples, so replicas may hold unequal shares. Gradients of weight and bias stay this replica's: they
are averaged with all others (Ioffe and Szegedy, arXiv 1502.03167, with a batch that lies on several ranks).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from hpc_accel.workloads.batch_norms import batch_norms_of


def synchronise_batch_norm(module: nn.Module, group: dist.ProcessGroup) -> nn.Module:
    """`module` with every BatchNorm layer in it normalising over the micro-batches of all ranks of `group`."""
    if dist.get_backend(group) == "nccl":
        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(module, group)
        return converted
    for layer in batch_norms_of(module).values():
        vars(layer)["forward"] = partial(_forward, layer, group)
    return module


@torch.compiler.disable  # a compiled graph ends here: what ranks exchange in it is not torch's own
def _forward(layer: _BatchNorm, group: dist.ProcessGroup, inputs: torch.Tensor) -> torch.Tensor:
    """`inputs` [samples, channels, ...] normalised: in training over all replicas, else as the layer always does."""
    layer._check_input_dim(inputs)
    if not layer.training:
        return functional.batch_norm(
            inputs,
            layer.running_mean,
            layer.running_var,
            layer.weight,
            layer.bias,
            training=layer.running_mean is None,
            momentum=0.0,
            eps=layer.eps,
        )
    outputs, mean, variance, count = _Normalise.apply(inputs, layer.weight, layer.bias, layer.eps, group)
    if layer.track_running_stats and layer.running_mean is not None:
        _keep(layer, mean, variance, count)
    return outputs


@torch.no_grad()
def _keep(layer: _BatchNorm, mean: torch.Tensor, variance: torch.Tensor, count: torch.Tensor) -> None:
    """Move the running statistics towards those of this batch, its variance without bias; as torch does."""
    if layer.num_batches_tracked is not None:
        layer.num_batches_tracked.add_(1)
    factor: Any = layer.momentum
    if factor is None:  # the average of all batches so far
        assert layer.num_batches_tracked is not None
        factor = 1.0 / layer.num_batches_tracked.double()
    for running, value in ((layer.running_mean, mean), (layer.running_var, variance * (count / (count - 1)))):
        assert running is not None
        running.copy_(running * (1 - factor) + value * factor)


class _Normalise(torch.autograd.Function):
    """(inputs, weight, bias, eps, group) -> (outputs, mean [channels], biased variance [channels], count), of all
    ranks; mean, variance and count in fp64.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Any, weight: Any, bias: Any, eps: float, group: Any) -> Any:
        dims, channels = _all_but_channels(inputs), inputs.shape[1]
        wide = _wide(inputs)
        # Centred first: a sum of squares in fp32 would lose the variance of channels whose mean is large.
        own_variance, own_mean = torch.var_mean(wide, dims, correction=0)
        own_count = inputs.numel() // channels
        mean, square = own_mean.double(), own_variance.double() + own_mean.double().square()
        sums = own_count * torch.cat([mean, square, mean.new_ones(1)])
        dist.all_reduce(sums, group=group)
        count = sums[-1]
        mean, square = (sums[:-1] / count).split(channels)
        variance = (square - mean.square()).clamp_min(0.0)
        kept = mean.to(wide.dtype), (variance + eps).rsqrt().to(wide.dtype)
        ctx.save_for_backward(inputs, weight, *kept, count)
        ctx.group = group
        ctx.mark_non_differentiable(mean, variance, count)
        outputs = functional.batch_norm(
            inputs, kept[0], variance.to(wide.dtype), _as(weight, wide), _as(bias, wide), training=False, eps=eps
        )
        return outputs, mean, variance, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Any, *_: Any) -> Any:
        inputs, weight, mean, inverse, count = ctx.saved_tensors
        shape = [1, -1] + [1] * (inputs.dim() - 2)
        wide = _wide(gradient)
        normalised = (_wide(inputs) - mean.view(shape)) * inverse.view(shape)
        dims = _all_but_channels(inputs)
        sums = torch.stack([wide.sum(dims), (wide * normalised).sum(dims)])
        of_bias, of_weight = sums.unbind() if weight is not None else (None, None)
        shared = sums.clone()
        dist.all_reduce(shared, group=ctx.group)
        mean_gradient, mean_product = (shared / count).to(wide.dtype).unbind()
        scale = inverse if weight is None else inverse * weight.to(inverse.dtype)
        of_inputs = wide - mean_gradient.view(shape) - normalised * mean_product.view(shape)
        of_inputs = (of_inputs * scale.view(shape)).to(inputs.dtype)
        return of_inputs, _as(of_weight, weight), _as(of_bias, weight), None, None


def _all_but_channels(inputs: torch.Tensor) -> list[int]:
    return [dim for dim in range(inputs.dim()) if dim != 1]


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    """In fp32 at least: statistics of 16 bits have none left."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _as(tensor: torch.Tensor | None, other: torch.Tensor | None) -> torch.Tensor | None:
    """`tensor` in the type of `other`."""
    return tensor if tensor is None or other is None else tensor.to(other.dtype)
