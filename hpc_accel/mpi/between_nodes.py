"""Which all-reduce between nodes is the quicker one here: the library's or ours, and in messages of which size.

Networks and libraries differ too much for a constant. Each group of two nodes or more measures once, at its first
large all-reduce: all ways take turns at a few sizes, the slowest rank counts, and all ranks read one table. That takes
about BUDGET_S; sizes that a slow link cannot measure in that time go the way of the largest that was measured.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from hpc_accel.errors import ConfigError
from hpc_accel.mpi import collectives
from hpc_accel.mpi.launch import mpi
from hpc_accel.mpi.node_exchange import NodeExchange
from hpc_accel.mpi.reductions import resolve

MPI = mpi()
SWITCH = "HPC_ACCEL_MPI_BETWEEN_NODES"
"""`library`, or the size of messages, such as `256k`: this way, unmeasured."""
BUDGET_S = 0.3
SIZES = (2**18, 2**20, 2**22)
LIBRARY = 0
Ways = tuple[int, ...]
PIECES = (60 * 2**10, 2**18, 2**20)
"""The first fits with its header into what most libraries send at once (64 KiB by TCP), without asking the receiver
whether it is ready: on a slow link that gap shows."""
WAYS: Ways = (LIBRARY, *PIECES)
"""Bytes of a message, or the library's own way."""
TURNS = 3
BEHIND = 1.3
"""Messages that took so many times the quickest's time are not tried at the next size."""
LIBRARY_HEADWAY, PIECE_HEADWAY = 1.05, 1.1
"""What the library, or larger pieces, must be quicker by: their times vary more than those of small pieces, which keep
both directions of a link busy."""


@dataclass(frozen=True, slots=True)
class Row:
    """From `num_bytes` up, messages of `piece_bytes`; LIBRARY for the library's way."""

    num_bytes: int
    piece_bytes: int
    own_bytes: int
    """The best size of messages where the library is no choice."""
    times_s: dict[int, float]
    """Measured, by way; empty where it was not measured by this group."""


Table = tuple[Row, ...]
_tables: dict[tuple[int, ...], Table] = {}
"""By the group's ranks in COMM_WORLD: another group of the same ranks need not measure again."""


def way(table: Table, num_bytes: int, *, low: bool = False) -> int:
    """Bytes of a message for an all-reduce of `num_bytes`, or LIBRARY.

    `low` is for fp16 and bf16, which no library sums in fp32: its way sends several times as much.
    """
    if low:
        return next((row.own_bytes for row in reversed(table) if num_bytes >= row.num_bytes), table[0].own_bytes)
    return next((row.piece_bytes for row in reversed(table) if num_bytes >= row.num_bytes), LIBRARY)


def known(comm: Any) -> Table | None:
    """What was measured for these ranks; None if nothing was yet."""
    return _tables.get(_ranks(comm))


def fixed() -> int | None:
    """The way that the user has fixed, or None."""
    text = os.environ.get(SWITCH, "")
    if not text:
        return None
    number = re.fullmatch(r"([1-9]\d*)([km]?)", text.lower())
    if text != "library" and number is None:
        raise ConfigError(
            f"{SWITCH}={text}", "it is `library`, or the size of messages in bytes, k or m", "write for example 256k"
        )
    return LIBRARY if number is None else int(number[1]) * {"": 1, "k": 2**10, "m": 2**20}[number[2]]


def table_of(comm: Any, exchange: NodeExchange) -> Table:
    """Fixed, known or measured now. Collective over `comm`, the same on all ranks.

    The first rank decides for all: environments may differ, and another group of these ranks, which measures at the
    same time in another thread, may be done on some of them only.
    """
    ranks = _ranks(comm)
    told = np.full(1 + 3 * len(SIZES), -1)
    if comm.Get_rank() == 0:
        here = fixed()
        rows = _tables.get(ranks) if here is None else (Row(0, here, here, {}),)
        for row in rows or ():
            told[0] += 1
            told[1 + 3 * told[0] :][:3] = row.num_bytes, row.piece_bytes, row.own_bytes
    comm.Bcast(told, root=0)
    if told[0] < 0:
        table = _measure(comm, exchange)
    else:
        table = _table(told[1:].reshape(-1, 3)[: told[0] + 1].tolist())
        mine = _tables.get(ranks, ())
        if _choices(mine) == _choices(table):
            table = mine  # with the times that led to it
    _tables[ranks] = table
    return table


def all_known() -> list[Any]:
    """What this process knows, for a checkpoint: another choice would add up in another order."""
    return [[list(ranks), _choices(table)] for ranks, table in _tables.items()]


def _table(rows: list[list[int]]) -> Table:
    return tuple(Row(num_bytes, piece_bytes, own_bytes, {}) for num_bytes, piece_bytes, own_bytes in rows)


def _choices(table: Table) -> list[list[int]]:
    return [[row.num_bytes, row.piece_bytes, row.own_bytes] for row in table]


def remember(tables: list[Any]) -> None:
    """What `all_known` gave in an earlier process, for groups that have not measured yet."""
    for ranks, rows in tables:
        _tables.setdefault(tuple(ranks), _table(rows))


def _ranks(comm: Any) -> tuple[int, ...]:
    group, world = comm.Get_group(), MPI.COMM_WORLD.Get_group()
    try:
        return tuple(group.Translate_ranks(list(range(comm.Get_size())), world))
    finally:
        group.Free()
        world.Free()


def _measure(comm: Any, exchange: NodeExchange) -> Table:
    rows: list[Row] = []
    left_s = BUDGET_S
    ways, measured_bytes = WAYS, SIZES[0]
    # Connections are made at the first message: this turn only tells how many more there can be.
    times_s = _timed(comm, exchange, _zeros(measured_bytes), ways, 1)
    for num_bytes in SIZES:
        expected_s = sum(times_s[each] for each in ways) * num_bytes / measured_bytes
        # One turn tells too little: the library can take twice as long in every other one.
        turns = TURNS if TURNS * expected_s < left_s else 1
        if turns < TURNS and rows:
            break
        tensor, measured_bytes = _zeros(num_bytes), num_bytes
        times_s = _timed(comm, exchange, tensor, ways, turns)
        left_s -= turns * sum(times_s.values())
        own = _best_of_ours(times_s)
        is_library = times_s[LIBRARY] * LIBRARY_HEADWAY < times_s[own]
        rows.append(Row(num_bytes, LIBRARY if is_library else own, own, times_s))
        quickest_s = min(times_s[each] for each in ways if each != LIBRARY)
        ways = tuple(each for each in ways if each == LIBRARY or times_s[each] < BEHIND * quickest_s)
    return tuple(rows)


def _zeros(num_bytes: int) -> torch.Tensor:
    """On the host and in fp32, whatever the user's defaults are."""
    return torch.zeros(num_bytes // 4, device="cpu", dtype=torch.float32)


def _best_of_ours(times_s: dict[int, float]) -> int:
    ours = 0
    for each in sorted(set(times_s) - {LIBRARY}):
        if not ours or times_s[each] * PIECE_HEADWAY < times_s[ours]:
            ours = each
    return ours


def _timed(comm: Any, exchange: NodeExchange, tensor: torch.Tensor, ways: Ways, turns: int) -> dict[int, float]:
    """Median seconds of the slowest rank, by way."""
    reduction = resolve(torch.distributed.ReduceOp.SUM, tensor.dtype)
    times = np.zeros((len(ways), turns))
    for turn in range(turns):
        for index, each in enumerate(ways):
            comm.Barrier()
            began = time.perf_counter()
            if each == LIBRARY:
                collectives.all_reduce(comm, tensor, reduction)
            else:
                exchange.reduce_in_place(tensor, reduction, each)
            times[index, turn] = time.perf_counter() - began
    comm.Allreduce(MPI.IN_PLACE, times, MPI.MAX)
    return {each: float(np.median(row)) for each, row in zip(ways, times, strict=True)}
