"""The same samples in the same order, whatever the layout: global batch k is the same set for every run of a seed.

An epoch is a permutation drawn from (seed, epoch). It is cut into global batches; the last incomplete one is dropped,
or kept: then each replica's share of it is filled up with repeated samples, of which `valid` says how many count. So
every batch has the same shape on every rank, and none waits for one that ran out of data. A data-parallel rank takes
its contiguous share of each global batch.
"""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from hpc_accel.errors import ConfigError, DataError, HpcAccelError
from hpc_accel.parallel import planted
from hpc_accel.runtime.data_worker import end_with
from hpc_accel.runtime.randomness import seed_all, seed_of, states_kept
from hpc_accel.runtime.seeded import Drawn, digest_of_sample
from hpc_accel.study.sources import users_frame
from hpc_accel.workloads.batch import Batch, BatchRules
from hpc_accel.workloads.stream import Reading, Stream, num_samples_of

MEND = "correct the line that is named, or the record that it reads"
MOST_NAMED = 8


class ShareSampler(Sampler[list[int]]):
    """Endless sample indices of one data-parallel rank's share, one list a step, from step `first_step` on.

    `start` and `share` say which part of each global batch is this rank's. With `tells_epoch` indices know their epoch.
    """

    def __init__(
        self,
        num_samples: int,
        global_batch_size: int,
        *,
        start: int,
        share: int,
        seed: int,
        first_step: int = 0,
        keep_last: bool = False,
        tells_epoch: bool = False,
    ) -> None:
        if global_batch_size > num_samples:
            raise DataError(
                f"{num_samples} samples for a global batch of {global_batch_size}",
                "a batch holds each sample at most once",
                f"set global_batch_size <= {num_samples}",
            )
        self.num_samples = num_samples
        self.global_batch_size = global_batch_size
        self.start = start
        self.share = share
        self.seed = seed
        self.first_step = first_step
        self.keep_last = keep_last
        self.tells_epoch = tells_epoch
        self._orders: dict[int, torch.Tensor] = {}

    @property
    def batches_per_epoch(self) -> int:
        """Global batches of an epoch, the incomplete one included if it is kept."""
        whole, rest = divmod(self.num_samples, self.global_batch_size)
        return whole + (1 if rest and self.keep_last else 0)

    def __iter__(self) -> Iterator[list[int]]:
        for step in count(self.first_step):
            samples = self.samples(step)
            epoch = step // self.batches_per_epoch
            yield [Drawn(index, epoch) for index in samples] if self.tells_epoch else samples

    def samples(self, step: int) -> list[int]:
        """This rank's samples of `step`, of which `valid` count."""
        epoch, batch = divmod(step, self.batches_per_epoch)
        samples = self._order(epoch)[batch * self.global_batch_size :][: self.global_batch_size]
        begin, num_mine = self._mine(len(samples))
        begin = 0 if planted.is_on("sampler_repeats") else begin
        mine = samples[begin : begin + num_mine]
        # What fills up a short share is computed and not counted; any sample will do.
        padding = samples[:1].expand(self.share - num_mine)
        return torch.cat([mine, padding]).tolist()

    def _order(self, epoch: int) -> torch.Tensor:
        if epoch not in self._orders:
            self._orders = {kept: self._orders[kept] for kept in list(self._orders)[-1:]}  # a loader reads ahead
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
            self._orders[epoch] = torch.randperm(self.num_samples, generator=generator)
        return self._orders[epoch]

    def num_samples_of(self, step: int) -> int:
        """Samples of the global batch of `step`."""
        begin = step % self.batches_per_epoch * self.global_batch_size
        return min(self.global_batch_size, self.num_samples - begin)

    def valid(self, step: int) -> int:
        """How many of this rank's samples of `step` count; the first ones."""
        return self._mine(self.num_samples_of(step))[1]

    def _mine(self, total: int) -> tuple[int, int]:
        """Begin and number of this rank's samples in a global batch of `total`."""
        if total == self.global_batch_size:
            return self.start, self.share
        # Only equal shares meet an incomplete batch: it is dealt out as evenly as whole samples go.
        num_ranks, rank = self.global_batch_size // self.share, self.start // self.share
        each, more = divmod(total, num_ranks)
        return rank * each + min(rank, more), each + (rank < more)

    @property
    def samples_dropped_per_epoch(self) -> int:
        """Samples of the last, incomplete global batch, left out of each epoch (others each time)."""
        return 0 if self.keep_last else self.num_samples % self.global_batch_size


class StreamSampler(ShareSampler):
    """The same for a stream, whose samples have the numbers of their steps: k x global_batch_size + i."""

    def __init__(self, global_batch_size: int, *, start: int, share: int, seed: int, first_step: int = 0) -> None:
        super().__init__(
            global_batch_size, global_batch_size, start=start, share=share, seed=seed, first_step=first_step
        )

    @property
    def batches_per_epoch(self) -> int:
        """Not known, and never reached: a stream counts its epochs itself."""
        return sys.maxsize

    def samples(self, step: int) -> list[int]:
        """This rank's samples of `step`."""
        begin = step * self.global_batch_size + (0 if planted.is_on("sampler_repeats") else self.start)
        return list(range(begin, begin + self.share))

    def num_samples_of(self, step: int) -> int:
        """Every batch is whole."""
        return self.global_batch_size

    @property
    def samples_dropped_per_epoch(self) -> int:
        """None that are known of."""
        return 0


def sampler_for(
    dataset: Any, global_batch_size: int, *, start: int, share: int, seed: int, **options: Any
) -> ShareSampler:
    """The samples of one rank's share of a data set or of a stream. `options` are those of `ShareSampler`."""
    total = num_samples_of(dataset)
    if isinstance(dataset, Stream) or total is None:
        first_step = options.get("first_step", 0)
        return StreamSampler(global_batch_size, start=start, share=share, seed=seed, first_step=first_step)
    return ShareSampler(total, global_batch_size, start=start, share=share, seed=seed, **options)


@dataclass(frozen=True, kw_only=True)
class Share:
    """One rank's share of a global batch, in its micro-batches: each is collated by itself, as in a loop of one's own.

    `digests` are numbers for its samples as the data set gives them, where they were asked for. `problem` is why there
    is no share: an error that a worker raises loses its kind and its line on the way to its rank.
    """

    micro_batches: list[Batch]
    digests: list[int]
    problem: HpcAccelError | None = None

    def checked(self) -> Share:
        """Itself. Raises `problem` where there is one."""
        if self.problem is not None:
            raise self.problem
        return self

    def pin_memory(self) -> Share:
        """In pinned memory; torch's loader asks for it by this name."""
        return replace(self, micro_batches=[each.pin_memory() for each in self.micro_batches])


class Fetched(Dataset[Any]):
    """Samples of `dataset` with their numbers, which `Collate` tells in an error; all of a batch are asked for at once.

    A data set that fetches several faster than one by one says so by `__getitems__`, as for torch's own loader.
    """

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[int, Any]]:
        several = getattr(self.dataset, "__getitems__", None)
        if callable(several):
            samples = _tried(lambda: several(indices), f"samples {', '.join(map(str, indices))} of the data set")
            if isinstance(samples, HpcAccelError):
                samples = [samples] * len(indices)
        else:
            samples = self._one_by_one(indices)
        return list(zip(indices, samples, strict=True))

    def _one_by_one(self, indices: Sequence[int]) -> list[Any]:
        """The samples; from the first that cannot be read on, its error.

        One `try` holds them all, because a small sample costs less than a `try` of its own.
        """
        samples: list[Any] = []
        fetch = self.dataset.__getitem__
        try:
            for at in indices:
                samples.append(fetch(at))  # how many there are says which one failed
        except (Exception, SystemExit) as error:
            found = _named(error, f"sample {indices[len(samples)]} of the data set")
            samples += [found] * (len(indices) - len(samples))
        return samples


def _tried(function: Callable[[], Any], what: str) -> Any:
    """What `function` of the user's gives, or the error that it raises, as a DataError that names the line."""
    try:
        return function()
    except (Exception, SystemExit) as error:
        return _named(error, what)


def _named(error: BaseException, what: str) -> HpcAccelError:
    """`error` as one of ours that says where in the user's code it was raised."""
    found = error
    if not isinstance(found, HpcAccelError):
        told = f"{what}: {type(error).__name__}: {error}"
        found = DataError(told, "each sample that is asked for can be read and put into a batch", MEND)
    found.where = found.where or users_frame(error)
    return found


class Collate:
    """Makes a `Share` of the samples of one, in micro-batches of `size`.

    With a `seed` what the workload's function draws (which words are masked, for example) follows from the first sample
    of the micro-batch; without one it is drawn from the generators of the process that loads.
    """

    def __init__(self, rules: BatchRules, size: int, *, digests: bool = False, seed: int | None = None) -> None:
        self.seed = seed
        self.rules = rules
        self.size = size
        self.digests = digests
        self.planted = planted.is_on("other_data", dist.get_rank() if dist.is_initialized() else 0)

    def __call__(self, fetched: list[tuple[int, Any]]) -> Share:
        indices, samples = [index for index, _ in fetched], [sample for _, sample in fetched]
        broken = next((each for each in samples if isinstance(each, HpcAccelError)), None)
        if broken is not None:
            return Share(micro_batches=[], digests=[], problem=broken)
        if self.planted:
            samples = [(*one[:-1], other[-1]) for one, other in zip(samples, samples[1:] + samples[:1], strict=True)]
        size = self.size
        parts = [slice(begin, begin + size) for begin in range(0, len(samples), size)]
        collated = [
            _tried(partial(self._collated, samples[part], indices[part]), _batch(indices[part])) for part in parts
        ]
        broken = next((each for each in collated if isinstance(each, HpcAccelError)), None)
        return Share(
            micro_batches=collated if broken is None else [],
            problem=broken,
            digests=[digest_of_sample(sample) for sample in samples] if self.digests else [],
        )

    def _collated(self, samples: list[Any], indices: list[int]) -> Batch:
        if self.seed is None or self.rules.collate is None:
            return self.rules(samples, indices)
        with states_kept():
            seed_all(seed_of(self.seed, "collate", getattr(indices[0], "epoch", 0), int(indices[0])))
            return self.rules(samples, indices)


def _batch(indices: Sequence[int]) -> str:
    return (
        f"a batch of samples {', '.join(map(str, indices[:MOST_NAMED]))}{', ...' if len(indices) > MOST_NAMED else ''}"
    )


class ShareOfStream(IterableDataset[Any]):
    """One rank's share of each global batch of a stream, from the sampler's first step on."""

    def __init__(self, stream: Stream, sampler: StreamSampler) -> None:
        self.stream = stream
        self.sampler = sampler
        self.from_position: dict[str, Any] | None = None
        self.reading: Reading | None = None

    def position(self) -> dict[str, Any] | None:
        """Where the stream is, if it says so and is read in this process; see `Reading.position`."""
        return self.reading.position() if self.reading is not None else None

    def __iter__(self) -> Iterator[list[tuple[int, Any]]]:
        self.reading = self.stream.read()
        if self.from_position is not None:
            self.reading.go_to(self.from_position)
        first = self.sampler.first_step
        self.reading.skip(first)
        for step, batch in enumerate(self.reading, start=first):
            begin = self.sampler.start
            numbers = self.sampler.samples(step)
            yield list(zip(numbers, batch[begin : begin + self.sampler.share], strict=True))


def stream_loader(
    shares: ShareOfStream, collate: Collate, *, num_workers: int = 0, pin_memory: bool = False
) -> Iterator[Share]:
    """Endless shares of one rank's part of a stream. However many workers are asked for, one reads it: the order of its
    samples is that of one reader.
    """
    yield from _loader(shares, collate, min(1, num_workers), seed=shares.sampler.seed, pin_memory=pin_memory)


def share_loader(
    dataset: Dataset[Any], sampler: ShareSampler, collate: Collate, *, num_workers: int = 0, pin_memory: bool = False
) -> Iterator[Share]:
    """Endless shares of one rank. Workers are fresh processes: one forked after MPI began may not live.

    Raises ConfigError for a data set that cannot be sent to them.
    """
    yield from _loader(
        Fetched(dataset), collate, num_workers, seed=sampler.seed, pin_memory=pin_memory, batch_sampler=sampler
    )


def _loader(
    dataset: Dataset[Any], collate: Collate, num_workers: int, *, seed: int, pin_memory: bool, **options: Any
) -> Iterator[Share]:
    # A loader draws the seed of its workers when it starts: not from the generator that dropout draws from, or a run
    # that goes on from a checkpoint, with a new loader, would draw other numbers.
    options |= {"num_workers": num_workers, "pin_memory": pin_memory, "collate_fn": collate}
    options |= {"generator": torch.Generator().manual_seed(seed)}
    if "batch_sampler" not in options:
        options["batch_size"] = None  # a stream yields whole shares
    if num_workers:
        options |= {"multiprocessing_context": "forkserver", "persistent_workers": True}
        options["worker_init_fn"] = partial(end_with, os.getpid())
    loader: DataLoader[Any] = DataLoader(dataset, **options)
    try:
        loaded = iter(loader)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"data_workers {num_workers} with a data set that cannot be pickled: {error}",
            "workers are processes of their own, to which the data set and the collate function are sent",
            "define them at the top of a module and keep no lambdas or open files in them, or set data_workers: 0",
        ) from error
    for share in loaded:
        yield share.checked()
