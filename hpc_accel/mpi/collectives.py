"""The collectives, on contiguous tensors in host memory: what c10d means, said in MPI.

Every function is called by all ranks of `comm`, blocks, and knows nothing of queues, futures or devices.
Reductions of dtypes MPI cannot add travel in their own dtype and are added in fp32 (`Reduction.combine`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hpc_accel.mpi import buffers
from hpc_accel.mpi.buffers import adjoining, blocks, moving, nbytes, overlap, pieces, reducing
from hpc_accel.mpi.launch import mpi
from hpc_accel.mpi.reductions import Reduction

MPI = mpi()
SHIFT_TAG: int = MPI.COMM_WORLD.Get_attr(MPI.TAG_UB)
"""Tag of the pairwise exchange; the user's messages have smaller ones."""
WIDE_SMALL_BYTES = 32 * 1024
"""Below this a low-precision sum is widened before it travels: fewer messages beat fewer bytes."""


def barrier(comm: Any) -> None:
    comm.Barrier()


def broadcast(comm: Any, tensor: Tensor, root: int) -> None:
    comm.Bcast(moving(tensor), root=root)


def all_reduce(comm: Any, tensor: Tensor, reduction: Reduction) -> None:
    if reduction.plain and tensor.numel() <= buffers.MAX_COUNT:
        comm.Allreduce(MPI.IN_PLACE, reducing(tensor), reduction.operation)
        return
    if reduction.wide is not None and nbytes(tensor) > WIDE_SMALL_BYTES:
        _all_reduce_low(comm, tensor, reduction)
        return
    computed = reduction.enter(tensor, writable=True)
    for piece in pieces(computed):
        comm.Allreduce(MPI.IN_PLACE, reducing(piece), reduction.operation)
    reduction.leave(computed, tensor, comm.size)


def _all_reduce_low(comm: Any, tensor: Tensor, reduction: Reduction) -> None:
    """Each rank adds one share in fp32 and hands the rounded result round: half the bytes of adding in fp32."""
    size, source = comm.size, tensor.view(-1)
    share = -(-source.numel() // size)
    if share * size != source.numel():
        source = source.new_zeros(share * size)
        source[: tensor.numel()].copy_(tensor.view(-1))
    mine = torch.empty(share, dtype=tensor.dtype, device="cpu")
    reduce_scatter(comm, mine, source, reduction)
    target = tensor.view(-1) if source.numel() == tensor.numel() else source
    all_gather(comm, target, mine)
    if target is source and source.data_ptr() != tensor.data_ptr():
        tensor.view(-1).copy_(target[: tensor.numel()])


def reduce(comm: Any, tensor: Tensor, root: int, reduction: Reduction) -> None:
    """The result is on `root` only; elsewhere the tensor keeps its values."""
    here = comm.rank == root
    computed = reduction.enter(tensor, writable=here)
    for piece in pieces(computed):
        spec = reducing(piece)
        comm.Reduce(MPI.IN_PLACE if here else spec, spec if here else None, reduction.operation, root=root)
    if here:
        reduction.leave(computed, tensor, comm.size)


def reduce_scatter(comm: Any, output: Tensor, source: Tensor, reduction: Reduction) -> None:
    """`source` is `comm.size` parts like `output`."""
    if reduction.wide is not None:
        parts = (
            torch.empty_like(source)
            if reduction.factor is None
            else torch.empty(source.shape, dtype=reduction.wide, device="cpu")
        )
        sent = source if reduction.factor is None else reduction.enter(source, writable=False)
        all_to_all(comm, parts, sent)
        computed = reduction.combine(parts.view(comm.size, -1))
        reduction.leave(computed, output, comm.size)
        return
    sent = reduction.enter(source, writable=False)
    target = output.view(torch.uint8) if output.dtype is torch.bool else output
    if overlap(target, sent):
        sent = sent.clone()
    if target.numel() <= buffers.MAX_COUNT:
        comm.Reduce_scatter_block(reducing(sent, parts=comm.size), reducing(target), reduction.operation)
    else:
        for root, part in enumerate(sent.view(comm.size, -1)):
            mine = target.view(-1) if comm.rank == root else part
            for piece, result in zip(pieces(part), pieces(mine), strict=True):
                receive = reducing(result) if comm.rank == root else None
                comm.Reduce(reducing(piece), receive, reduction.operation, root=root)
    reduction.leave(target, target, comm.size)


def reduce_scatter_uneven(comm: Any, output: Tensor, sources: list[Tensor], reduction: Reduction) -> None:
    """Rank r gets the sum of everybody's `sources[r]`, whose sizes may differ."""
    for root, source in enumerate(sources):
        part = source.clone()
        reduce(comm, part, root, reduction)
        if comm.rank == root:
            output.view(-1).copy_(part.view(-1))


def all_gather(comm: Any, output: Tensor, source: Tensor) -> None:
    """`output` is `comm.size` parts like `source`, which may already lie in its place there."""
    receive = blocks(output, comm.size)
    place = output.data_ptr() + comm.rank * nbytes(source)
    if source.data_ptr() == place:
        comm.Allgather(MPI.IN_PLACE, receive)
    else:
        apart = source.clone() if overlap(source, output) else source  # a name keeps the copy alive: MPI has an address
        comm.Allgather(moving(apart), receive)


def all_gather_uneven(comm: Any, outputs: list[Tensor], source: Tensor) -> None:
    """Everybody's `source`, whose sizes may differ, into `outputs`."""
    exchange(comm, list(outputs), [source] * comm.size)


def all_gather_list(comm: Any, outputs: list[Tensor], source: Tensor) -> None:
    """Everybody's tensor into a list: at once where the list is one piece of memory or small, else pairwise."""
    if any(output.numel() != source.numel() for output in outputs):
        all_gather_uneven(comm, outputs, source)
        return
    whole = adjoining(outputs)
    target = whole if whole is not None else source.new_empty(comm.size * source.numel())
    all_gather(comm, target, source)
    if whole is None:
        for output, part in zip(outputs, target.view(comm.size, -1), strict=True):
            output.view(-1).copy_(part)


def all_to_all(comm: Any, output: Tensor, source: Tensor) -> None:
    """Equal parts: part r of `source` goes to rank r."""
    apart = source.clone() if overlap(source, output) else source
    comm.Alltoall(blocks(apart, comm.size), blocks(output, comm.size))


def exchange(comm: Any, receive: list[Tensor | None], send: list[Tensor | None]) -> None:
    """Pairwise messages of any size: `send[r]` to rank r, `receive[r]` from it; None for no message."""
    rank, requests = comm.rank, []
    for other, tensor in enumerate(receive):
        if other != rank and tensor is not None:
            requests.append(comm.Irecv(moving(tensor), source=other, tag=SHIFT_TAG))
    for step in range(1, comm.size):
        other = (rank + step) % comm.size
        tensor = send[other]
        if tensor is not None:
            requests.append(comm.Isend(moving(tensor), dest=other, tag=SHIFT_TAG))
    mine, kept = receive[rank], send[rank]
    if mine is not None and kept is not None:
        mine.view(-1).copy_(kept.view(-1))
    statuses = [MPI.Status() for _ in requests]
    MPI.Request.Waitall(requests, statuses)
    _check_sizes(rank, receive, statuses)


def _check_sizes(rank: int, receive: list[Tensor | None], statuses: list[Any]) -> None:
    """A message shorter than its buffer would leave old values behind unnoticed."""
    expected = [(other, nbytes(t)) for other, t in enumerate(receive) if other != rank and t is not None]
    for (other, num_bytes), status in zip(expected, statuses, strict=False):
        came = int(status.Get_elements(MPI.BYTE))
        if came != num_bytes:
            raise ValueError(f"{came} bytes came from rank {other}, {num_bytes} were expected: the sizes must agree")


def gather(comm: Any, outputs: list[Tensor] | None, source: Tensor, root: int) -> None:
    """Everybody's `source` into `outputs` on `root`."""
    if comm.rank == root:
        assert outputs is not None
        send: list[Tensor | None] = [None] * comm.size
        send[root] = source
        exchange(comm, list(outputs), send)
    else:
        comm.Send(moving(source), dest=root, tag=SHIFT_TAG)


def scatter(comm: Any, output: Tensor, sources: list[Tensor] | None, root: int) -> None:
    """`sources[r]` on `root` into `output` of rank r."""
    if comm.rank == root:
        assert sources is not None
        receive: list[Tensor | None] = [None] * comm.size
        receive[root] = output
        exchange(comm, receive, list(sources))
    else:
        wanted: list[Tensor | None] = [None] * comm.size
        wanted[root] = output
        exchange(comm, wanted, [None] * comm.size)
