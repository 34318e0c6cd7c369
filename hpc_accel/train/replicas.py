"""Replicas hold the same weights, bit by bit, from the first step to the last: a run in which they part ends.

Data-parallel ranks apply the same gradient to the same weights, so every bit stays equal; what parts them (a bit
flipped in memory, a library that rounds otherwise on one rank, code that depends on the rank) no loss shows. Every rank
adds up the bits of each parameter as integers, and one small all-reduce over its replicas compares the sums. That is
done after the first step, before each checkpoint, at the end, and in between so seldom that it costs at most 0.5 % of
the steps' time. Shards of FSDP have no replicas, only what it leaves whole has; under local SGD weights are compared
after they were averaged.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import numpy as np
import torch

from hpc_accel.errors import DriftError
from hpc_accel.parallel.mesh import RankCoordinates
from hpc_accel.runtime.step import Stepper

COST_SHARE = 0.005
"""Of the steps' time."""
PERIOD_S = 2.0
"""Between two looks at weights, at least."""
INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
RULE = "data-parallel ranks hold the same weights, bit by bit"
REMEDY = (
    "start it again, it goes on from the last checkpoint; if it comes back at another step, test that node's memory, "
    "if at the same step, look for code that depends on the rank; nodes that round differently belong in node_kinds"
)


class ReplicaWatch:
    """Compares this rank's parameters with those of its replicas. Collective over all ranks, in all methods.

    Where something already `explains` that weights part, the run goes on, and `note` tells what parted and why.
    """

    def __init__(self, comm: Any, place: RankCoordinates, stepper: Stepper, *, explains: str = "") -> None:
        self._stepper, self._explains = stepper, explains
        self._parameters = _replicated(stepper, sharded=place.layout.shard == "full")
        self._comm = None
        if place.layout.dp > 1:
            self._comm = comm.Split(place.pp_rank * place.layout.tp + place.tp_rank, place.dp_rank)
        self._rank = comm.rank
        self._every = 1
        self._next_step = stepper.num_steps
        self.note = ""

    def pace(self, comm: Any, step_s: float) -> None:
        """Learn what a look costs, and look as seldom as that asks for; rank 0's answer holds for all."""
        began = time.perf_counter()
        if self._comm is not None and self._parameters:
            self._sums()
        cost_s = time.perf_counter() - began
        every = max(1.0, PERIOD_S / step_s, cost_s / COST_SHARE / step_s)
        self._every = int(comm.bcast(every))

    def look(self, *, now: bool = False) -> None:
        """Raise DriftError on all replicas where a parameter differs, if it is time to look, or `now`."""
        if self._comm is None or not self._parameters:
            return
        step = self._stepper.num_steps
        if (not now and step < self._next_step) or step % self._stepper.recipe.average_every:
            return
        self._next_step = step + self._every
        mine = self._sums()
        extremes = np.concatenate([mine, ~mine])  # the complement turns the order round and never overflows
        from mpi4py import MPI

        self._comm.Allreduce(MPI.IN_PLACE, extremes, MPI.MAX)
        parted = np.flatnonzero(extremes[: mine.size] != ~extremes[mine.size :])
        if parted.size:
            self._tell(step, int(parted[0]), parted.size, int(mine[parted[0]]))

    def close(self) -> None:
        """Give the communicator back."""
        if self._comm is not None:
            self._comm.Free()

    def _sums(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        with torch.no_grad():
            sums = [_bits(parameter).sum(dtype=torch.int64) for _, parameter in self._parameters]
            return torch.stack(sums).cpu().numpy()

    def _tell(self, step: int, first: int, num_parted: int, mine: int) -> None:
        assert self._comm is not None
        seen: list[tuple[int, int]] = self._comm.allgather((self._rank, mine))
        (usual, count), *_ = Counter(value for _, value in seen).most_common(1)
        odd = [rank for rank, value in seen if value != usual]
        if 2 * count > len(seen):
            who = f"on rank{'s' if len(odd) > 1 else ''} {_listed(odd)}, other than on its {count} replicas"
        else:
            who = f"on ranks {_listed([rank for rank, _ in seen])}, and which of them is right nobody can tell"
        more = f" and {num_parted - 1} more" if num_parted > 1 else ""
        value = f"weights drifted by step {step}: {self._parameters[first][0]}{more} differs {who}"
        if not self._explains:
            raise DriftError(value, RULE, REMEDY, step)
        self.note = self.note or f"{value}; {self._explains}"


def _replicated(stepper: Stepper, *, sharded: bool) -> list[tuple[str, torch.Tensor]]:
    """Name and local part of the parameters that each replica holds."""
    modules = stepper.model.modules
    found = []
    for stage, module in modules.items():
        for name, parameter in module.named_parameters():
            to_local = getattr(parameter, "to_local", None)
            if to_local is not None and sharded:
                continue
            local = to_local() if to_local is not None else parameter
            shown = name.removeprefix("module.")
            found.append((f"stage {stage}, {shown}" if len(modules) > 1 else shown, local.detach()))
    return found


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    size = tensor.element_size()
    if size > 8:  # complex numbers are two each
        tensor, size = torch.view_as_real(tensor), size // 2
    return tensor.reshape(-1).view(INTEGERS[size])


def _listed(ranks: list[int]) -> str:
    shown = ", ".join(map(str, ranks[:8]))
    return shown if len(ranks) <= 8 else f"{shown} and {len(ranks) - 8} more"
