"""Debug mode: before every collective the ranks compare what they are about to do, and name who differs.

On with HPC_ACCEL_MPI_DEBUG=1 or TORCH_DISTRIBUTED_DEBUG=DETAIL. Costs one small message exchange per collective;
without it a mismatch is MPI's undefined behaviour: an error, a hang or wrong data. Two calls that look alike and are
swapped on one rank differ only in the lines they come from: HPC_ACCEL_MPI_DEBUG=1 compares these, too. Torch's DETAIL
does not, because a program may call one all-reduce from two lines.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hpc_accel.mpi.launch import mpi

# In the others the ranks may pass tensors of different sizes.
UNIFORM = frozenset({"all_reduce", "all_reduce_coalesced", "broadcast", "reduce", "reduce_scatter"})
SYMMETRIC = frozenset({"all_reduce", "all_reduce_coalesced", "all_gather", "reduce_scatter", "all_to_all"})
"""All ranks do the same in them; the others have a root, which programs often call from a branch of its own."""
INSIDE = tuple(f"{Path(package).parent}{os.sep}" for package in (torch.__file__, __file__))
JOIN = str(Path(torch.__file__).parent / "distributed" / "algorithms" / "join.py")
"""A rank without data of its own takes part in the others' collectives from here (torch's Join)."""


class Call(NamedTuple):
    """A call of a collective as ranks compare it; `line` is "" where lines are not compared."""

    number: int
    what: str
    line: str


def compares_lines() -> bool:
    """Whether the lines of calls must agree."""
    return os.environ.get("HPC_ACCEL_MPI_DEBUG", "0") not in {"", "0"}


def enabled() -> bool:
    return compares_lines() or os.environ.get("TORCH_DISTRIBUTED_DEBUG", "").upper() == "DETAIL"


def describe(op: str, detail: str, tensors: Sequence[Tensor]) -> str:
    """The part of a call that must be the same on all ranks."""
    parts = [op + (f"({detail})" if detail else "")]
    if op in UNIFORM:
        parts += [f"{list(tensor.shape)} {tensor.dtype}" for tensor in tensors]
    return " ".join(parts)


def calling_line(op: str) -> str:
    """`file:line` outside of torch and this package from which `op` is called; "" where there is no such rule."""
    if op not in SYMMETRIC or not compares_lines():
        return ""
    frame: Any = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(INSIDE):
        if frame.f_code.co_filename == JOIN:
            return ""
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else ""


def compare(comm: Any, mine: Call) -> None:
    """Raise on all ranks when not all are in the same call. Collective over `comm`."""
    calls: list[Call] = [Call(*call) for call in comm.allgather(tuple(mine))]
    lines = {call.line for call in calls} - {""}  # an engine's thread of a device has no caller
    if len(lines) <= 1 and all(call[:2] == mine[:2] for call in calls):
        return
    ranks: dict[Call, list[int]] = {}
    for rank, call in enumerate(calls):
        ranks.setdefault(call, []).append(rank)
    told = "; ".join(
        f"rank(s) {who} in call {call.number}: {call.what}{f' at {call.line}' if call.line else ''}"
        for call, who in ranks.items()
    )
    raise RuntimeError(
        f"mismatched collectives: {told}; rule: all ranks of a group call the same collectives with the same shapes "
        "in the same order; remedy: look for a branch on the rank around these calls"
    )


def explained(op: str, tensors: Sequence[Tensor], error: Exception) -> str:
    """What to tell of an error from MPI: a message that does not fit means that ranks are in different calls."""
    told = f"{op} of {', '.join(f'{list(tensor.shape)} {tensor.dtype}' for tensor in tensors) or 'nothing'}: {error}"
    if not isinstance(error, mpi().Exception) or error.Get_error_class() != mpi().ERR_TRUNCATE:
        return told
    return (
        f"{told}: another rank sent more than fits; rule: all ranks of a group call the same collectives with the same "
        "shapes and dtypes in the same order; remedy: HPC_ACCEL_MPI_DEBUG=1 names the calls, the ranks and the lines"
    )
