"""All-reduce between nodes: summed inside the node, exchanged with the other nodes, handed round inside the node.

The tensor goes in chunks. Of every chunk each owner (the first ranks of a node, as many as the smallest node has) owns
an equal slice, which it alone sums with the owners of that slice on the other nodes: as few bytes as can be leave a
node, but that fp16 and bf16 travel as sums in fp32 where a node has several ranks. The stages of several chunks are
under way at once (a depth of 1 is drawn, one barrier of the node between steps):

    step 0      step 1       step 2      step 3       step 4
    in 0        in 1         in 2        ...                       copy the chunk into my inbox, but for my slice
                partial 0    partial 1   ...                       add the inboxes to my slice, send it off
                             turn 0      turn 1       ...          add what came from other nodes (see exchange.py)
                                         complete 0   ...          the result lies in the node's memory
                                                      out 0        copy it

With one rank per node there is no memory to share, and only the middle remains.
"""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
from torch import Tensor

from hpc_accel.mpi.elementwise import Array, Elementwise, array_of, call_number, differ
from hpc_accel.mpi.exchange import Exchange
from hpc_accel.mpi.launch import mpi
from hpc_accel.mpi.node_memory import Node, map_memory
from hpc_accel.mpi.reductions import Reduction

MPI = mpi()
CHUNK_BYTES = 2**20
"""The largest chunk that goes through a node's memory."""
MOST_BYTES = 16 * 2**20
"""The largest chunk of ranks that are alone on their nodes: with many nodes messages become smaller instead."""
RESULT_BYTES = 4 * CHUNK_BYTES
"""Of results in the node's memory: 2 * depth chunks. One is written from `turn` to `complete`, `depth` steps, and read
in the step after that."""


def depth_of(chunk_bytes: int) -> int:
    """Chunks between two stages: so many more are on their way while one is added up."""
    return 4 if 2 * chunk_bytes <= CHUNK_BYTES else 2


class NodeExchange:
    """The all-reduce of a group on several nodes. Made by `open_exchange`."""

    def __init__(self, node: Node, memory: mmap.mmap | None) -> None:
        self._node = node
        self._rank, self._size = node.comm.Get_rank(), node.comm.Get_size()
        self._exchange = None if node.across is None else Exchange(node.across)
        self._memory = np.empty(0, np.uint8) if memory is None else np.frombuffer(memory, np.uint8)
        self._totals: Array = np.empty(0, np.uint8)

    def reduce_in_place(self, tensor: Tensor, reduction: Reduction, piece_bytes: int) -> None:
        """Reduce a contiguous host tensor in place, in messages of about `piece_bytes`.

        All ranks of the group call this, in the same order. Raises on all of them if their calls differ.
        """
        tensor = tensor.detach()
        self._meet(call_number(tensor, reduction))
        if reduction.factor is not None:
            tensor.mul_(reduction.factor)
        flat = array_of(tensor)
        operation = Elementwise(reduction, tensor.dtype, self._node.whole.Get_size())
        per_message = 1 if self._node.num_nodes == 2 else self._node.num_nodes
        chunk_bytes = piece_bytes * self._node.num_owners * per_message
        if self._node.alone:
            self._by_messages(flat, operation, min(chunk_bytes, MOST_BYTES))
        else:
            self._through_memory(flat, operation, min(chunk_bytes, CHUNK_BYTES))

    def _meet(self, mine: int) -> None:
        # The largest call and, negated, the smallest.
        extremes = np.array([mine, -mine])
        self._node.whole.Allreduce(MPI.IN_PLACE, extremes, MPI.MAX)
        if extremes[0] != -extremes[1]:
            raise differ()

    def _by_messages(self, flat: Array, operation: Elementwise, chunk_bytes: int) -> None:
        assert self._exchange is not None
        steps = -(-flat.nbytes // chunk_bytes)
        depth = min(depth_of(chunk_bytes), steps)
        for step in range(steps + 2 * depth):
            if step < steps:
                part = _chunk(flat, steps, step)
                self._exchange.start(part, part, operation.reduce_into)
            self._turn_and_complete(step - depth, steps, depth)

    def _turn_and_complete(self, step: int, steps: int, lag: int) -> None:
        """Turn a chunk, and complete the one of `lag` steps before it."""
        if self._exchange is None:
            return
        if 0 <= step < steps:
            self._exchange.turn()
        if 0 <= step - lag < steps:
            self._exchange.complete()

    def _through_memory(self, flat: Array, operation: Elementwise, chunk_bytes: int) -> None:
        steps = -(-flat.nbytes // chunk_bytes)
        if not steps:
            return
        wide = operation.total_dtype or flat.dtype
        inbox, published, totals = self._views(flat.dtype, wide, depth_of(chunk_bytes))
        depth = min(depth_of(chunk_bytes), steps)
        # Two nodes have the result when they turn, unless their totals are wider than it.
        whole = depth if self._node.num_nodes == 2 and wide == flat.dtype else 2 * depth
        share = -(-_chunk(flat, steps, 0).size // self._node.num_owners)
        begin, end = (self._rank * share, (self._rank + 1) * share) if self._exchange else (flat.size, flat.size)
        for step in range(steps + 2 + whole):
            if step < steps:
                part, box = _chunk(flat, steps, step), inbox[self._rank, step % 2]
                box[: part[:begin].size] = part[:begin]
                box[end : max(end, part.size)] = part[end:]
            if 0 < step <= steps and self._exchange is not None:
                own = _chunk(flat, steps, step - 1)[begin:end]
                parts = [inbox[peer, (step - 1) % 2, begin : begin + own.size] for peer in range(self._size)]
                parts[self._rank] = own
                total = totals[(step - 1) % len(totals), : own.size]
                operation.partial_into(total, parts)
                result = published[(step - 1) % len(published), begin : begin + own.size]
                self._exchange.start(total, result, operation.finish_into)
            self._turn_and_complete(step - 1 - depth, steps, whole - depth)
            out = step - 2 - whole
            if out >= 0:
                part = _chunk(flat, steps, out)
                part[:] = published[out % len(published), : part.size]
            if out < steps - 1:
                self._node.comm.Barrier()

    def _views(self, dtype: np.dtype[Any], wide: np.dtype[Any], depth: int) -> tuple[Array, Array, Array]:
        """The memory as arrays: inboxes [rank, half, element], results [slot, element], my totals [slot, element]."""
        inboxes = 2 * self._size * CHUNK_BYTES
        inbox = self._memory[:inboxes].view(dtype).reshape(self._size, 2, -1)
        published = self._memory[inboxes:].reshape(2 * depth, -1).view(dtype)
        slot_bytes = published.shape[1] // self._node.num_owners * wide.itemsize + wide.itemsize
        num_bytes = (depth + 1) * slot_bytes
        if self._totals.nbytes < num_bytes:
            self._totals = np.empty(num_bytes, np.uint8)
        return inbox, published, self._totals[:num_bytes].reshape(depth + 1, -1).view(wide)


def _chunk(flat: Array, steps: int, step: int) -> Array:
    """One of `steps` equal chunks, the last of which may be shorter or empty."""
    size = -(-flat.size // steps)
    return flat[step * size : (step + 1) * size]


def open_exchange(node: Node) -> NodeExchange | None:
    """The all-reduce of a group on several nodes, or None on all ranks where any cannot have a node's memory.

    Collective over the group.
    """
    if node.alone:
        return NodeExchange(node, None)
    memory = map_memory(node.comm, 0, 2 * CHUNK_BYTES, extra_bytes=RESULT_BYTES)
    have = np.array([memory is not None], np.int32)
    node.whole.Allreduce(MPI.IN_PLACE, have, MPI.MIN)
    return NodeExchange(node, memory) if have[0] else None
