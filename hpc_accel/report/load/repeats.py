"""Repeats of one configuration as one record: joules and steps added, times pooled, the interval over all of them.

The interval resamples repeats first and steps within them, so that what differs from start to start is part of it. A
configuration is wrong when one repeat is; it counts when at least one repeat does, and those that do not are said.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median
from typing import TypeVar

import polars as pl

from hpc_accel.measure.statistics import median_of_repeats_ci
from hpc_accel.record import Figure, Summary
from hpc_accel.record.energy import Energy, EnergyPhases
from hpc_accel.record.figure import Estimate, Part
from hpc_accel.record.measured import with_shares
from hpc_accel.record.parts import Steps
from hpc_accel.report.load import safe_json
from hpc_accel.report.load.run_record import RunRecord

METHOD = "median over the timed steps of all repeats; 95 % bootstrap interval over repeats, then steps"
F = TypeVar("F", bound=Figure)
P = TypeVar("P", bound=Part)
Statistic = Callable[[list[float]], float]


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


def _pool(runs: list[RunRecord]) -> Summary:
    summaries = [run.summary for run in runs]
    first, steps = summaries[0], _steps([summary.steps for summary in summaries if summary.steps])
    step_time_ms = _step_time(runs)
    return first.changed(
        steps=steps,
        step_time_ms=step_time_ms,
        phases_ms=_each([summary.phases_ms for summary in summaries], median),
        startup_ms=_each([summary.startup_ms for summary in summaries], median),
        bubble_fraction=_over([summary.bubble_fraction for summary in summaries], fmean),
        memory=_each([summary.memory for summary in summaries], max),
        flops=first.flops.changed(mfu=_over([summary.flops.mfu for summary in summaries], fmean)),
        energy=_energy([summary.energy for summary in summaries], steps),
        warnings=tuple(dict.fromkeys(text for summary in summaries for text in summary.warnings)),
    )


def _over(figures: Sequence[F], statistic: Statistic) -> F:
    """The statistic over the repeats; missing, as it is there, where one of them does not know the value."""
    unknown = [figure for figure in figures if figure.value is None]
    return unknown[0] if unknown else figures[0].of(statistic([figure.value or 0.0 for figure in figures]))


def _each(parts: Sequence[P], statistic: Statistic) -> P:
    """The statistic of each figure of a part."""
    names = [name for name in type(parts[0]).model_fields if isinstance(getattr(parts[0], name), Figure)]
    return parts[0].changed(**{name: _over([getattr(part, name) for part in parts], statistic) for name in names})


def _steps(all_steps: Sequence[Steps]) -> Steps:
    first = all_steps[0]
    return first.changed(
        num_timed=sum(steps.num_timed for steps in all_steps),
        num_warmup_detected=_over([steps.num_warmup_detected for steps in all_steps], max),
        outliers=first.outliers.changed(count=sum(steps.outliers.count for steps in all_steps), steps=()),
    )


def _energy(energies: Sequence[Energy], steps: Steps) -> Energy:
    """Joules and seconds added, and what follows from them; nothing where one repeat lacks it."""
    unknown = [energy for energy in energies if not energy.energy_j]
    if unknown:
        return Energy.missing(f"{len(unknown)} of {len(energies)} repeats: {unknown[0].reason}", unknown[0].remedy)
    if len({(energy.scope, energy.method) for energy in energies}) > 1:
        return Energy.missing("the repeats were measured over different scopes or by different methods")
    whole = energies[0].changed(
        energy_j=sum(energy.energy_j or 0.0 for energy in energies),
        window_s=sum(energy.window_s or 0.0 for energy in energies),
        energy_above_idle_j=_over([energy.energy_above_idle_j for energy in energies], sum),
        idle_power_w=_over([energy.idle_power_w for energy in energies], fmean),
        phases=_phases([energy.phases for energy in energies]),
        is_partial=any(energy.is_partial for energy in energies),
        resolution_warning=any(energy.resolution_warning for energy in energies),
    )
    return with_shares(whole, steps)


def _phases(parts: Sequence[EnergyPhases]) -> EnergyPhases:
    unknown = [part for part in parts if not part.by_phase_j]
    if unknown:
        return unknown[0]
    names = dict.fromkeys(name for part in parts for name in part.by_phase_j)
    total = {name: sum(part.by_phase_j.get(name, 0.0) for part in parts) for name in names}
    return parts[0].changed(by_phase_j=total, by_device=())


def _step_time(runs: list[RunRecord]) -> Estimate:
    """Pooled over all repeats whose steps can be read; without them the medians alone, and no interval."""
    times = [slowest_ms(run.directory / "steps.parquet") for run in runs]
    if all(times):
        return Estimate.between(*median_of_repeats_ci(times), method=METHOD)
    medians = [value for run in runs if (value := run.summary.step_time_ms.value)]
    method = "median of the repeats' medians; their steps cannot be read"
    return Estimate.between(median(medians), None, None, method=method)


def slowest_ms(path: Path) -> list[float]:
    """Milliseconds of each timed step, in order, of its slowest rank; empty where the file cannot be read."""
    try:
        frame = pl.read_parquet(path, columns=["step", "warmup", "step_ns"])
        timed = frame.filter(~pl.col("warmup")).with_columns(pl.col("step_ns").cast(pl.Int64))
    except (OSError, pl.exceptions.PolarsError):
        return []
    longest = timed.drop_nulls().group_by("step").agg(pl.col("step_ns").max()).sort("step")["step_ns"]
    return [value / 1e6 for value in longest.to_list() if value > 0]
