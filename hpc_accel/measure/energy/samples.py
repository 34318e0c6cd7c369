"""Power over time: what a sensor's thread sampled, and energy.parquet, one file for all nodes of a run.

A sensor is sampled by the one rank that owns it, on that rank's clock; the file is on rank 0's. Counters give
the mean power since their last change, power meters what they say.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hpc_accel.measure.clock import ClockOffset, Timebase

if TYPE_CHECKING:
    from hpc_accel.measure.energy.nodes import Nodes

MAX_ROWS = 4_000_000
"""Rows of one energy.parquet, about 30 MB; more sensors get fewer samples each."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PowerSeries:
    """Samples of one sensor: `times_ns` on the clock of the process that read it."""

    name: str
    node: str
    scope: str
    times_ns: array[int]
    powers_w: array[float]


def thinned(series: PowerSeries, most: int) -> PowerSeries:
    """At most `most` samples: every n-th."""
    every = max(1, -(-len(series.times_ns) // max(1, most)))
    return PowerSeries(
        name=series.name,
        node=series.node,
        scope=series.scope,
        times_ns=series.times_ns[::every],
        powers_w=series.powers_w[::every],
    )


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
