"""Weights set to zero: the smallest of each layer, or two of every four so that sparse tensor cores can skip them.

Magnitude: S. Han et al., "Learning both Weights and Connections for Efficient Neural Networks" (NIPS 2015), without the
retraining. 2:4: A. Mishra et al., "Accelerating Sparse Deep Neural Networks" (arXiv 2104.08378). Zeros are multiplied
like other numbers, except by kernels for 2:4: torch has them for NVIDIA GPUs (compute capability 8.0 and newer).
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.utils import prune

from hpc_accel.errors import ConfigError
from hpc_accel.study.recipe import Recipe

PRUNED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
GROUP, KEPT = 4, 2


def prune_weights(model: nn.Module, recipe: Recipe) -> list[str]:
    """Prune `model` in place as `recipe` says; what a reader must know of it. Raises ConfigError if nothing fits."""
    if recipe.prune == "none":
        return []
    layers = [layer for layer in model.modules() if isinstance(layer, PRUNED)]
    if recipe.prune == "2:4":
        layers = [layer for layer in layers if isinstance(layer, nn.Linear) and layer.in_features % GROUP == 0]
    if not layers:
        kind = "linear layers with a multiple of 4 inputs" if recipe.prune == "2:4" else "linear or convolution layers"
        raise ConfigError(
            f"prune {recipe.prune} on a model without {kind}", f"what is pruned are {kind}", "leave prune out"
        )
    before = sum(layer.weight.numel() for layer in layers)
    zeros = 0
    for layer in layers:
        if recipe.prune == "2:4":
            prune.custom_from_mask(layer, "weight", two_of_four(layer.weight.detach()))
        else:
            prune.l1_unstructured(layer, "weight", amount=recipe.prune_fraction)
        prune.remove(layer, "weight")
        zeros += int((layer.weight == 0).sum())
    told = f"prune {recipe.prune}: {zeros} of {before} weights of {len(layers)} layers are zero"
    return [told, *(["dense kernels multiply zeros too: no speed is to be gained"] if recipe.prune != "2:4" else [])]


def two_of_four(weight: torch.Tensor) -> torch.Tensor:
    """The mask that keeps the two largest magnitudes of every four neighbours in a row: [out, in], in % 4 == 0."""
    groups = weight.abs().reshape(-1, GROUP)
    mask = torch.zeros_like(groups).scatter_(1, groups.topk(KEPT, dim=1).indices, 1.0)
    return mask.reshape(weight.shape)


def compress_two_of_four(module: nn.Module, device: torch.device) -> list[str]:
    """Store 2:4 weights as torch's semi-structured tensors, which sparse tensor cores compute with; CUDA only."""
    if device.type != "cuda":
        return ["prune 2:4: this device has no sparse kernels; the pattern costs accuracy and gains no speed here"]
    from torch.sparse import to_sparse_semi_structured

    compressed, dense = 0, []
    for name, layer in module.named_modules():
        if not isinstance(layer, nn.Linear) or layer.in_features % GROUP:
            continue
        try:
            layer.weight = nn.Parameter(to_sparse_semi_structured(layer.weight.detach()), requires_grad=False)
            compressed += 1
        except (RuntimeError, ValueError) as error:
            dense.append(f"{name}: {str(error).splitlines()[0]}")
    notes = [f"prune 2:4: {compressed} linear layers computed by sparse kernels"]
    return notes + ([f"prune 2:4: {len(dense)} layers stay dense; {dense[0]}"] if dense else [])
