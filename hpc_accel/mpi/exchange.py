"""Blocks of an array summed over ranks of different nodes by messages, several blocks on their way at once.

Two members send each other their whole blocks and both add, the operands in the same order: one way of a message.
More divide a block into pieces, of which each member owns one:

    start       my copy of every piece goes to its owner, and everybody's copy of mine comes to me
    turn        mine is added up, and goes to everybody; the others' come
    complete    all have come

Either way each member sends and receives 2 N (n - 1) / n bytes, which is the least there is (Patarasu and Yuan,
J. Parallel Distrib. Comput. 69, 2009), and all get identical bits, because one member adds a piece up or both add
alike, always in the order of the ranks. A ring sends no less, wants n - 1 times as many steps, and would round fp16 at
each of them. While one block is turned the next ones travel, so that links carry both directions at once and never
wait for the adding.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hpc_accel.mpi.collectives import SHIFT_TAG
from hpc_accel.mpi.elementwise import Array
from hpc_accel.mpi.launch import mpi

MPI = mpi()
Reduce = Callable[[Array, list[Array]], None]
"""Reduces arrays of all members into the first argument, which may be one of the first two."""


@dataclass(slots=True)
class _Block:
    sent: Array
    result: Array
    reduce: Reduce
    buffer: Array
    """uint8: what the others sent."""
    requests: list[Any] = field(default_factory=list)


class Exchange:
    """The sum of blocks over `comm`. All members make the same calls in the same order; one thread at a time."""

    def __init__(self, comm: Any) -> None:
        self._comm = comm
        self._rank, self._size = comm.Get_rank(), comm.Get_size()
        self._started: deque[_Block] = deque()
        self._turned: deque[_Block] = deque()
        self._buffers: list[Array] = []

    def start(self, sent: Array, result: Array, reduce: Reduce) -> None:
        """Begin to sum flat arrays `sent` into `result`, which may be the same memory or of another dtype.

        Neither may be touched before the block is complete; `sent` may be changed.
        """
        swap = self._swaps(sent, result)
        mine = sent if swap else sent[self._piece(sent.size, self._rank)]
        num_bytes = (self._size - 1) * mine.nbytes
        block = _Block(sent, result, reduce, self._take_buffer(num_bytes))
        self._started.append(block)
        if mine.size:
            for step in range(1, self._size):
                place = block.buffer[(step - 1) * mine.nbytes : step * mine.nbytes]
                block.requests.append(self._receive(place, (self._rank - step) % self._size))
        for step in range(1, self._size):
            other = (self._rank + step) % self._size
            self._send(block, sent if swap else sent[self._piece(sent.size, other)], other)

    def turn(self) -> None:
        """Add up my piece of the oldest block that was only started, and hand it round."""
        block = self._started.popleft()
        self._turned.append(block)
        MPI.Request.Waitall(block.requests)
        block.requests = []
        sent, result = block.sent, block.result
        swap = self._swaps(sent, result)
        piece = slice(0, sent.size) if swap else self._piece(sent.size, self._rank)
        mine = sent[piece]
        if mine.size:
            others = list(block.buffer[: (self._size - 1) * mine.nbytes].view(sent.dtype).reshape(-1, mine.size))
            block.reduce(result[piece], self._in_order(mine, others, result[piece]))
        self._buffers.append(block.buffer)
        if swap:
            return
        for step in range(1, self._size):
            other = (self._rank - step) % self._size
            theirs = result[self._piece(sent.size, other)]
            if theirs.size:
                block.requests.append(self._receive(theirs, other))
        for step in range(1, self._size):
            self._send(block, result[piece], (self._rank + step) % self._size)

    def _in_order(self, mine: Array, others: list[Array], target: Array) -> list[Array]:
        """By rank: sums have the same bits whoever owns a piece, so for every size of messages."""
        parts = [mine] * self._size
        for step, other in enumerate(others, 1):
            parts[(self._rank - step) % self._size] = other
        if self._rank > 1 and np.may_share_memory(mine, target):
            parts[self._rank] = mine.copy()  # the first two have been added up into its place before it is read
        return parts

    def complete(self) -> None:
        """Wait for the oldest block that was turned: its result is there."""
        MPI.Request.Waitall(self._turned.popleft().requests)

    def _swaps(self, sent: Array, result: Array) -> bool:
        """Whether two members exchange whole blocks: not those whose partial sums are wider than the result."""
        return self._size == 2 and sent.dtype == result.dtype

    def _piece(self, size: int, owner: int) -> slice:
        share = -(-size // self._size)
        return slice(min(owner * share, size), min((owner + 1) * share, size))

    def _receive(self, into: Array, other: int) -> Any:
        return self._comm.Irecv([into, MPI.BYTE], source=other, tag=SHIFT_TAG)

    def _send(self, block: _Block, part: Array, other: int) -> None:
        if part.size:
            block.requests.append(self._comm.Isend([part, MPI.BYTE], dest=other, tag=SHIFT_TAG))

    def _take_buffer(self, num_bytes: int) -> Array:
        if self._buffers and self._buffers[-1].nbytes >= num_bytes:
            return self._buffers.pop()
        self._buffers.clear()  # of smaller blocks
        return np.empty(num_bytes, np.uint8)
