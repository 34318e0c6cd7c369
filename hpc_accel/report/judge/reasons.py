"""What was not measured, why, and what to do about it: one entry per quantity and reason, not one per run."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from hpc_accel.record.parts import Error
from hpc_accel.report.judge import quantities
from hpc_accel.report.load import safe_json
from hpc_accel.report.load.run_record import RunRecord
from hpc_accel.report.load.study_records import StudyRecords


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A quantity that `num_runs` of `of_runs` completed runs did not measure."""

    quantity: str
    reason: str
    remedy: str
    num_runs: int
    of_runs: int


def status_reason(run: RunRecord) -> str | None:
    """Why a run does not count: its error, what was wrong with its files, or its failed parity."""
    if run.counts:
        return None
    parts = _error_words(run.summary.error) if run.has_record else []
    parity = run.summary.parity
    if not parts and run.status in ("wrong", "unchecked") and parity.reason:
        parts.append(parity.reason)
    worst, allowed = parity.max_rel_err, parity.tolerance
    if (
        run.status == "wrong"
        and worst is not None
        and allowed is not None
        and (worst > allowed or not run.is_inference)
    ):
        what = "outputs" if run.is_inference else "whole gradients"
        parts.append(f"{worst:.2g} is the largest relative difference of {what}, {allowed:.2g} is allowed")
    return "; ".join([*parts, *run.problems]) or None


def _error_words(error: Error | None) -> list[str]:
    if error is None:
        return []
    return [f"{error.kind}: {error.message}", *([f"rank {error.rank}"] if error.rank is not None else [])]


def _unknown_factors(records: StudyRecords) -> list[quantities.Quantity]:
    names = {"carbon_g_per_kwh": "CO2", "electricity_price_per_kwh": "price of electricity"}
    return [
        quantities.factor(name, key) for key, name in names.items() if safe_json.positive(records.factors, key) is None
    ]


def gaps(records: StudyRecords, runs: list[RunRecord] | None = None) -> list[Gap]:
    """Quantities that runs which count did not measure, the largest gap of each quantity first."""
    counting = [run for run in (records.runs if runs is None else runs) if run.counts]
    found: list[Gap] = []
    for quantity in (*quantities.REPORTED, *_unknown_factors(records)):
        without = [(quantity.reason(run) or "", run) for run in counting if quantity.is_gap(run)]
        first = dict(reversed(without))
        found += [
            Gap(
                quantity=quantity.name,
                reason=reason,
                remedy=quantity.remedy_for(first[reason]),
                num_runs=count,
                of_runs=len(counting),
            )
            for reason, count in Counter(reason for reason, _ in without).most_common()
        ]
    return found
