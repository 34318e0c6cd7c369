"""The energy section of the page: where the joules went, what they come to per something, CO2 and money; estimates."""

from __future__ import annotations

from typing import Any

from hpc_accel.record import Figure
from hpc_accel.report.judge import footprint, ranking, wording
from hpc_accel.report.load import safe_json
from hpc_accel.report.load.run_record import RunRecord
from hpc_accel.report.load.study_records import StudyRecords


def rows(records: StudyRecords) -> list[dict[str, Any]]:
    """One row per run that counts and has an energy; each cell is words, with its reason where it is empty."""
    runs = [run for run in records.runs if run.counts and ranking.energy_per_sample_j(run) is not None]
    return [{"name": f"{run.workload} {run.label}", "cells": _cells(run, records.factors)} for run in runs]


TITLES = (
    "Scope, method", "J/sample", "J/token", "J/epoch", "J to target loss", "Energy x delay of a step, Js", "Idle power",
    "CO2 per million samples", "Electricity per million samples",
)  # fmt: skip


def _cells(run: RunRecord, factors: dict[str, Any]) -> list[dict[str, str]]:
    energy, target = run.summary.energy, run.summary.target
    scope, method = ranking.energy_basis(run)
    carbon, price = footprint.carbon_g(run, factors), footprint.electricity_cost(run, factors)
    grams, money = (footprint.per_million_samples(found, run) for found in (carbon, price))
    currency = safe_json.text(factors, "currency") or ""
    return [
        _cell(f"{scope}, {method}{', partial' if ranking.energy_is_partial(run) else ''}"),
        _cell(wording.short(ranking.energy_per_sample_j(run))),
        _figure(energy.per_token_j),
        _figure(energy.per_epoch_j),
        _figure(target.energy_j),
        _figure(energy.energy_delay_product_js),
        _figure(energy.idle_power_w, " W"),
        _number(grams, carbon.reason, " g"),
        _number(money, price.reason, f" {currency}"),
    ]


def _cell(text: str, reason: str = "") -> dict[str, str]:
    return {"text": text, "reason": reason}


def _figure(figure: Figure, unit: str = "") -> dict[str, str]:
    return _number(figure.value, figure.reason, unit)


def _number(value: float | None, reason: str | None, unit: str = "") -> dict[str, str]:
    if value is None:
        return _cell("", reason or wording.NOT_MEASURED)
    return _cell(f"{wording.short(value)}{unit}")


def estimates(records: StudyRecords) -> dict[str, Any] | None:
    """The estimates the study asked for, apart from everything measured; None where it did not ask."""
    if safe_json.text(records.factors, "estimate") is None:
        return None
    found = [(run, footprint.estimate_j(run, records.factors)) for run in records.runs if run.counts]
    known = [(run, each.value) for run, each in found if each.value is not None]
    return {
        "method": footprint.estimate_method(records.factors),
        "reason": "" if known else next((each.reason for _, each in found), "no run counts"),
        "rows": [
            {
                "name": f"{run.workload} {run.label}",
                "total": f"{wording.short(value)} J",
                "sample": _per_sample(run, value),
            }
            for run, value in known
        ],
    }


def _per_sample(run: RunRecord, value: float) -> str:
    return f"{wording.short(value / (ranking.num_timed_samples(run) or 1))} J"
