"""The weights that are served: as `build()` returns them, or trained a little first, the same on every rank.

Training here is serial and in fp32, on rank 0 alone; the others get its result. It makes accuracy mean something for a
built-in workload; a model in earnest comes trained from its own `build()`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from hpc_accel.parallel.loss_device import loss_of, move_loss
from hpc_accel.runtime.batches import sampler_for
from hpc_accel.study.run import Run
from hpc_accel.workloads import entry
from hpc_accel.workloads.optimizers import build_optimizer
from hpc_accel.workloads.parameter_groups import group_parameters
from hpc_accel.workloads.stream import num_samples_of
from hpc_accel.workloads.workload import Workload

FILE = "weights.safetensors"
"""What was trained, beside run.json."""
TRAINING_BATCH = 64


def build_workload(run: Run, directory: Path, comm: Any) -> Workload:
    """The workload with the weights to serve. Collective over `comm`."""
    workload = entry.build(run.workload, run.seed)
    assert run.infer is not None
    if not run.infer.train_steps:
        return workload
    if comm.Get_rank() == 0:
        _train(run, workload, run.infer.train_steps)
        save_file(_state(workload.model), directory / FILE)
    # Sorted by name: parameters and buffers in one order on all ranks.
    for _, tensor in sorted(_state(workload.model).items()):
        comm.Bcast(tensor.reshape(-1).view(torch.uint8).numpy(), root=0)
    return workload


def rebuild(run: Run, directory: Path) -> Workload:
    """The same on this rank alone, for comparison: nothing of it was touched by the run's recipe or layout."""
    workload = entry.build(run.workload, run.seed)
    assert run.infer is not None
    if run.infer.train_steps:
        workload.model.load_state_dict(load_file(directory / FILE))
    return workload


def _state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}


def _train(run: Run, workload: Workload, steps: int) -> None:
    batch = min(TRAINING_BATCH, num_samples_of(workload.dataset) or TRAINING_BATCH)
    sampler = iter(sampler_for(workload.dataset, batch, start=0, share=batch, seed=run.seed))
    named = [(name, each) for name, each in workload.model.named_parameters() if each.requires_grad]
    optimizer = build_optimizer(group_parameters(run.workload.optimizer, workload.model), named)
    assert optimizer is not None
    move_loss(workload.loss, torch.device("cpu"))  # one object may serve several builds, and one of them a GPU
    workload.model.train()
    for _ in range(steps):
        drawn = workload.batch_of(next(sampler))
        optimizer.zero_grad(set_to_none=True)
        loss_of(workload.loss, drawn.call(workload.model), drawn.targets).backward()
        optimizer.step()
