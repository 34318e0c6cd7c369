"""Repeats of one configuration as one record: joules and steps added, times pooled, the interval over all of them.

The interval resamples repeats first and steps within them, so that what differs from start to start is part of it. A
configuration is wrong when one repeat is; it counts when at least one repeat does, and those that do not are said.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

import polars as pl

from hpc_accel.measure.statistics import median_of_repeats_ci
from hpc_accel.report.load import safe_json
from hpc_accel.report.load.run_record import RunRecord

METHOD = "median over the timed steps of all repeats; 95 % bootstrap interval over repeats, then steps"
_SUMS = ("energy_j", "window_s", "energy_above_idle_j")
_MEANS = ("per_step_j", "per_sample_j", "per_token_j", "per_epoch_j", "energy_delay_product_js", "idle_power_w")


def pooled(runs: list[RunRecord]) -> list[RunRecord]:
    """One record per configuration, in the order of their first repeats."""
    groups: dict[str, list[RunRecord]] = {}
    for run in runs:
        is_repeat = (safe_json.number(run.candidate, "repeat") or 1) > 1
        key = _configuration(run)
        # Without a number of its own a second run of a configuration is no repeat: it stays a run.
        groups.setdefault(key if is_repeat or key not in groups else f"{key} {run.run_id}", []).append(run)
    return [_joined(group) if len(group) > 1 else group[0] for group in groups.values()]


def _configuration(run: RunRecord) -> str:
    parts = {key: run.candidate.get(key) for key in ("workload", "layout", "recipe", "resources")}
    return json.dumps(parts, sort_keys=True, default=str)


def _joined(group: list[RunRecord]) -> RunRecord:
    counting = [run for run in group if run.counts]
    bad = [run for run in group if not run.counts]
    wrong = [run for run in bad if run.status == "wrong"]
    base = (wrong or counting or group)[0]
    problems = base.problems
    if bad and counting:
        states = ", ".join(f"repeat {safe_json.number(run.candidate, 'repeat') or 1:g} is {run.status}" for run in bad)
        problems = (*problems, f"{len(counting)} of {len(group)} repeats count: {states}")
    if wrong or not counting:
        return replace(base, repeats=_named(group), problems=problems)
    summary = _pool(counting) if len(counting) > 1 else base.summary
    return replace(base, summary=summary, repeats=_named(group), problems=problems)


def _named(group: list[RunRecord]) -> tuple[RunRecord, ...]:
    return tuple(
        replace(run, label=f"{run.label}, repeat {safe_json.number(run.candidate, 'repeat') or 1:g}") for run in group
    )


def _pool(runs: list[RunRecord]) -> dict[str, Any]:
    summaries = [run.summary for run in runs]
    weights = [safe_json.positive(summary, "steps", "num_timed") or 1.0 for summary in summaries]
    first = summaries[0]
    warnings = dict.fromkeys(text for summary in summaries for text in _texts(summary.get("warnings")))
    return {
        **first,
        "num_repeats": len(runs),
        "step_time_ms": _step_time(runs),
        "steps": _steps(summaries),
        "phases_ms": _each(summaries, "phases_ms", median),
        "startup_ms": _each(summaries, "startup_ms", median),
        "bubble_fraction": _over(summaries, ("bubble_fraction",), fmean),
        "peak_memory_bytes": _over(summaries, ("peak_memory_bytes",), max),
        "flops": {**safe_json.mapping(first, "flops"), "mfu": _over(summaries, ("flops", "mfu"), fmean)},
        "energy": _energy(summaries, weights),
        "warnings": list(warnings),
    }


def _texts(values: Any) -> list[str]:
    return [value for value in values if isinstance(value, str)] if isinstance(values, list) else []


def _over(summaries: list[dict[str, Any]], path: tuple[str, ...], statistic: Any) -> float | None:
    """The statistic over the repeats; None where one of them does not know the value."""
    values = [safe_json.number(summary, *path) for summary in summaries]
    known = [value for value in values if value is not None]
    return statistic(known) if len(known) == len(values) else None


def _each(summaries: list[dict[str, Any]], key: str, statistic: Any) -> dict[str, float | None]:
    names = dict.fromkeys(name for summary in summaries for name in safe_json.mapping(summary, key))
    return {name: _over(summaries, (key, name), statistic) for name in names}


def _steps(summaries: list[dict[str, Any]]) -> dict[str, Any]:
    steps = safe_json.mapping(summaries[0], "steps")
    return {
        **steps,
        "num_timed": _over(summaries, ("steps", "num_timed"), sum),
        "num_warmup_detected": _over(summaries, ("steps", "num_warmup_detected"), max),
        "outliers": {
            **safe_json.mapping(steps, "outliers"),
            "count": _over(summaries, ("steps", "outliers", "count"), sum),
            "steps": [],
        },
    }


def _energy(summaries: list[dict[str, Any]], weights: list[float]) -> dict[str, Any]:
    """Joules and seconds added; figures per something weighted by steps; nothing where one repeat lacks it."""
    energies = [safe_json.mapping(summary, "energy") for summary in summaries]
    bases = {(energy.get("scope"), energy.get("method")) for energy in energies}
    unknown = [energy for energy in energies if safe_json.positive(energy, "energy_j") is None]
    if unknown or len(bases) > 1:
        reason = "the repeats were measured over different scopes or by different methods"
        if unknown:
            reason = f"{len(unknown)} of {len(energies)} repeats: {safe_json.text(unknown[0], 'reason') or 'no energy'}"
        return {**energies[0], "energy_j": None, "method": "none", "scope": None, "reason": reason, "by_phase_j": None}
    per_sample = [value for energy in energies if (value := safe_json.positive(energy, "per_sample_j"))]
    return {
        **energies[0],
        **{key: _over(energies, (key,), sum) for key in _SUMS},
        **{key: _weighted([safe_json.number(energy, key) for energy in energies], weights) for key in _MEANS},
        "per_sample_range_j": [min(per_sample), max(per_sample)] if len(per_sample) == len(energies) else None,
        "by_phase_j": _phases(energies),
        "by_device": [],
        "is_partial": any(energy.get("is_partial") is True for energy in energies),
        "resolution_warning": any(energy.get("resolution_warning") is True for energy in energies),
    }


def _weighted(values: list[float | None], weights: list[float]) -> float | None:
    known = [(value, weight) for value, weight in zip(values, weights, strict=True) if value is not None]
    if len(known) < len(values):
        return None
    return sum(value * weight for value, weight in known) / sum(weights)


def _phases(energies: list[dict[str, Any]]) -> dict[str, float] | None:
    parts = [safe_json.mapping(energy, "by_phase_j") for energy in energies]
    if not all(parts):
        return None
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: sum(safe_json.number(part, name) or 0.0 for part in parts) for name in names}


def _step_time(runs: list[RunRecord]) -> dict[str, Any]:
    """Pooled over all repeats whose steps can be read; without them the medians alone, and no interval."""
    times = [slowest_ms(run.directory / "steps.parquet") for run in runs]
    if all(times):
        value, low, high = median_of_repeats_ci(times)
        return {"median": value, "ci_low": low, "ci_high": high, "method": METHOD}
    medians = [value for run in runs if (value := safe_json.positive(run.summary, "step_time_ms", "median"))]
    method = "median of the repeats' medians; their steps cannot be read"
    return {"median": median(medians), "ci_low": None, "ci_high": None, "method": method}


def slowest_ms(path: Path) -> list[float]:
    """Milliseconds of each timed step, that of its slowest rank; empty where the file cannot be read."""
    try:
        frame = pl.read_parquet(path, columns=["step", "warmup", "step_ns"])
        timed = frame.filter(~pl.col("warmup")).with_columns(pl.col("step_ns").cast(pl.Int64))
    except (OSError, pl.exceptions.PolarsError):
        return []
    longest = timed.drop_nulls().group_by("step").agg(pl.col("step_ns").max())["step_ns"]
    return [value / 1e6 for value in longest.to_list() if value > 0]
