"""How sure the recommendation of a workload is: a clear lead, a tie, nothing to compare it with, or in
doubt because of how it was measured.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from hpc_accel.report.judge import plausibility, ranking, wording
from hpc_accel.report.judge.ranking import Best
from hpc_accel.report.load.run_record import RunRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Certainty:
    """`level` is `clear`, `tie`, `alone` or `doubtful`; each of `why` is a sentence; `warnings` are the best
    run's own.
    """

    level: str
    why: tuple[str, ...]
    warnings: tuple[str, ...]


def certainty(best: Best, runs: list[RunRecord]) -> Certainty:
    """Of the best among the runs of one workload."""
    serial = ranking.baselines(runs)
    warnings = tuple(plausibility.warnings(best.run, serial))
    doubts = _doubts(best, runs, serial)
    level = "doubtful" if doubts else "tie" if best.ties else "clear" if best.next else "alone"
    return Certainty(level=level, why=(_lead(best, runs), *doubts), warnings=warnings)


def _doubts(best: Best, runs: list[RunRecord], serial: ranking.Baselines) -> list[str]:
    """What the intervals cannot show: they hold for the machine as it was while the steps were timed."""
    found = []
    ranked = [run for run in runs if run.counts]
    disturbed = sum(map(plausibility.is_disturbed, ranked))
    if plausibility.is_disturbed(best.run) or 2 * disturbed > len(ranked):
        own = ", this one too" if plausibility.is_disturbed(best.run) else ""
        found.append(f"Other processes disturbed {disturbed} of {wording.counted(len(ranked), 'run')}{own}.")
    if plausibility.exceeds_ranks(best.run, serial):
        found.append(f"It gains more than {wording.counted(best.run.num_ranks, 'rank')} can give.")
    return found


def _lead(best: Best, runs: list[RunRecord]) -> str:
    """How far the others are behind."""
    if best.ties and not best.value.is_known:
        return "Its steps left no interval, so nobody can say which run is faster."
    if best.ties:
        fewest = min((best.run, *best.ties), key=lambda run: run.num_ranks)
        leaner = f" {fewest.label} needs the fewest ranks." if fewest.num_ranks < best.run.num_ranks else ""
        names = wording.named([run.label for run in best.ties], most=2)
        why = "their 95 % intervals overlap" if all(map(_has_interval, best.ties)) else "not all have a 95 % interval"
        return f"A tie with {names}: {why}.{leaner}"
    if best.next is None:
        return f"No other run is ranked, so there is nothing to compare it with: {_others(best, runs)}."
    run, value = best.next
    behind = wording.percent(value.value / best.value.value - 1)
    least = wording.percent(value.low / best.value.high - 1)
    return f"The next, {run.label}, needs {behind} more (at least {least}): the 95 % intervals do not overlap."


def _has_interval(run: RunRecord) -> bool:
    time = ranking.step_time_ms(run)
    return time is not None and time.is_known


def _others(best: Best, runs: list[RunRecord]) -> str:
    """What became of the runs beside the only one that is ranked."""
    others = [run for run in runs if run.run_id != best.run.run_id]
    if not others:
        return "no other is listed"
    fates = Counter("completed without a figure to rank by" if run.counts else run.status for run in others)
    told = wording.named([f"{count} {fate}" for fate, count in fates.most_common()], most=len(fates))
    return f"of {len(others)} more that {'is' if len(others) == 1 else 'are'} listed, {told}"
