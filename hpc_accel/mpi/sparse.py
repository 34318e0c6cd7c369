"""All-reduce of sparse tensors (embeddings' gradients under DDP): everybody's entries, then added up here."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from hpc_accel.mpi.collectives import exchange


def check(tensor: Tensor, op: Any) -> None:
    """Sums of COO tensors on the CPU, as gloo."""
    if tensor.layout is not torch.sparse_coo or not tensor.is_cpu or op != dist.ReduceOp.SUM:
        raise ValueError(
            f"all_reduce {op} of a {tensor.layout} tensor on {tensor.device}: rule: sparse tensors are summed, in COO "
            "layout, on the CPU; remedy: to_dense() first"
        )


def sum_entries(comm: Any, tensor: Tensor) -> None:
    """Replace `tensor` by the sum over ranks. Every rank may have other entries, and other numbers of them."""
    mine = tensor.coalesce()
    indices, values = mine.indices().contiguous(), mine.values().contiguous()
    counts: list[int] = comm.allgather(values.shape[0])
    all_indices = [indices.new_empty(indices.shape[0], count) for count in counts]
    all_values = [values.new_empty(count, *values.shape[1:]) for count in counts]
    exchange(comm, list(all_indices), [indices] * comm.size)
    exchange(comm, list(all_values), [values] * comm.size)
    total = torch.sparse_coo_tensor(torch.cat(all_indices, 1), torch.cat(all_values), tensor.shape)
    tensor.copy_(total.coalesce())
