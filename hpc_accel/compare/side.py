"""What is compared: a study reduced to its configurations, which is also what a baseline file holds."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from hpc_accel.record.figure import Part, Whole
from hpc_accel.record.text import Text

FORMAT = 1
"""Of the baseline file: raised whenever a key changes."""
KIND = "hpc-accel baseline"
STEP_TIME = "step_time_ms"
QUANTITIES = {
    STEP_TIME: "step time",
    "energy_per_sample_j": "energy per sample",
    "peak_memory_bytes": "peak memory",
    "latency_p99_ms": "p99 latency",
}
"""What a repeat is compared in, by its key; less is better for each."""


class Repeat(Part):
    """One run of a configuration: each quantity that it measured, and what its steps alone tell of the median."""

    run_id: Text
    figures: dict[Text, float]
    num_steps: Whole
    log_error: float | None = Field(default=None, ge=0)
    """Standard error of the logarithm of the median step time; null where the steps cannot be read."""
    is_least_error: bool = False
    """Whether the steps tell only that the error is no smaller: they drift, or are few."""
    steps_per_value: float = Field(default=1.0, ge=1)
    """Steps that tell as much as one that depends on no other (autocorrelation.py)."""
    others_share: float | None = Field(default=None, ge=0)
    """Of the run's CPUs, what others used while steps were timed."""


class Configuration(Part):
    """A workload, layout, recipe and resources, with the repeats that count; `problem` says why it cannot be judged."""

    workload: Text
    label: Text
    computes: dict[str, Any]
    energy_basis: Text = ""
    """Scope and method: energies of another basis are not compared. Empty where the repeats have several."""
    repeats: tuple[Repeat, ...] = ()
    problem: Text = ""

    def values(self, quantity: str) -> list[float]:
        """Of each repeat; empty where one of them does not know it."""
        found = [repeat.figures.get(quantity) for repeat in self.repeats]
        known = [value for value in found if value is not None and value > 0]
        return known if len(known) == len(found) else []


class Side(Part):
    """One of the two studies."""

    format: Literal[1] = 1
    kind: Literal["hpc-accel baseline"] = "hpc-accel baseline"
    study: Text
    site: Text
    measured_from_utc: Text = ""
    measured_to_utc: Text = ""
    facts: dict[Text, tuple[Text, ...]] = {}
    """By name, every value that one of the runs was measured with: versions, host, processor, files by digest."""
    configurations: tuple[Configuration, ...]
