"""Charts, one family per file, as plain data and layout with colours named by CSS variables.

A family is one entry in FAMILIES: a function from the runs of one workload to its figures. The page draws
them with template/chart.js, and CSS knows the colours, so light, dark and print need no second figure.
"""

from __future__ import annotations

from collections.abc import Callable

from hpc_accel.report.load.run_record import RunRecord
from hpc_accel.report.show.figures import (
    energy,
    energy_phases,
    latency,
    loss,
    memory,
    pareto,
    parity,
    phases,
    predicted,
    scaling,
    speedup,
    startup,
    throughput,
    timeline,
)
from hpc_accel.report.show.figures.style import Figure

__all__ = ["FAMILIES", "Figure", "latency", "of_workload"]

FAMILIES: tuple[Callable[[list[RunRecord]], list[Figure]], ...] = (
    throughput.figures,
    phases.figures,
    speedup.figures,
    scaling.figures,
    pareto.figures,
    energy.figures,
    energy_phases.figures,
    predicted.figures,
    timeline.figures,
    memory.figures,
    loss.figures,
    parity.figures,
    startup.figures,
)


def of_workload(runs: list[RunRecord]) -> list[Figure]:
    """Every family's figures for the runs of one workload."""
    return [figure for family in FAMILIES for figure in family(runs)]
