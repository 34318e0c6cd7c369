"""The objects of a summary that every run has, trained or served. A run that does not know a figure says why."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from hpc_accel.record.figure import (
    Bytes,
    Count,
    Flop,
    FlopPerSecond,
    Fraction,
    Joules,
    Milliseconds,
    Number,
    OwnUnit,
    Part,
    Seconds,
    Whole,
)
from hpc_accel.record.parity import Found
from hpc_accel.record.text import Text


class Error(Part):
    """Why a run has no result, or a wrong one. `rank` is null where no single rank is to blame."""

    rank: Whole | None = None
    kind: Text
    message: Text
    remedy: Text


class Outliers(Part):
    """Timed steps far from the median: counted, the first of them by number, never dropped."""

    count: Whole
    steps: tuple[Whole, ...] = ()
    rule: Text = ""


class Steps(Part):
    """How many steps there were, and of what. A step of an inference run is one full batch on every replica."""

    num_warmup: Whole
    num_warmup_detected: Count
    num_asked: Whole
    num_timed: Whole
    global_batch_size: Whole
    samples_per_epoch: Count
    samples_dropped_per_epoch: Count
    tokens_per_sample: Count
    outliers: Outliers

    @property
    def num_samples(self) -> int:
        """Samples of all timed steps."""
        return self.num_timed * self.global_batch_size


class Durations(Part):
    """Durations by name."""

    @classmethod
    def missing(cls, reason: str) -> Self:
        """None of them, and why."""
        return cls(**dict.fromkeys(cls.model_fields, Milliseconds.missing(reason)))

    def of(self, name: str) -> Milliseconds:
        """The duration of that name."""
        found: Milliseconds = getattr(self, name)
        return found


class Phases(Durations):
    """Median over the timed steps of the mean over ranks. `comm_overlapped` ran beside the others, not in the sum."""

    data: Milliseconds
    forward: Milliseconds
    backward: Milliseconds
    comm_exposed: Milliseconds
    pipeline_wait: Milliseconds
    optimizer: Milliseconds
    other: Milliseconds
    comm_overlapped: Milliseconds


class Startup(Durations):
    """What came before the timed steps, of rank 0."""

    imports: Milliseconds
    mpi_init: Milliseconds
    parity: Milliseconds = Milliseconds.missing("the run noted no such time")
    model_build: Milliseconds
    first_step: Milliseconds


class Memory(Part):
    """The most of any rank: what was allocated (`scope` says of what), and of a GPU what its card held besides."""

    peak_memory_bytes: Bytes
    scope: Text = ""
    reserved_bytes: Bytes
    device_used_bytes: Bytes

    @classmethod
    def missing(cls, reason: str) -> Self:
        """None of them, and why."""
        none = Bytes.missing(reason)
        return cls(peak_memory_bytes=none, reserved_bytes=none, device_used_bytes=none)


class Flops(Part):
    """FLOPs counted on the serial model, and their rate over the probed peak: model FLOP utilisation (MFU)."""

    per_step: Flop
    counted_on: Text = ""
    achieved_flops_per_s: FlopPerSecond
    peak_flops_per_s: FlopPerSecond
    mfu: Fraction

    @classmethod
    def missing(cls, reason: str) -> Self:
        """None of them, and why."""
        rate = FlopPerSecond.missing(reason)
        return cls(
            per_step=Flop.missing(reason),
            achieved_flops_per_s=rate,
            peak_flops_per_s=rate,
            mfu=Fraction.missing(reason),
        )


class Target(Part):
    """Steps, time and energy to the first loss at or below the one that the study wants."""

    loss: OwnUnit
    num_steps: Count
    time_s: Seconds
    energy_j: Joules

    @classmethod
    def missing(cls, reason: str, loss: float | None = None) -> Self:
        """It was not reached, or not wanted."""
        return cls(
            loss=OwnUnit.of(loss, reason),
            num_steps=Count.missing(reason),
            time_s=Seconds.missing(reason),
            energy_j=Joules.missing(reason),
        )


class Straggler(Part):
    """The rank that computed longest in a step, waiting left out, beside the mean of the others."""

    rank: Count
    host: Text = ""
    busy_ms: Milliseconds
    mean_of_others_ms: Milliseconds
    excess: Fraction

    @classmethod
    def missing(cls, reason: str) -> Self:
        """Nobody looked, and why."""
        time = Milliseconds.missing(reason)
        return cls(rank=Count.missing(reason), busy_ms=time, mean_of_others_ms=time, excess=Fraction.missing(reason))


class Disturbance(Part):
    """What others used while steps were timed, on the node where that was most."""

    host: Text = ""
    others_share: Fraction
    """Of the CPUs that the run may use."""
    node_others_share: Fraction
    """Of all CPUs of the node."""
    stolen_share: Fraction
    """What the host of a virtual machine took, of the CPUs that the run may use."""
    swapped_pages: Count
    throttle_events: Count
    """How often heat held back a CPU that the run may use."""
    frequency_drop: Fraction
    """By how much of their clock the run's CPUs were slower at the end of the timed steps than at their begin."""

    @classmethod
    def missing(cls, reason: str) -> Self:
        """Nobody looked, and why."""
        share, count = Fraction.missing(reason), Count.missing(reason)
        return cls(
            others_share=share,
            node_others_share=share,
            stolen_share=share,
            swapped_pages=count,
            throttle_events=count,
            frequency_drop=share,
        )


class Checkpoints(Part):
    """What was saved, how long each save took, and where this attempt went on from.

    Training stood still for `save_ms`; a checkpoint had its name after `written_ms`, which goes on beside the steps if
    `asynchronous`.
    """

    num_saved: Whole
    save_ms: tuple[Number, ...] = ()
    written_ms: tuple[Number, ...] = ()
    asynchronous: bool
    interval: Text
    """How often the run saves, and why."""
    resumed_from_step: Count
    started_from: Text = ""
    """The run and its step that the training began in, if it was another one."""
    attempts: Whole
    notes: tuple[Text, ...] = ()


class Losses(Part):
    """The first losses, those of the serial reference, and the last one. A loss that is not finite is null.

    The reference takes plain SGD in the parity steps: its losses belong beside those of `Parity.found.phases`.
    """

    first: tuple[Number | None, ...] = ()
    reference: tuple[Number | None, ...] = ()
    final: OwnUnit


class Parity(Part):
    """Whether the run computes what the serial run computes. With 0 `steps` compared: not passed and not failed."""

    max_rel_err: Number | None
    tolerance: Number | None
    steps: Whole
    reference: Text
    passed: bool
    reason: Text | None = None
    found: Found | None = None
    """Every distance; null where nothing was trained."""

    @model_validator(mode="after")
    def _says_why(self) -> Self:
        if not self.passed and not self.reason:
            raise ValueError("parity that did not pass has a reason")
        return self

    @property
    def figure(self) -> Fraction:
        """The largest distance as a figure."""
        return Fraction.of(self.max_rel_err, self.reason or "")


class Metric(Part):
    """The workload's figure on held-out samples; `value` is null for `reason`."""

    name: Text | None = None
    value: Number | None
    higher_is_better: bool | None = None
    also: dict[Text, Number | None] = {}
    num_samples: Whole = 0
    reason: Text = ""

    @model_validator(mode="after")
    def _says_why(self) -> Self:
        if self.value is None and not self.reason:
            raise ValueError("a metric without a value has a reason")
        return self

    @property
    def figure(self) -> OwnUnit:
        """The value as a figure."""
        return OwnUnit.of(self.value, self.reason)


Status = Literal["completed", "wrong", "failed", "preempted", "hung", "timeout", "cancelled"]
