"""Power over time: what a sensor's thread sampled, and energy.parquet, one file for all nodes of a run.

A sensor is sampled by the one rank that owns it, on that rank's clock; the file is on rank 0's. What is kept is
the energy so far at some moments, so that leaving moments out loses no joule; power is the mean between two of
them. A moment at which a counter had not moved is left out: a counter that changes more slowly than it is
looked at must not look like a power that jumps between nothing and double.
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hpc_accel.measure.clock import ClockOffset, Timebase
from hpc_accel.measure.energy.counter import Mark

if TYPE_CHECKING:
    from hpc_accel.measure.energy.nodes import Nodes

MAX_ROWS = 4_000_000
"""Rows of one energy.parquet, about 30 MB; more sensors get fewer samples each."""


CLOSE_NS = 20_000_000
"""Moments this near to each other, 20 updates of the quickest counter, are one."""
NUM_BEFORE = 5
"""Moments before a window that tell its first interval, and how far apart moments are."""
MAX_SAMPLES = 1 << 15
"""Moments kept per sensor, 768 KiB; when full every second one goes and the rate halves."""


class Series:
    """Energy of one counter at moments on this process's clock."""

    def __init__(self) -> None:
        self._times_ns = array("q")
        self._totals_j = array("d")
        self._faults = array("q")
        self._stride = 1
        self._count = 0

    def add(self, mark: Mark) -> None:
        """Keep one of every `stride` moments at which energy had passed.

        Of two that are close the later one stands for both: between them a counter may have moved once or not at all,
        which is no power.
        """
        is_fault = bool(self._faults) and mark.num_faults != self._faults[-1]
        if self._totals_j and mark.total_j <= self._totals_j[-1] and not is_fault:
            return
        if self._times_ns and mark.time_ns - self._times_ns[-1] < CLOSE_NS and not is_fault:
            self._times_ns[-1], self._totals_j[-1] = mark.time_ns, mark.total_j
            return
        self._count += 1
        if self._count % self._stride and not is_fault:
            return
        self._times_ns.append(mark.time_ns)
        self._totals_j.append(mark.total_j)
        self._faults.append(mark.num_faults)
        if len(self._times_ns) >= MAX_SAMPLES:
            self._times_ns, self._totals_j = self._times_ns[::2], self._totals_j[::2]
            self._faults = self._faults[::2]
            self._stride *= 2

    def power(self, since_ns: int | None = None) -> tuple[array[int], array[float]]:
        """Times in ns and the mean watts since the time before; intervals with a fault are left out.

        The first time is where the first interval begins, and has its power. With `since_ns` some moments before that
        are the first ones.
        """
        times_ns, powers_w = array("q"), array("d")
        first = 0 if since_ns is None else max(0, bisect_left(self._times_ns, since_ns) - NUM_BEFORE)
        for index in range(first + 1, len(self._times_ns)):
            duration_ns = self._times_ns[index] - self._times_ns[index - 1]
            if duration_ns > 0 and self._faults[index] == self._faults[index - 1]:
                power_w = (self._totals_j[index] - self._totals_j[index - 1]) / duration_ns * 1e9
                if not times_ns:
                    times_ns.append(self._times_ns[index - 1])
                    powers_w.append(power_w)
                times_ns.append(self._times_ns[index])
                powers_w.append(power_w)
        return times_ns, powers_w


@dataclass(frozen=True, kw_only=True, slots=True)
class PowerSeries:
    """Samples of one sensor: `times_ns` on the clock of the process that read it."""

    name: str
    node: str
    scope: str
    times_ns: array[int]
    powers_w: array[float]


def thinned(series: PowerSeries, most: int) -> PowerSeries:
    """At most `most` samples: means of neighbours, by time, so that their energy stays."""
    every = -(-len(series.times_ns) // max(1, most))
    if every <= 1:
        return series
    times_ns, powers_w = array("q", series.times_ns[every - 1 :: every]), array("d")
    for end in range(every - 1, len(series.times_ns), every):
        energy = length = 0.0
        for index in range(end - every + 1, end + 1):
            duration = series.times_ns[index] - series.times_ns[index - 1] if index else 0
            energy, length = energy + series.powers_w[index] * duration, length + duration
        powers_w.append(energy / length if length else series.powers_w[end])
    return PowerSeries(name=series.name, node=series.node, scope=series.scope, times_ns=times_ns, powers_w=powers_w)


def on_common_clock(series: PowerSeries, offsets: ClockOffset | Timebase | None) -> PowerSeries:
    """The same samples on rank 0's clock."""
    timebase = Timebase(first=offsets) if isinstance(offsets, ClockOffset) else offsets
    if timebase is None:
        return series
    times_ns = array("q", (timebase.common_ns(time_ns) for time_ns in series.times_ns))
    return PowerSeries(
        name=series.name, node=series.node, scope=series.scope, times_ns=times_ns, powers_w=series.powers_w
    )


def gather(nodes: Nodes, mine: Sequence[PowerSeries]) -> list[PowerSeries]:
    """All series at rank 0, elsewhere an empty list; collective."""
    count = sum(sum(counts) for counts in nodes.across_nodes(nodes.within_node(len(mine))))
    most = MAX_ROWS // max(1, nodes.to_all(count))
    gathered = nodes.within_node([thinned(series, most) for series in mine])
    return [series for node in nodes.across_nodes(gathered) for found in node for series in found]


def write_parquet(path: Path, series: Sequence[PowerSeries]) -> None:
    """energy.parquet: sensor, node, scope, time_ns, value, unit; one process writes, by one rename."""
    import polars as pl

    frames = [
        pl.DataFrame(
            {"time_ns": pl.Series(one.times_ns, dtype=pl.Int64), "value": pl.Series(one.powers_w, dtype=pl.Float64)}
        ).with_columns(sensor=pl.lit(one.name), node=pl.lit(one.node), scope=pl.lit(one.scope), unit=pl.lit("W"))
        for one in series
    ]
    schema = {"time_ns": pl.Int64, "value": pl.Float64, "sensor": pl.String, "node": pl.String, "scope": pl.String}
    table = pl.concat(frames) if frames else pl.DataFrame(schema=schema | {"unit": pl.String})
    part = path.with_name(f"{path.name}.part.{os.environ.get('SLURM_JOB_ID', os.getpid())}")
    table.select("sensor", "time_ns", "value", "unit", "node", "scope").write_parquet(part)
    part.replace(path)
