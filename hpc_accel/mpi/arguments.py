"""Arguments of c10d calls: what is accepted, and the error (value, rule, remedy) for what is not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.distributed as dist
from torch import Tensor

from hpc_accel.mpi import collectives as c
from hpc_accel.mpi.buffers import adjoining


def one(tensors: Sequence[Tensor] | Tensor) -> Tensor:
    """Lists of one tensor come from the time of several devices per process."""
    if isinstance(tensors, Tensor):
        return tensors
    if len(tensors) != 1:
        raise ValueError(f"{len(tensors)} tensors: rule: one tensor per rank; remedy: call once per tensor")
    return tensors[0]


def same(op: str, tensors: Sequence[Tensor], like: Tensor, count: int) -> None:
    if len(tensors) != count:
        raise ValueError(f"{op}: {len(tensors)} tensors: rule: one per rank, {count}; remedy: pass {count}")
    for tensor in tensors:
        if tensor.dtype != like.dtype:
            raise ValueError(f"{op}: {tensor.dtype} and {like.dtype}: rule: one dtype per call; remedy: cast first")


def only(lists: Any) -> list[Tensor]:
    """Lists of one list of tensors, like lists of one tensor."""
    if isinstance(lists, Tensor) or isinstance(lists[0], Tensor):
        return [lists] if isinstance(lists, Tensor) else list(lists)
    if len(lists) != 1:
        raise ValueError(f"{len(lists)} lists of tensors: rule: one list per rank; remedy: call once per tensor")
    return list(lists[0])


def op_of(opts: Any) -> Any:
    """The reduction in an options object, or given in its place."""
    return dist.ReduceOp.SUM if opts is None else getattr(opts, "reduceOp", opts)


def root_of(opts: Any) -> int:
    return int(opts if isinstance(opts, int) else getattr(opts, "rootRank", 0))


def parts(op: str, whole: Tensor, part: Tensor, count: int) -> None:
    if whole.dtype != part.dtype or whole.numel() != part.numel() * count:
        raise ValueError(
            f"{op}: {list(whole.shape)} {whole.dtype} for {count} x {list(part.shape)} {part.dtype}: "
            f"rule: the large tensor has {count} times the elements of the small one, in its dtype; "
            "remedy: correct the shapes, or use the list form for uneven parts"
        )


def even(op: str, source: Tensor, output: Tensor, size: int) -> None:
    if source.numel() != output.numel() or source.numel() % size:
        raise ValueError(
            f"{op}: {source.numel()} elements to {output.numel()} in {size} equal parts: rule: equal numbers, "
            f"multiples of {size}; remedy: give the split sizes"
        )


def splits(which: str, tensor: Tensor, splits: list[int], size: int) -> None:
    rows = tensor.shape[0] if tensor.dim() else 0
    if not splits:
        if rows % size:
            raise ValueError(f"{which}: {rows} rows: rule: divisible by {size}; remedy: give {which} split sizes")
    elif len(splits) != size or sum(splits) != rows:
        raise ValueError(
            f"{which} split sizes {list(splits)} of {rows} rows: rule: one per rank ({size}), adding up to the rows; "
            "remedy: correct them"
        )


def rows(tensor: Tensor, splits: list[int], size: int) -> list[Tensor | None]:
    """Views of the rows that belong to each rank; no splits, equal shares."""
    return list(tensor.split(list(splits) or [tensor.shape[0] // size] * size))


def gather_list(comm: Any, outputs: list[Tensor], source: Tensor) -> None:
    """Everybody's tensor into a list: at once where the list is one piece of memory or small, else pairwise."""
    if any(output.numel() != source.numel() for output in outputs):
        c.all_gather_uneven(comm, outputs, source)
        return
    whole = adjoining(outputs)
    target = whole if whole is not None else source.new_empty(comm.size * source.numel())
    c.all_gather(comm, target, source)
    if whole is None:
        for output, part in zip(outputs, target.view(comm.size, -1), strict=True):
            output.view(-1).copy_(part)
