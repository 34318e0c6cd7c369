"""What was not measured, why, and what to do about it: one entry per quantity and reason, not one per run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from hpc_accel.report import fields, ranking
from hpc_accel.report.records import RunRecord, StudyRecords

NO_LATENCY = "the study trains: latencies are measured by inference runs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A quantity that `num_runs` of `of_runs` completed runs did not measure."""

    quantity: str
    reason: str
    remedy: str
    num_runs: int
    of_runs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Quantity:
    name: str
    reason_of: Callable[[RunRecord], str | None]  # None: it was measured
    remedy_of: Callable[[RunRecord], str]


def energy_reason(run: RunRecord) -> str | None:
    """Why there is no energy; None where there is."""
    if fields.positive(run.summary, "energy", "energy_j") is not None:
        return None
    return fields.text(run.summary, "energy", "reason") or "the run left no energy record"


def cost_reason(run: RunRecord) -> str | None:
    """Why there is no cost; None where there is."""
    if ranking.cost(run):
        return None
    default = "the site has no price, or the run was not predicted"
    return fields.text(run.candidate, "prediction", "cost_reason") or default


def prediction_reason(run: RunRecord) -> str | None:
    """Why there is no predicted step time; None where there is."""
    if fields.positive(run.candidate, "prediction", "step_time_ms"):
        return None
    return fields.text(run.candidate, "prediction", "step_time_reason") or "the plan holds no prediction for this run"


def communication_reason(run: RunRecord) -> str | None:
    """Why exposed communication is unknown; None where it was measured."""
    if fields.number(run.summary, "phases_ms", "comm_exposed") is not None:
        return None
    return fields.text(run.summary, "phases_reason", "comm_exposed") or "the run left no time for it"


def bubble_reason(run: RunRecord) -> str | None:
    """Why the bubble is unknown; None where it was measured."""
    if fields.number(run.summary, "bubble_fraction") is not None:
        return None
    default = "the run left no time for it" if run.has_pipeline else "no pipeline"
    return fields.text(run.summary, "bubble_reason") or default


def memory_reason(run: RunRecord) -> str | None:
    """Why peak memory is unknown; None where it was measured."""
    if fields.positive(run.summary, "peak_memory_bytes"):
        return None
    return fields.text(run.summary, "peak_memory_reason") or "the run left no memory record"


def energy_remedy(run: RunRecord) -> str:
    """What the sensors' own words say can be done, else where to look."""
    default = "run on nodes with counters (NVML, RAPL, pm_counters); `hpc-accel doctor` says what is missing here"
    return fields.text(run.summary, "energy", "remedy") or default


_QUANTITIES = (
    _Quantity(name="energy", reason_of=energy_reason, remedy_of=energy_remedy),
    _Quantity(
        name="cost",
        reason_of=cost_reason,
        remedy_of=lambda run: "write the partition's price_per_node_hour into the site file",
    ),
    _Quantity(
        name="prediction",
        reason_of=prediction_reason,
        remedy_of=lambda run: "probe and plan the study again",
    ),
    _Quantity(
        name="exposed communication",
        reason_of=lambda run: communication_reason(run) if run.num_ranks > 1 else None,
        remedy_of=lambda run: "use backend mpi4py, whose waits are timed",
    ),
    _Quantity(
        name="pipeline bubble",
        reason_of=lambda run: bubble_reason(run) if run.has_pipeline else None,
        remedy_of=lambda run: "use backend mpi4py, whose waits are timed",
    ),
    _Quantity(name="peak memory", reason_of=memory_reason, remedy_of=lambda run: f"read runs/{run.run_id}/log.txt"),
)


def gaps(records: StudyRecords, runs: list[RunRecord] | None = None) -> list[Gap]:
    """Quantities that runs which count did not measure, the largest gap of each quantity first."""
    counting = [run for run in (records.runs if runs is None else runs) if run.counts]
    found: list[Gap] = []
    for quantity in _QUANTITIES:
        without = [(reason, run) for run in counting if (reason := quantity.reason_of(run)) is not None]
        first = dict(reversed(without))
        found += [
            Gap(
                quantity=quantity.name,
                reason=reason,
                remedy=quantity.remedy_of(first[reason]),
                num_runs=count,
                of_runs=len(counting),
            )
            for reason, count in Counter(reason for reason, _ in without).most_common()
        ]
    return found
