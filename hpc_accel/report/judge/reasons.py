"""What was not measured, why, and what to do about it: one entry per quantity and reason, not one per run."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

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
