"""A look at the data: the first sample, the last and some between; whether they can be read and form one batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hpc_accel.errors import DataError, HpcAccelError
from hpc_accel.workloads.batch import Batch, BatchRules
from hpc_accel.workloads.stream import Stream, num_samples_of, spread_over
from hpc_accel.workloads.workload import Workload

MOST_LOOKED_AT = 8
MOST_SHOWN = 3
"""Kinds of samples named in a message."""


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Samples by index, in the order of the data set, and what each is made of in words."""

    num_samples: int | None
    samples: dict[int, Any]
    kinds: dict[str, list[int]]
    """Shapes and dtypes in words -> the indices of the samples that have them; one entry where all are alike."""

    rules: BatchRules

    def batch(self, count: int) -> Batch:
        """`count` samples; they come again where fewer were looked at."""
        known = list(self.samples.values())
        return self.rules([known[index % len(known)] for index in range(count)])

    def to_json(self) -> dict[str, Any]:
        """In plain values."""
        return {"looked_at": list(self.samples), "kinds": self.kinds}


def look_at(workload: Workload, entry: str, say: Any) -> Seen:
    """Read a spread of samples. Raises DataError for one that cannot be read or forms no batch with the others."""
    total = num_samples_of(workload.dataset)
    numbers = spread_over(workload.dataset, MOST_LOOKED_AT)
    if total is not None and not isinstance(workload.dataset, Stream):
        numbers = sorted({number * (total - 1) // max(1, len(numbers) - 1) for number in range(len(numbers))})
    samples: dict[int, Any] = {}
    for index in numbers:
        say(f"reading dataset[{index}]")
        try:
            samples[index] = workload.dataset[index]
        except HpcAccelError:
            raise
        except (Exception, SystemExit) as error:
            raise DataError(
                f"entry {entry!r}: dataset[{index}] raised {type(error).__name__}: {error}",
                "each sample that the dataset promises can be read",
                "correct the line that is named, or the record it reads",
            ) from error
    kinds: dict[str, list[int]] = {}
    for index, sample in samples.items():
        kinds.setdefault(described(sample), []).append(index)
    seen = Seen(num_samples=total, samples=samples, kinds=kinds, rules=workload.rules)
    try:
        seen.batch(len(samples))
    except Exception as error:
        shown = [f"dataset[{at[0]}] is {kind}" for kind, at in list(kinds.items())[:MOST_SHOWN]]
        more = f" and {len(kinds) - MOST_SHOWN} more kinds" if len(kinds) > MOST_SHOWN else ""
        raise DataError(
            f"entry {entry!r}: {', '.join(shown)}{more}",
            "samples are put together into a batch: each is (input, target) of the same shapes",
            "pad or cut them to one length in dataset[i], and mark what does not count in the target; or give a "
            "collate function: Workload(..., collate=function)",
        ) from error
    return seen


def described(sample: Any) -> str:
    """Shapes and dtypes of a sample in words: `input [3, 32, 32] float32, target [] int64`."""
    if isinstance(sample, tuple | list) and len(sample) == 2:
        return f"input {_part(sample[0])}, target {_part(sample[1])}"
    return _part(sample)


def _part(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"({', '.join(map(_part, value))})"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_part(each)}" for key, each in value.items()) + "}"
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if shape is not None and dtype is not None:
        return f"{list(shape)} {str(dtype).removeprefix('torch.')}"
    return type(value).__name__
