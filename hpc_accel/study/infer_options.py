"""What an inference run serves and what it must hold: batches, arrivals, deadline, latency limit, generation.

`Infer` is one run's, resolved; what a study says is `InferChoice` (choices.py).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from hpc_accel.study.base import PositiveInt, StrictModel
from hpc_accel.study.recipe import Count

Arrivals = Literal["poisson", "fixed"]
Rate = Annotated[float, Field(gt=0, le=1e7, allow_inf_nan=False)]
Milliseconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Percentile = Annotated[float, Field(gt=0, lt=100)]


class Generate(StrictModel):
    """Tokens generated greedily after a prompt, with the keys and values of earlier tokens kept, or computed anew."""

    prompt: PositiveInt
    tokens: Annotated[int, Field(ge=2, strict=True)]
    kv_cache: tuple[bool, ...] = (True, False)


class InferOptions(StrictModel):
    """What a study's choice and a run's content have in common. Rates are requests per second, one sample each."""

    arrival_rates_per_s: Annotated[tuple[Rate, ...], Field(min_length=1)]
    arrivals: Arrivals = "poisson"
    num_requests: PositiveInt = 500
    """Counted requests of each rate."""
    warmup_requests: Count = 50
    """Requests before them at the same rate, left out of the percentiles."""
    deadline_ms: Milliseconds | None = None
    max_missed: Share = 0.0
    """Share of requests that may miss the deadline before a rate fails it."""
    latency_limit_ms: Milliseconds | None = None
    """Where set, the highest rate whose `limit_percentile` stays within it is searched for."""
    limit_percentile: Percentile = 99
    min_top1_agreement: Share = 0.9
    """Share of answers whose class must be that of the unchanged fp32 model, for a run to count."""
    train_steps: Count = 0
    """Serial training steps before serving; 0 serves the weights that `build()` returns."""
    generate: Generate | None = None


class Infer(InferOptions):
    """One inference run. `batch_size` is the most samples that one replica computes at once."""

    batch_size: PositiveInt
