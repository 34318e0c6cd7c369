"""Data that come one after the other: an IterableDataset, read in global batches, the same ones in every layout.

Each replica reads the whole stream and takes its share of each global batch. At its end the stream begins again, which
is the next epoch; the rest that fills no batch is left out. What the stream draws from torch, NumPy and `random`
follows from the seed and the epoch alone: it draws from generators of its own, which are put in place while it is read.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset

from hpc_accel.errors import DataError


def is_stream(dataset: Any) -> bool:
    """Whether samples can only be asked for one after the other."""
    if isinstance(dataset, IterableDataset):
        return True
    return hasattr(dataset, "__iter__") and not hasattr(dataset, "__getitem__")


def num_samples_of(dataset: Any) -> int | None:
    """Samples of an epoch; None for a stream that does not tell."""
    return dataset.num_samples if isinstance(dataset, Stream) else len(dataset)


def spread_over(dataset: Any, most: int) -> list[int]:
    """Numbers of at most `most` samples, evenly spread over the data set; of a stream the first ones."""
    total = num_samples_of(dataset)
    if isinstance(dataset, Stream):
        return list(range(most if total is None else min(most, total)))
    count = min(most, total or 0)
    return [index * (total or 0) // count for index in range(count)]


class Stream(Dataset[Any]):
    """A stream in global batches of `batch_size`: sample k x batch_size + i is the i-th of step k.

    `stream[number]` reads as far as that and keeps what was read: for looking at the first samples. `read` is for
    training.
    """

    def __init__(self, dataset: Any, seed: int, batch_size: int) -> None:
        self.dataset = dataset
        self.seed = seed
        self.batch_size = batch_size
        self.kept: list[Any] = []
        self._reading: Reading | None = None

    @property
    def num_samples(self) -> int | None:
        """Samples of an epoch, where the stream says so."""
        try:
            return len(self.dataset)
        except (TypeError, NotImplementedError):
            return None

    def __getitem__(self, number: int) -> Any:
        if self._reading is None:
            self._reading = self.read()
        while number >= len(self.kept):
            self.kept += next(self._reading)
        return self.kept[number]

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "kept": [], "_reading": None}  # for a process that loads data

    def read(self) -> Reading:
        """From the beginning."""
        return Reading(self)


class Reading:
    """One pass through a stream, epoch after epoch: each step a global batch."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._step = 0
        self._epoch = 0
        self._samples: Iterator[Any] | None = None
        self._generators = _Generators()

    def __iter__(self) -> Reading:
        return self

    def __next__(self) -> list[Any]:
        """The samples of the next step. Raises DataError for a stream that ends before its first batch is full."""
        with self._generators.in_place():
            if self._samples is None:
                self._begin()
            while len(batch := self._taken()) < self._stream.batch_size:
                if self._step_of_epoch == 0:
                    raise DataError(
                        f"a stream that ends after {len(batch)} samples of epoch {self._epoch}",
                        f"an epoch fills at least one global batch of {self._stream.batch_size}",
                        "return the samples anew from each iter(dataset), or set a smaller global_batch_size",
                    )
                self._epoch += 1
                self._begin()
        self._step += 1
        self._step_of_epoch += 1
        return batch

    def _begin(self) -> None:
        told = getattr(self._stream.dataset, "set_epoch", None)
        if callable(told):
            told(self._epoch)
        seed = (self._stream.seed * 1_000_003 + self._epoch) % 2**32
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        self._step_of_epoch = 0
        self._samples = iter(self._stream.dataset)

    def _taken(self) -> list[Any]:
        assert self._samples is not None
        batch: list[Any] = []
        for sample in self._samples:
            batch.append(sample)
            if len(batch) == self._stream.batch_size:
                break
        return batch

    def skip(self, num_steps: int) -> None:
        """Read on to a step, as no other way leads there."""
        while self._step < num_steps:
            next(self)

    def position(self) -> dict[str, Any] | None:
        """Where the reading is, as JSON; None for a stream that has no `state_dict`, or one that is no JSON."""
        state = getattr(self._stream.dataset, "state_dict", None)
        if not callable(state) or not callable(getattr(self._stream.dataset, "load_state_dict", None)):
            return None
        with self._generators.in_place():
            found = {"step": self._step, "epoch": self._epoch, "step_of_epoch": self._step_of_epoch, "stream": state()}
        found["generators"] = self._generators.as_json()
        try:
            return dict(json.loads(json.dumps(found)))
        except (TypeError, ValueError):
            return None

    def go_to(self, position: dict[str, Any]) -> None:
        """Go on from there."""
        told: Any = self._stream.dataset
        if callable(getattr(told, "set_epoch", None)):
            told.set_epoch(position["epoch"])
        told.load_state_dict(position["stream"])
        self._generators.load_json(position["generators"])
        with self._generators.in_place():
            self._samples = iter(told)
        self._step, self._epoch, self._step_of_epoch = (position[key] for key in ("step", "epoch", "step_of_epoch"))


class _Generators:
    """The states of torch's, NumPy's and Python's generators that belong to a stream."""

    def __init__(self) -> None:
        self._states = _states()

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Inside, they are the process's own."""
        outside = _states()
        _set(self._states)
        try:
            yield
        finally:
            self._states = _states()
            _set(outside)

    def as_json(self) -> list[Any]:
        """Kept in a checkpoint."""
        cpu, (version, internal, gauss), (name, keys, position, has_gauss, cached) = self._states
        numpy = [name, np.asarray(keys).tolist(), position, has_gauss, cached]
        return [cpu.tolist(), [version, list(internal), gauss], numpy]

    def load_json(self, states: list[Any]) -> None:
        """As they were kept."""
        cpu, (version, internal, gauss), (name, keys, *rest) = states
        numpy = (name, np.array(keys, dtype=np.uint32), *rest)
        self._states = (torch.tensor(cpu, dtype=torch.uint8), (version, tuple(internal), gauss), numpy)


def _states() -> tuple[Any, Any, Any]:
    return torch.get_rng_state(), random.getstate(), np.random.get_state()


def _set(states: tuple[Any, Any, Any]) -> None:
    torch.set_rng_state(states[0])
    random.setstate(states[1])
    np.random.set_state(states[2])
