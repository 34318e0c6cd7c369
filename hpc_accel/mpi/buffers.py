"""Tensors as MPI sees them: an address, a count and a datatype; contiguous, and any number of bytes.

Handing a torch tensor to mpi4py costs 6 to 11 us through DLPack, an address under 1 us. MPI's counts are C ints:
what is larger travels as one element of a derived type (moving) or in pieces (reducing).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from hpc_accel.mpi.launch import mpi

MPI = mpi()

DATATYPES: dict[torch.dtype, Any] = {
    torch.uint8: MPI.UINT8_T,
    torch.int8: MPI.INT8_T,
    torch.uint16: MPI.UINT16_T,
    torch.int16: MPI.INT16_T,
    torch.uint32: MPI.UINT32_T,
    torch.int32: MPI.INT32_T,
    torch.uint64: MPI.UINT64_T,
    torch.int64: MPI.INT64_T,
    torch.float32: MPI.FLOAT,
    torch.float64: MPI.DOUBLE,
    torch.complex64: MPI.C_FLOAT_COMPLEX,
    torch.complex128: MPI.C_DOUBLE_COMPLEX,
}
"""What MPI can compute with. Every other dtype is widened first, or travels as bytes."""

MAX_COUNT = 2**31 - 1
"""Largest count of an MPI call. Tests lower it, so that the large paths run on small tensors."""

Spec = tuple[object, int, object]


def nbytes(tensor: Tensor) -> int:
    return int(tensor.numel() * tensor.element_size())


@lru_cache(maxsize=8192)
def _bytes_at(address: int, count: int) -> Spec:
    return (MPI.buffer.fromaddress(address, count), count, MPI.BYTE)


@lru_cache(maxsize=8192)
def _typed_at(address: int, count: int, dtype: torch.dtype) -> Spec:
    return (MPI.buffer.fromaddress(address, count * dtype.itemsize), count, DATATYPES[dtype])


@lru_cache(maxsize=256)
def _blob(num_bytes: int) -> object:
    """One element of exactly `num_bytes` bytes, which need not fit a C int."""
    block_bytes = min(2**30, MAX_COUNT)
    blocks, rest = divmod(num_bytes, block_bytes)
    block = MPI.BYTE.Create_contiguous(block_bytes)
    parts = MPI.Datatype.Create_struct([blocks, rest], [0, blocks * block_bytes], [block, MPI.BYTE])
    whole = parts.Create_resized(0, num_bytes).Commit()
    parts.Free()
    block.Free()
    return whole


def at(address: int, num_bytes: int, room: int | None = None) -> Spec:
    """`num_bytes` bytes from `address`; `room` is the size of the whole buffer where several such parts lie."""
    if num_bytes <= MAX_COUNT:
        if room is None or room == num_bytes:
            return _bytes_at(address, num_bytes)
        return (MPI.buffer.fromaddress(address, room), num_bytes, MPI.BYTE)
    return (MPI.buffer.fromaddress(address, room or num_bytes), 1, _blob(num_bytes))


def moving(tensor: Tensor) -> Spec:
    """A contiguous tensor as bytes."""
    return at(tensor.data_ptr(), nbytes(tensor))


def blocks(tensor: Tensor, size: int) -> Spec:
    """A contiguous tensor as `size` equal parts."""
    whole = nbytes(tensor)
    return at(tensor.data_ptr(), whole // size, room=whole)


def reducing(tensor: Tensor, parts: int = 1) -> Spec:
    """A contiguous tensor to be computed with, in `parts` equal parts of at most MAX_COUNT elements."""
    if parts == 1:
        return _typed_at(tensor.data_ptr(), tensor.numel(), tensor.dtype)
    room = MPI.buffer.fromaddress(tensor.data_ptr(), nbytes(tensor))
    return (room, tensor.numel() // parts, DATATYPES[tensor.dtype])


def pieces(tensor: Tensor) -> Iterator[Tensor]:
    """A contiguous tensor in parts that one reducing call can take."""
    if tensor.numel() <= MAX_COUNT:
        yield tensor
    else:
        yield from tensor.view(-1).split(MAX_COUNT)


def overlap(one: Tensor, other: Tensor) -> bool:
    """Whether two contiguous tensors share memory, which MPI forbids between input and output."""
    a, b = one.data_ptr(), other.data_ptr()
    return a < b + nbytes(other) and b < a + nbytes(one)


def flat(tensors: list[Tensor]) -> Tensor:
    """Contiguous tensors one behind the other: the memory itself if they already lie so, else a copy."""
    if len(tensors) == 1:
        return tensors[0].view(-1)
    joined = adjoining(tensors)
    return joined if joined is not None else torch.cat([tensor.reshape(-1) for tensor in tensors])


def adjoining(tensors: list[Tensor]) -> Tensor | None:
    """One flat view of tensors that lie one behind the other in one storage, else None."""
    first = tensors[0]
    storage = first.untyped_storage().data_ptr()
    end = first.data_ptr()
    for tensor in tensors:
        if tensor.data_ptr() != end or tensor.untyped_storage().data_ptr() != storage or not tensor.is_contiguous():
            return None
        end += nbytes(tensor)
    return first.detach().as_strided((sum(tensor.numel() for tensor in tensors),), (1,), first.storage_offset())
