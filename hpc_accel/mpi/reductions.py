"""What a reduction means for each dtype, and how MPI can compute it.

MPI up to version 4 knows neither bf16 nor fp16 nor fp8: those are summed in fp32 and rounded once. AVG is a sum
and a division, PREMUL_SUM a multiplication and a sum, a sum of booleans is their `or`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.distributed import ReduceOp

from hpc_accel.mpi.buffers import DATATYPES
from hpc_accel.mpi.launch import mpi

MPI = mpi()

OPERATIONS: dict[str, Any] = {
    "SUM": MPI.SUM,
    "AVG": MPI.SUM,
    "PREMUL_SUM": MPI.SUM,
    "PRODUCT": MPI.PROD,
    "MIN": MPI.MIN,
    "MAX": MPI.MAX,
    "BAND": MPI.BAND,
    "BOR": MPI.BOR,
    "BXOR": MPI.BXOR,
}
# On bytes that hold 0 or 1. The mean of truth values is refused with the other impossible ones.
BOOLEAN = {"SUM": MPI.MAX, "MAX": MPI.MAX, "BOR": MPI.MAX, "PRODUCT": MPI.MIN, "MIN": MPI.MIN, "BAND": MPI.MIN} | {
    "BXOR": MPI.BXOR
}
BITWISE = frozenset({"BAND", "BOR", "BXOR"})
ORDERING = frozenset({"MIN", "MAX"})


@dataclass(frozen=True, slots=True)
class Reduction:
    """How to reduce one dtype with one operation over `size` ranks."""

    name: str
    operation: Any
    wide: torch.dtype | None
    """Computed in this dtype, if not in the tensor's own."""
    plain: bool
    """Whether MPI does all of it, on the tensor as it is."""
    factor: float | Tensor | None = None

    def enter(self, tensor: Tensor, *, writable: bool) -> Tensor:
        """The tensor MPI computes with: `tensor` itself where possible. Only if `writable` may it be changed."""
        if self.factor is not None:
            scaled = tensor.to(self.wide) if self.wide else tensor
            if writable and scaled is tensor:
                return tensor.mul_(self.factor)
            return scaled * self.factor if scaled is tensor else scaled.mul_(self.factor)
        if tensor.dtype is torch.bool:
            return tensor.view(torch.uint8)
        return tensor.to(self.wide) if self.wide else tensor

    def leave(self, computed: Tensor, tensor: Tensor, size: int) -> None:
        """Bring the result into `tensor`."""
        if self.name == "AVG":
            if computed.is_floating_point() or computed.is_complex():
                computed.div_(size)
            else:
                computed.div_(size, rounding_mode="trunc")
        if computed.data_ptr() != tensor.data_ptr():
            tensor.copy_(computed.view(tensor.shape))

    def combine(self, parts: Tensor) -> Tensor:
        """The same reduction over dimension 0, computed here, in the wide dtype."""
        if self.name in ORDERING or parts.element_size() == 1:
            parts = parts.to(self.wide)
        if self.name in ORDERING:
            return parts.amin(0) if self.name == "MIN" else parts.amax(0)
        return parts.prod(0, dtype=self.wide) if self.name == "PRODUCT" else parts.sum(0, dtype=self.wide)


def resolve(op: Any, dtype: torch.dtype) -> Reduction:
    """The reduction for a torch ReduceOp on `dtype`; raises for what has no meaning."""
    kind: Any = getattr(op, "op", op)
    reduction = _resolved.get((int(kind), dtype))
    if reduction is None:
        reduction = _resolved[int(kind), dtype] = _resolve(kind.name, dtype)
    if reduction.name == "PREMUL_SUM":
        return Reduction(reduction.name, reduction.operation, reduction.wide, False, _factor(op))
    return reduction


_resolved: dict[tuple[int, torch.dtype], Reduction] = {}


def _factor(op: Any) -> float | Tensor:
    factor = getattr(op, "factor", None)
    if factor is None:
        state = op.__getstate__() if isinstance(op, ReduceOp) else ()
        factor = state[1] if isinstance(state, tuple) and len(state) == 2 else None
    if factor is None:
        raise ValueError(
            "PREMUL_SUM without its factor: rule: this torch does not tell it to Python; "
            "remedy: multiply first, or call set_force_sum_reduction_for_comms(True) on the FSDP module"
        )
    return factor


def _resolve(name: str, dtype: torch.dtype) -> Reduction:
    floating = dtype.is_floating_point
    impossible = (
        name not in OPERATIONS
        or (name in BITWISE and (floating or dtype.is_complex))
        or (name in ORDERING and dtype.is_complex)
        or (dtype is torch.bool and name not in BOOLEAN)
    )
    if impossible:
        raise ValueError(f"ReduceOp.{name} on {dtype}: rule: the operation has no meaning there; remedy: cast first")
    if dtype is torch.bool:
        return Reduction(name, BOOLEAN[name], None, False)
    if dtype in DATATYPES:
        return Reduction(name, OPERATIONS[name], None, name not in {"AVG", "PREMUL_SUM"})
    if floating:
        return Reduction(name, OPERATIONS[name], torch.float32, False)
    if dtype is torch.complex32:
        return Reduction(name, OPERATIONS[name], torch.complex64, False)
    raise ValueError(f"ReduceOp.{name} on {dtype}: rule: not a dtype MPI can compute with; remedy: cast first")
