"""Debug mode: before every collective the ranks compare what they are about to do, and name who differs.

On with HPC_ACCEL_MPI_DEBUG=1 or TORCH_DISTRIBUTED_DEBUG=DETAIL. Costs one small message exchange per collective;
without it a mismatch is MPI's undefined behaviour: an error, a hang or wrong data.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from torch import Tensor

# In the others the ranks may pass tensors of different sizes.
UNIFORM = frozenset({"all_reduce", "all_reduce_coalesced", "broadcast", "reduce", "reduce_scatter"})


def enabled() -> bool:
    return (
        os.environ.get("HPC_ACCEL_MPI_DEBUG", "0") not in {"", "0"}
        or os.environ.get("TORCH_DISTRIBUTED_DEBUG", "").upper() == "DETAIL"
    )


def describe(op: str, detail: str, tensors: Sequence[Tensor]) -> str:
    """The part of a call that must be the same on all ranks."""
    parts = [op + (f"({detail})" if detail else "")]
    if op in UNIFORM:
        parts += [f"{list(tensor.shape)} {tensor.dtype}" for tensor in tensors]
    return " ".join(parts)


def compare(comm: Any, number: int, mine: str) -> None:
    """Raise on all ranks when not all are in the same call. Collective over `comm`."""
    calls: list[tuple[int, str]] = comm.allgather((number, mine))
    if all(call == calls[0] for call in calls):
        return
    ranks: dict[tuple[int, str], list[int]] = {}
    for rank, call in enumerate(calls):
        ranks.setdefault(call, []).append(rank)
    told = "; ".join(f"rank(s) {who} in call {call[0]}: {call[1]}" for call, who in ranks.items())
    raise RuntimeError(
        f"mismatched collectives: {told}; rule: all ranks of a group call the same collectives with the same shapes "
        "in the same order; remedy: look for a branch on the rank around these calls"
    )
