"""Adding up (or multiplying, ...) arrays of several ranks: exact in the dtype, fp16 and bf16 in fp32, rounded once.

NumPy knows no bf16: arrays of fp16 and bf16 are int16 here, and torch computes with them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from hpc_accel.mpi.buffers import DATATYPES
from hpc_accel.mpi.reductions import Reduction

Array = np.ndarray[Any, np.dtype[Any]]

FUNCTIONS: dict[str, Any] = {
    "SUM": np.add,
    "AVG": np.add,
    "PREMUL_SUM": np.add,
    "PRODUCT": np.multiply,
    "MIN": np.minimum,
    "MAX": np.maximum,
    "BAND": np.bitwise_and,
    "BOR": np.bitwise_or,
    "BXOR": np.bitwise_xor,
}
LOW_FUNCTIONS: dict[str, Any] = {
    "SUM": torch.add,
    "AVG": torch.add,
    "PRODUCT": torch.mul,
    "MIN": torch.minimum,
    "MAX": torch.maximum,
}
LOW = frozenset({torch.float16, torch.bfloat16})
_NAMES = sorted(FUNCTIONS)
_TYPES = [*DATATYPES, *sorted(LOW, key=str)]


def can(dtype: torch.dtype, reduction: Reduction) -> bool:
    """Whether this file can compute it; the same answer on all ranks."""
    if dtype in LOW:
        return reduction.name in LOW_FUNCTIONS
    return dtype in DATATYPES and (reduction.name != "AVG" or dtype.is_floating_point)


def array_of(tensor: Tensor) -> Array:
    """A contiguous host tensor's memory, flat."""
    return (tensor.view(torch.int16) if tensor.dtype in LOW else tensor).view(-1).numpy()


def call_number(tensor: Tensor, reduction: Reduction) -> int:
    """A number that differs where two calls differ in size, dtype or operation."""
    number = tensor.numel() * len(_TYPES) + _TYPES.index(tensor.dtype)
    return number * len(_NAMES) + _NAMES.index(reduction.name)


def differ() -> RuntimeError:
    """What is raised on all ranks whose calls differ."""
    return RuntimeError(
        "all_reduce: the ranks differ in size, dtype or operation; rule: they agree; remedy: "
        "HPC_ACCEL_MPI_DEBUG=1 names the calls and the ranks"
    )


class Elementwise:
    """One reduction of one dtype over `num_ranks` ranks. The order of the parts decides of -0, NaN and the last bits.

    An infinity or NaN is a result like any other: a warning that the user made an error would end one rank alone.
    """

    def __init__(self, reduction: Reduction, dtype: torch.dtype, num_ranks: int) -> None:
        self._low = dtype if dtype in LOW else None
        self._function = (LOW_FUNCTIONS if self._low else FUNCTIONS)[reduction.name]
        self._divisor = num_ranks if reduction.name == "AVG" else None
        self.total_dtype: np.dtype[Any] | None = np.dtype(np.float32) if self._low else None
        """Of the totals of `partial_into`, if not that of the parts."""

    @np.errstate(all="ignore")
    def reduce_into(self, target: Array, parts: list[Array]) -> None:
        """Reduce the parts of all ranks into `target`, which may be one of the first two."""
        if self._low is not None:
            self._reduce_low_into(self._low_tensor(target), [self._low_tensor(part) for part in parts])
            return
        self._fold_into(target, parts)
        if self._divisor is not None:
            np.divide(target, self._divisor, out=target)

    @np.errstate(all="ignore")
    def partial_into(self, total: Array, parts: list[Array]) -> None:
        """Reduce the parts of some ranks into `total`, of `total_dtype`."""
        if self._low is None:
            self._fold_into(total, parts)
            return
        into = torch.from_numpy(total)
        into.copy_(self._low_tensor(parts[0]))
        for part in parts[1:]:
            self._function(into, self._low_tensor(part), out=into)

    @np.errstate(all="ignore")
    def finish_into(self, target: Array, totals: list[Array]) -> None:
        """Reduce what `partial_into` made on all nodes into `target`. The first of the totals may be changed."""
        if self._low is None:
            self.reduce_into(target, totals)
            return
        total = torch.from_numpy(totals[0])
        for other in totals[1:]:
            self._function(total, torch.from_numpy(other), out=total)
        self._round_into(self._low_tensor(target), total)

    def _fold_into(self, target: Array, parts: list[Array]) -> None:
        if len(parts) == 1:
            target[:] = parts[0]
            return
        self._function(parts[0], parts[1], out=target)
        for part in parts[2:]:
            self._function(target, part, out=target)

    def _low_tensor(self, array: Array) -> Tensor:
        assert self._low is not None
        return torch.from_numpy(array).view(self._low)

    def _reduce_low_into(self, target: Tensor, parts: list[Tensor]) -> None:
        if len(parts) == 2 and self._divisor is None:
            # One operation is computed in fp32 and rounded once as it is.
            self._function(parts[0], parts[1], out=target)
            return
        total = parts[0].float()
        for part in parts[1:]:
            self._function(total, part, out=total)
        self._round_into(target, total)

    def _round_into(self, target: Tensor, total: Tensor) -> None:
        if self._divisor is not None:
            total.div_(self._divisor)
        target.copy_(total)
