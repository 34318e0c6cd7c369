"""What only an inference run measures: latency by arrival rate, the highest rate within a limit, answers."""

from __future__ import annotations

from typing import Self

from hpc_accel.record.energy import RequestEnergy, TokenEnergy
from hpc_accel.record.figure import Count, Estimate, Fraction, Milliseconds, Number, OwnUnit, Part, PerSecond, Whole
from hpc_accel.record.text import Text

PERCENTILES = ("p50", "p90", "p99", "p99_9")
"""Fields of Latency, the lowest percentile first."""


class Latency(Part):
    """Percentiles that the number of requests supports, each with its interval, and the longest of all."""

    p50: Estimate
    p90: Estimate
    p99: Estimate
    p99_9: Estimate
    max_ms: Number
    num_requests: Whole

    def percentile(self, name: str) -> Estimate:
        """One of PERCENTILES."""
        found: Estimate = getattr(self, name)
        return found


class Deadline(Part):
    """How many requests were answered too late, and whether as many may be; without a deadline, why there is none."""

    deadline_ms: Milliseconds
    num_missed: Count
    share_missed: Fraction
    max_missed: Fraction
    passed: bool | None

    @classmethod
    def missing(cls, reason: str) -> Self:
        """There is no deadline."""
        share = Fraction.missing(reason)
        return cls(
            deadline_ms=Milliseconds.missing(reason),
            num_missed=Count.missing(reason),
            share_missed=share,
            max_missed=share,
            passed=None,
        )


class Rate(Part):
    """What was measured while requests arrived at one rate."""

    rate_per_s: Number
    num_requests: Whole
    num_warmup: Whole
    latency_ms: Latency
    waiting_p50_ms: Milliseconds
    completed_per_s: Number
    mean_batch: Number
    deadline: Deadline
    energy: RequestEnergy


class Tried(Part):
    """One window of the search for the highest rate."""

    rate_per_s: Number
    latency_ms: Number
    within: bool


class Limit(Part):
    """The highest rate whose `percentile` stays within the limit, and the lowest rate known to break it."""

    latency_limit_ms: Milliseconds
    percentile: Number
    max_rate_per_s: PerSecond
    next_rate_per_s: PerSecond
    tried: tuple[Tried, ...] = ()
    method: Text


class Generation(Part):
    """Tokens generated one after the other, with or without a key-value cache."""

    kv_cache: bool
    prompt: Whole
    tokens: Whole
    num_sequences: Whole
    repeats: Whole
    time_to_first_token_ms: Estimate
    time_per_output_token_ms: Estimate
    tokens_per_s: Number
    cache_max_rel_err: Fraction
    energy: TokenEnergy


class Inference(Part):
    """The load, and what was measured under it."""

    batch_size: Whole
    replicas: Whole
    arrivals: Text
    train_steps: Whole
    load: Text
    rates: tuple[Rate, ...]
    limit: Limit
    generate: tuple[Generation, ...] = ()
    notes: tuple[Text, ...] = ()


class Outputs(Part):
    """The answers beside those of the unchanged serial fp32 model: what the recipe did to them."""

    reference: Text
    num_samples: Whole
    max_rel_err: Fraction
    top1_agreement: Fraction
    metric_of_reference: OwnUnit
