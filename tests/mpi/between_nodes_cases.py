"""Which way an all-reduce between nodes takes: measured once, the same on all ranks, and obeyed."""

from __future__ import annotations

import os
import time
from typing import Any

import torch
import torch.distributed as dist

from hpc_accel.mpi import between_nodes, collectives
from hpc_accel.mpi.between_nodes import BUDGET_S, LIBRARY, SIZES, SWITCH, WAYS, Row, Table, way
from hpc_accel.mpi.facts import facts
from hpc_accel.mpi.node_exchange import NodeExchange
from tests.mpi.c10d_cases import rank_size
from tests.mpi.cases import case, main

LARGE = SIZES[-1] // 4


def measured(group: Any = None) -> Table:
    """The group's table, after a large all-reduce."""
    rank, size = rank_size()
    tensor = torch.full((LARGE,), rank + 1.0)
    dist.all_reduce(tensor, group=group)
    assert tensor.eq(size * (size + 1) / 2).all()
    return (group or dist.group.WORLD).executor.reducer.table


@case
def measured_once_in_its_time_and_alike_on_all_ranks() -> None:
    _, size = rank_size()
    assert dist.group.WORLD.executor.reducer.table == ()
    began = time.perf_counter()
    table = measured()
    took_s = time.perf_counter() - began
    assert [row.num_bytes for row in table] == list(SIZES[: len(table)])
    assert all(row.piece_bytes in WAYS and len(row.times_s) > 1 for row in table)
    assert sum(sum(row.times_s.values()) for row in table) <= took_s
    everybody: list[Any] = [None] * size
    dist.all_gather_object(everybody, table)
    assert all(each == table for each in everybody)
    again = dist.new_group(list(range(size)))
    assert measured(again) is table


@case
def a_slow_link_measures_small_sizes_only() -> None:
    """The budget ends the measurement; larger tensors go the way of the last row."""
    slow = _Slow()
    table = between_nodes._measure(dist.group.WORLD.executor.comm, slow)
    assert len(table) < len(SIZES)
    assert all(row.piece_bytes == LIBRARY for row in table)
    assert slow.slept_s < 2 * BUDGET_S


class _Slow(NodeExchange):
    def __init__(self) -> None:
        self.slept_s = 0.0

    def reduce_in_place(self, tensor: torch.Tensor, reduction: Any, piece_bytes: int) -> None:
        seconds = tensor.numel() * 4 / 2**17 * 0.02
        self.slept_s += seconds
        time.sleep(seconds)


@case
def every_way_is_taken_from_its_size_on() -> None:
    rank, size = rank_size()
    reducer = dist.group.WORLD.executor.reducer
    kept = reducer.table
    reducer.table = (Row(2**17, LIBRARY, 2**15, {}), Row(2**18, 2**16, 2**16, {}), Row(2**20, 2**18, 2**18, {}))
    taken: list[int] = []
    ours, library = reducer.exchange.reduce_in_place, collectives.all_reduce
    reducer.exchange.reduce_in_place = lambda t, r, piece: (taken.append(piece), ours(t, r, piece))
    collectives.all_reduce = lambda c, t, r: (taken.append(LIBRARY), library(c, t, r))
    for num_bytes in (2**16, 2**17, 2**18, 2**20 - 4, 2**20, 2**21):
        tensor = torch.full((num_bytes // 4,), rank + 1.0)
        dist.all_reduce(tensor)
        assert tensor.eq(size * (size + 1) / 2).all()
    for num_bytes in (2**16, 2**17, 2**18):
        dist.all_reduce(torch.ones(num_bytes // 2, dtype=torch.bfloat16))
    del reducer.exchange.reduce_in_place
    collectives.all_reduce = library
    reducer.table = kept
    assert taken == [LIBRARY, LIBRARY, 2**16, 2**16, 2**18, 2**18, 2**15, 2**15, 2**16], "16 bits go ours always"
    assert way((), 2**30) == LIBRARY


@case
def a_fixed_way_is_not_measured() -> None:
    """The first rank's environment decides, so that one that differs hangs nobody."""
    rank, size = rank_size()
    between_nodes._tables.clear()
    for text, expected in (("library", LIBRARY), ("1m", 2**20), ("96K", 96 * 2**10), ("5000", 5000)):
        os.environ[SWITCH] = text if rank == 0 else "library"
        between_nodes._tables.clear()
        assert [row.piece_bytes for row in measured(dist.new_group(list(range(size))))] == [expected]
    del os.environ[SWITCH]


@case
def a_rank_that_knows_another_table_follows_the_first() -> None:
    """Another group of the same ranks may be done measuring on some of them only."""
    rank, size = rank_size()
    ranks = tuple(range(size))
    for theirs in ({}, {ranks: (Row(0, 7, 7, {}),)}):
        between_nodes._tables.clear()
        between_nodes._tables.update({ranks: (Row(0, 2**16, 2**17, {}),)} if rank == 0 else theirs)
        [row] = measured(dist.new_group(list(ranks)))
        assert (row.num_bytes, row.piece_bytes, row.own_bytes) == (0, 2**16, 2**17)
    kept = between_nodes.all_known()
    between_nodes._tables.clear()
    between_nodes.remember(kept)
    assert between_nodes.all_known() == kept
    between_nodes._tables.clear()


@case
def bits_do_not_depend_on_the_size_of_messages() -> None:
    rank, size = rank_size()
    group = dist.new_group(list(range(size)))
    measured(group)
    reducer = group.executor.reducer
    for dtype in (torch.float32, torch.bfloat16):
        found = []
        for piece_bytes in (5000, 2**16, 2**20):
            reducer.table = (Row(0, piece_bytes, piece_bytes, {}),)
            generator = torch.Generator().manual_seed(rank)
            tensor = torch.randn(300_001, generator=generator).to(dtype)
            dist.all_reduce(tensor, group=group)
            found.append(tensor)
        assert all(torch.equal(found[0], each) for each in found)


@case
def what_is_measured_does_not_follow_the_users_defaults() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        tensor = between_nodes._zeros(2**18)
        assert (tensor.dtype, tensor.device.type, tensor.nbytes) == (torch.float32, "cpu", 2**18)
    finally:
        torch.set_default_dtype(torch.float32)


@case
def the_facts_tell_it() -> None:
    between_nodes._tables.clear()
    assert facts().all_reduce_between_nodes is None
    table = measured(dist.new_group(list(range(dist.get_world_size()))))
    assert facts().all_reduce_between_nodes == {row.num_bytes: row.piece_bytes for row in table}


if __name__ == "__main__":
    main()
