"""A small model whose linear layers write down, when the trained model is evaluated, what their weights are."""

from __future__ import annotations

import hashlib
import os
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import TensorDataset

from hpc_accel.workloads.workload import Metric, Workload


def _tell(index: int, module: nn.Module, _inputs: object) -> None:
    directory = os.environ.get("SOAK_WEIGHTS")
    if module.training or directory is None:
        return
    from mpi4py import MPI

    digest = hashlib.sha256()
    for name, parameter in sorted(module.named_parameters(recurse=False)):
        local = parameter.to_local() if hasattr(parameter, "to_local") else parameter
        # A copy: FSDP frees whole parameters, and cannot if NumPy looks at their memory.
        digest.update(name.encode() + local.detach().clone().numpy().tobytes())
    (Path(directory) / f"layer{index}.rank{MPI.COMM_WORLD.rank}").write_text(digest.hexdigest())


def build() -> Workload:
    """Six layers; dropout and shuffled samples, so that generators must come back as they were, too."""
    torch.manual_seed(0)
    layers = [nn.Linear(8, 32), nn.Tanh(), nn.Dropout(0.1), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 2)]
    for index, layer in enumerate(layers):
        if isinstance(layer, nn.Linear):
            # Before its forward: there FSDP has put the whole parameters together.
            layer.register_forward_pre_hook(partial(_tell, index))
    inputs = torch.randn(256, 8)
    targets = (inputs.sum(1) > 0).long()
    metric = Metric(
        name="accuracy",
        compute=lambda outputs, wanted: (outputs.argmax(1) == wanted).float().mean().item(),
        higher_is_better=True,
        dataset=TensorDataset(inputs[:64], targets[:64]),
    )
    return Workload(
        model=nn.Sequential(*layers),
        loss=nn.functional.cross_entropy,
        dataset=TensorDataset(inputs, targets),
        metric=metric,
        tensor_plan={"0": "columns", "3": "rows"},
    )
