"""What the recommended run saves against one rank and against plain data parallelism, per sample trained.

Per sample, so that any length of training is a product. Energy is compared inside one scope and method alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from hpc_accel.report.judge import ranking
from hpc_accel.report.judge.statistics import Interval, ratio
from hpc_accel.report.load.labels import recipe_options
from hpc_accel.report.load.run_record import RunRecord

NO_SERIAL = "no one-rank run is ranked; add `- {}` to the study's layouts"
NO_PLAIN = "no plain data-parallel run is ranked; add `- {dp: 2}` to the study's layouts"


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """What training one sample takes. `energy_j` and `cost` are None where they were not measured."""

    time_ms: float
    energy_j: float | None
    cost: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Against:
    """A run to compare with: how many times faster the recommended one is, and what each uses; or why there is none."""

    name: str
    run: RunRecord | None = None
    gain: Interval | None = None
    use: Use | None = None
    is_itself: bool = False
    reason: str = ""


def use_of(run: RunRecord) -> Use | None:
    """What one sample takes with this run; None without a step time."""
    step, price = ranking.step_time_ms(run), ranking.cost_per_sample(run)
    if step is None:
        return None
    energy_j = None if ranking.energy_is_partial(run) else ranking.energy_per_sample_j(run)
    return Use(
        time_ms=step.value / ranking.global_batch_size(run), energy_j=energy_j, cost=price.value if price else None
    )


def against(best: RunRecord, runs: list[RunRecord]) -> list[Against]:
    """The two that everybody has without this tool: the fastest one-rank run, the fastest plain data-parallel run."""
    serial = ranking.fastest(run for run in runs if run.kind == "serial")
    plain = ranking.fastest(run for run in runs if is_plain_data_parallel(run))
    return [
        _compared("one rank", best, serial.run if serial else None, NO_SERIAL),
        _compared("plain data parallelism", best, plain.run if plain else None, NO_PLAIN),
    ]


def is_plain_data_parallel(run: RunRecord) -> bool:
    """Replicas alone: nothing sharded, no option set."""
    options = recipe_options(run.part("recipe"))
    return run.kind == "data" and run.part("layout").get("shard") in (None, "none") and not options


def _compared(name: str, best: RunRecord, other: RunRecord | None, why_none: str) -> Against:
    mine, theirs = ranking.throughput(best), ranking.throughput(other) if other else None
    if other is None or mine is None or theirs is None:
        return Against(name=name, reason=why_none)
    if other is best:
        return Against(name=name, run=other, is_itself=True)
    used = use_of(other)
    if used and ranking.energy_basis(other) != ranking.energy_basis(best):
        used = Use(time_ms=used.time_ms, energy_j=None, cost=used.cost)
    return Against(name=name, run=other, gain=ratio(mine, theirs), use=used)
