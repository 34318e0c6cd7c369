"""What was not measured, why, and what to do about it: one entry per quantity and reason, not one per run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from hpc_accel.report.judge import ranking
from hpc_accel.report.load import safe_json
from hpc_accel.report.load.run_record import RunRecord
from hpc_accel.report.load.study_records import StudyRecords

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


def status_reason(run: RunRecord) -> str | None:
    """Why a run does not count: its error, what was wrong with its files, or its failed parity."""
    if run.counts:
        return None
    error = safe_json.text(run.summary, "error", "message")
    kind, rank = safe_json.text(run.summary, "error", "kind"), safe_json.number(run.summary, "error", "rank")
    parts = [f"{kind}: {error}" if kind and error else error, f"rank {rank:g}" if error and rank is not None else None]
    if error is None and run.status in ("wrong", "unchecked"):
        parts.append(safe_json.text(run.summary, "parity", "reason"))
    worst, allowed = (safe_json.number(run.summary, "parity", key) for key in ("max_rel_err", "tolerance"))
    if (
        run.status == "wrong"
        and worst is not None
        and allowed is not None
        and (worst > allowed or not run.is_inference)
    ):
        what = "an output" if run.is_inference else "a loss"
        parts.append(f"{worst:.2g} is the largest difference of {what}, {allowed:.2g} is allowed")
    return "; ".join([part for part in parts if part] + list(run.problems)) or None


def energy_reason(run: RunRecord) -> str | None:
    """Why there is no energy; None where there is."""
    if safe_json.positive(run.summary, "energy", "energy_j") is not None:
        return None
    return safe_json.text(run.summary, "energy", "reason") or "the run left no energy record"


def cost_reason(run: RunRecord) -> str | None:
    """Why there is no cost; None where there is."""
    if ranking.cost(run):
        return None
    default = "the site has no price, or the run was not predicted"
    return safe_json.text(run.candidate, "prediction", "cost_reason") or default


def prediction_reason(run: RunRecord) -> str | None:
    """Why there is no predicted step time; None where there is."""
    if safe_json.positive(run.candidate, "prediction", "step_time_ms"):
        return None
    return (
        safe_json.text(run.candidate, "prediction", "step_time_reason") or "the plan holds no prediction for this run"
    )


def communication_reason(run: RunRecord) -> str | None:
    """Why exposed communication is unknown; None where it was measured."""
    if safe_json.number(run.summary, "phases_ms", "comm_exposed") is not None:
        return None
    return safe_json.text(run.summary, "phases_reason", "comm_exposed") or "the run left no time for it"


def bubble_reason(run: RunRecord) -> str | None:
    """Why the bubble is unknown; None where it was measured."""
    if safe_json.number(run.summary, "bubble_fraction") is not None:
        return None
    default = "the run left no time for it" if run.has_pipeline else "no pipeline"
    return safe_json.text(run.summary, "bubble_reason") or default


def memory_reason(run: RunRecord) -> str | None:
    """Why peak memory is unknown; None where it was measured."""
    if safe_json.positive(run.summary, "peak_memory_bytes"):
        return None
    return safe_json.text(run.summary, "peak_memory_reason") or "the run left no memory record"


def overlap_reason(run: RunRecord) -> str | None:
    """Why communication beside computation is unknown; None where it was measured."""
    if safe_json.number(run.summary, "phases_ms", "comm_overlapped") is not None:
        return None
    return safe_json.text(run.summary, "phases_reason", "comm_overlapped") or "the run left no time for it"


def mfu_reason(run: RunRecord) -> str | None:
    """Why the FLOP utilisation is unknown; None where it is known."""
    if safe_json.positive(run.summary, "flops", "mfu"):
        return None
    return safe_json.text(run.summary, "flops", "mfu_reason") or "the run counted no FLOPs"


def energy_phases_reason(run: RunRecord) -> str | None:
    """Why the energy is not split by phase; None where it is."""
    if safe_json.mapping(run.summary, "energy", "by_phase_j"):
        return None
    return energy_reason(run) or safe_json.text(run.summary, "energy", "phases_reason") or "the run left no phases"


def energy_remedy(run: RunRecord) -> str:
    """What the sensors' own words say can be done, else where to look."""
    default = "run on nodes with counters (NVML, RAPL, pm_counters); `hpc-accel doctor` says what is missing here"
    return safe_json.text(run.summary, "energy", "remedy") or default


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
    _Quantity(
        name="FLOP utilisation",
        reason_of=mfu_reason,
        remedy_of=lambda run: "probe the site again, with as many ranks per node as the runs have",
    ),
    _Quantity(
        name="energy by phase",
        reason_of=lambda run: energy_phases_reason(run) if energy_reason(run) is None else None,
        remedy_of=lambda run: "measure longer: raise measure.steps",
    ),
    _Quantity(name="peak memory", reason_of=memory_reason, remedy_of=lambda run: f"read runs/{run.run_id}/log.txt"),
)


def _by_factor(records: StudyRecords) -> list[_Quantity]:
    """CO2 and electricity, where there is an energy that a factor of the site could be applied to."""
    found = []
    for name, key in (("CO2", "carbon_g_per_kwh"), ("price of electricity", "electricity_price_per_kwh")):
        if safe_json.positive(records.factors, key) is None:
            found.append(
                _Quantity(
                    name=name,
                    reason_of=lambda run, key=key: (  # type: ignore[misc]
                        f"the site gives no {key}" if energy_reason(run) is None else None
                    ),
                    remedy_of=lambda run, key=key: f"write {key} into the site file",  # type: ignore[misc]
                )
            )
    return found


def gaps(records: StudyRecords, runs: list[RunRecord] | None = None) -> list[Gap]:
    """Quantities that runs which count did not measure, the largest gap of each quantity first."""
    counting = [run for run in (records.runs if runs is None else runs) if run.counts]
    found: list[Gap] = []
    for quantity in (*_QUANTITIES, *_by_factor(records)):
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
