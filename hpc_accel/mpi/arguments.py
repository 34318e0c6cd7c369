"""Arguments of c10d calls: what is accepted, and the error (value, rule, remedy) for what is not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.distributed as dist
from torch import Tensor


def check_single(tensors: Sequence[Tensor] | Tensor) -> Tensor:
    """The tensor of a list of one: c10d passes such lists since a process could have several devices."""
    if isinstance(tensors, Tensor):
        return tensors
    if len(tensors) != 1:
        raise ValueError(f"{len(tensors)} tensors: rule: one tensor per rank; remedy: call once per tensor")
    return tensors[0]


def check_alike(op: str, tensors: Sequence[Tensor], like: Tensor, count: int) -> None:
    """There are `count` tensors, all of the dtype of `like`."""
    if len(tensors) != count:
        raise ValueError(f"{op}: {len(tensors)} tensors: rule: one per rank, {count}; remedy: pass {count}")
    for tensor in tensors:
        if tensor.dtype != like.dtype:
            raise ValueError(f"{op}: {tensor.dtype} and {like.dtype}: rule: one dtype per call; remedy: cast first")


def check_single_list(lists: Any) -> list[Tensor]:
    """The list of a list of one list; also accepts a plain list of tensors, or one tensor."""
    if isinstance(lists, Tensor) or isinstance(lists[0], Tensor):
        return [lists] if isinstance(lists, Tensor) else list(lists)
    if len(lists) != 1:
        raise ValueError(f"{len(lists)} lists of tensors: rule: one list per rank; remedy: call once per tensor")
    return list(lists[0])


def reduce_op_of(opts: Any) -> Any:
    """The reduction in an options object, or given in its place; SUM without any."""
    return dist.ReduceOp.SUM if opts is None else getattr(opts, "reduceOp", opts)


def root_of(opts: Any) -> int:
    """The root rank in an options object, or given in its place."""
    return int(opts if isinstance(opts, int) else getattr(opts, "rootRank", 0))


def check_parts(op: str, whole: Tensor, part: Tensor, count: int) -> None:
    """`whole` has `count` times the elements of `part`, in its dtype."""
    if whole.dtype != part.dtype or whole.numel() != part.numel() * count:
        raise ValueError(
            f"{op}: {list(whole.shape)} {whole.dtype} for {count} x {list(part.shape)} {part.dtype}: "
            f"rule: the large tensor has {count} times the elements of the small one, in its dtype; "
            "remedy: correct the shapes, or use the list form for uneven parts"
        )


def check_even(op: str, source: Tensor, output: Tensor, size: int) -> None:
    """Both have the same number of elements, in `size` equal parts."""
    if source.numel() != output.numel() or source.numel() % size:
        raise ValueError(
            f"{op}: {source.numel()} elements to {output.numel()} in {size} equal parts: rule: equal numbers, "
            f"multiples of {size}; remedy: give the split sizes"
        )


def check_splits(which: str, tensor: Tensor, splits: list[int], size: int) -> None:
    """The split sizes of dimension 0 are one per rank and add up to it; without any, it is divisible."""
    rows = tensor.shape[0] if tensor.dim() else 0
    if not splits:
        if rows % size:
            raise ValueError(f"{which}: {rows} rows: rule: divisible by {size}; remedy: give {which} split sizes")
    elif len(splits) != size or sum(splits) != rows:
        raise ValueError(
            f"{which} split sizes {list(splits)} of {rows} rows: rule: one per rank ({size}), adding up to the rows; "
            "remedy: correct them"
        )


def split_rows(tensor: Tensor, splits: list[int], size: int) -> list[Tensor | None]:
    """Views of the rows of each rank; without split sizes, equal shares."""
    return list(tensor.split(list(splits) or [tensor.shape[0] // size] * size))
