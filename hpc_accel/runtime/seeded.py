"""A data set whose randomness is a function of (seed, epoch, sample), whoever loads the sample, in which order.

Augmentation that draws from torch, NumPy or `random` then gives a sample the same numbers in every layout, in worker
processes too, and other numbers in the next epoch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from hpc_accel.runtime.randomness import digest_of_states, seed_all, seed_of, states_kept


class Drawn(int):
    """The index of a sample, which knows its epoch. It is a plain index for a data set that does not ask."""

    epoch: int

    def __new__(cls, index: int, epoch: int) -> Drawn:
        found = super().__new__(cls, index)
        found.epoch = epoch
        return found

    def __reduce__(self) -> tuple[Any, ...]:
        return Drawn, (int(self), self.epoch)


class Seeded(Dataset[Any]):
    """`dataset` with the generators seeded before each sample, and as they were after it."""

    def __init__(self, dataset: Any, seed: int) -> None:
        self.dataset = dataset
        self.seed = seed

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        with states_kept():
            seed_all(seed_of(self.seed, "sample", getattr(index, "epoch", 0), int(index)))
            return self.dataset[int(index)]


def draws_samples(dataset: Any, indices: list[int]) -> bool:
    """Whether loading these samples draws from the generators that the process shares."""
    with states_kept():
        seed_all(0)
        before = digest_of_states()
        for index in indices:
            dataset[index]
        return digest_of_states() != before


def digest_of_sample(sample: Any) -> int:
    """A number of 32 bits for the values of a sample, whatever it is nested in."""
    import zlib

    value = 0
    for part in _flat(sample):
        if isinstance(part, torch.Tensor):
            held = part.detach().cpu().contiguous()
            data = held.reshape(-1).view(torch.uint8).numpy().tobytes() if held.numel() else b""
        elif isinstance(part, np.ndarray):
            data = np.ascontiguousarray(part).tobytes()
        else:
            data = repr(part).encode()
        value = zlib.crc32(data, value)
    return value


def _flat(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return [leaf for key in sorted(value, key=str) for leaf in _flat(value[key])]
    if isinstance(value, tuple | list):
        return [leaf for part in value for leaf in _flat(part)]
    return [value]
