"""A tensor in a few numbers that are linear in it: sums of its elements with random signs, in random buckets.

A count sketch (Charikar, Chen, Farach-Colton 2002). The squared length of a sketch is that of the tensor in the mean,
with a relative deviation of sqrt(2 / NUM_BUCKETS), here 18 %, so a distance is known to about 9 %. Buckets and signs
follow from an element's index in the whole tensor, so sketches of shards add up to that of the whole, and a rank needs
nobody else's part. A tensor of at most NUM_BUCKETS elements is kept exactly.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence

import numpy as np
import torch

NUM_BUCKETS = 64
WIDTH = NUM_BUCKETS + 1
"""The buckets, and the squared length exactly."""
_MOST_AT_ONCE = 2**22
_MIX = (-7046029254386353131, -4658895280553007687)
"""Odd 64-bit constants of the SplitMix64 generator (Steele, Lea, Flood 2014)."""


def sketch(values: torch.Tensor, start: Sequence[int], shape: Sequence[int]) -> torch.Tensor:
    """[WIDTH] in fp64 of `values`, which stand from index `start` on in a tensor of `shape`."""
    found = torch.zeros(WIDTH, dtype=torch.float64, device=values.device)
    if not values.numel():
        return found
    if values.is_complex():
        values = torch.view_as_real(values.resolve_conj())
        start, shape = (*start, 0), (*shape, 2)
    if not values.dim():
        values, start, shape = values.reshape(1), (0,), (1,)
    rows = max(1, _MOST_AT_ONCE // max(1, values[0].numel()))
    for first in range(0, values.shape[0], rows):
        part = values[first : first + rows]
        index = _flat_index(part.shape, (start[0] + first, *start[1:]), shape, values.device)
        _add(found, part.reshape(-1).double(), index, int(np.prod(shape, dtype=np.int64)))
    return found


def reals(tensor: torch.Tensor) -> torch.Tensor:
    """What it holds in fp64, detached; of complex numbers real and imaginary parts, [..., 2]."""
    tensor = tensor.detach()
    return (torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor).double()


def _flat_index(size: Sequence[int], start: Sequence[int], shape: Sequence[int], device: torch.device) -> torch.Tensor:
    index = torch.zeros((1,) * len(size), dtype=torch.int64, device=device)
    stride = 1
    for dim in range(len(size) - 1, -1, -1):
        own = (torch.arange(size[dim], device=device) + start[dim]) * stride
        index = index + own.reshape([-1 if other == dim else 1 for other in range(len(size))])
        stride *= shape[dim]
    return index.reshape(-1)


def _add(found: torch.Tensor, values: torch.Tensor, index: torch.Tensor, total: int) -> None:
    found[NUM_BUCKETS] += (values * values).sum()
    if total <= NUM_BUCKETS:
        found.index_add_(0, index, values)
        return
    mixed = index * _MIX[0]
    mixed = (mixed ^ ((mixed >> 29) & 0x7FFFFFFFF)) * _MIX[1]
    mixed = mixed ^ ((mixed >> 32) & 0xFFFFFFFF)
    found.index_add_(0, (mixed >> 8) & (NUM_BUCKETS - 1), values * (1 - 2 * ((mixed >> 40) & 1)))


def squared(sketches: np.ndarray) -> np.ndarray:
    """Squared lengths of sketches [..., WIDTH] or of differences of such, estimated from the buckets."""
    return np.square(sketches[..., :NUM_BUCKETS]).sum(axis=-1)


def encoded(array: np.ndarray) -> str:
    """An array of fp64 as text."""
    return base64.b64encode(np.ascontiguousarray(array, dtype="<f8").tobytes()).decode()


def decoded(text: str) -> np.ndarray:
    """Sketches [n, WIDTH] from their text."""
    return np.frombuffer(base64.b64decode(text), dtype="<f8").reshape(-1, WIDTH)
