"""Whether a model runs where autocast makes some of its results 16 bits wide: tried with two samples."""

from __future__ import annotations

import torch

from hpc_accel.workloads.batch import Batch
from hpc_accel.workloads.nested import all_raised
from hpc_accel.workloads.workload import Workload

MISFIT = ("scalar type", "dtype")
"""How torch says that types do not go together. Other failures are those of a device's kernels, and no model's."""


def autocast_problem(workload: Workload, batch: Batch) -> str:
    """What torch says of the model's forward pass and loss under autocast to bfloat16; "" where both run.

    Buffers keep their values. The loss is given 32 bits, as in training.
    """
    model = workload.model
    buffers = {name: each.detach().clone() for name, each in model.named_buffers()}
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            with torch.autocast("cpu", dtype=torch.bfloat16):
                outputs = torch.func.functional_call(model, buffers, batch.args, batch.kwargs)
            if workload.loss is not None:
                workload.loss(all_raised(outputs), batch.targets)
    except RuntimeError as error:
        first = str(error).splitlines()[0]
        return first if any(word in first for word in MISFIT) else ""
    return ""
