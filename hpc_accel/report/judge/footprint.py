"""What joules mean outside: grams of CO2 and money by the site's factors; and estimates, which are no measurements.

A factor the site does not give leaves the cell empty with that as the reason. An estimate is made only when the study
asks, has names and columns of its own, and is never compared or added with anything measured.
"""

from __future__ import annotations

from typing import Any

from hpc_accel.measure.energy.derived import JOULES_PER_KWH
from hpc_accel.report.judge import quantities, ranking
from hpc_accel.report.judge.cells import Cell
from hpc_accel.report.load import safe_json
from hpc_accel.report.load.run_record import RunRecord

NO_CARBON = "the site gives no carbon_g_per_kwh"
NO_PRICE = "the site gives no electricity_price_per_kwh"
NOT_ASKED = "the study does not ask for estimates (energy: {estimate: tdp})"
NO_POWER = "the site gives no power_w_per_node for this partition"


def carbon_g(run: RunRecord, factors: dict[str, Any]) -> Cell:
    """Grams of CO2 equivalent of the timed steps."""
    return _by_factor(run, safe_json.positive(factors, "carbon_g_per_kwh"), NO_CARBON)


def electricity_cost(run: RunRecord, factors: dict[str, Any]) -> Cell:
    """Price of the timed steps' electricity, in the site's currency."""
    return _by_factor(run, safe_json.positive(factors, "electricity_price_per_kwh"), NO_PRICE)


def _by_factor(run: RunRecord, per_kwh: float | None, without: str) -> Cell:
    energy_j = run.summary.energy.figure.value
    if energy_j is None:
        return Cell(reason=quantities.ENERGY.reason(run))
    return Cell(value=energy_j / JOULES_PER_KWH * per_kwh) if per_kwh else Cell(reason=without)


def per_million_samples(figure: Cell, run: RunRecord) -> float | None:
    """The figure of the timed steps for a million samples."""
    samples = ranking.num_timed_samples(run)
    return figure.value / samples * 1e6 if figure.value is not None and samples else None


def estimate_j(run: RunRecord, factors: dict[str, Any]) -> Cell:
    """Joules of the timed steps if every node drew the site's `power_w_per_node`: a guess, under a name of its own."""
    if safe_json.text(factors, "estimate") != "tdp":
        return Cell(reason=NOT_ASKED)
    own = run.candidate if "power_w_per_node" in run.candidate else factors  # where nodes differ, of the run's nodes
    power_w = safe_json.positive(own, "power_w_per_node")
    if power_w is None:
        return Cell(reason=NO_POWER)
    step = ranking.step_time_ms(run)
    if step is None or not run.num_timed:
        return Cell(reason="no steps were timed")
    return Cell(value=power_w * num_nodes(run) * step.value * run.num_timed / 1e3)


def num_nodes(run: RunRecord) -> float:
    """Nodes of the run, as measured, else as planned."""
    return run.summary.num_nodes or safe_json.positive(run.part("resources"), "num_nodes") or 1


def estimate_method(factors: dict[str, Any]) -> str:
    """In words, for the column beside the estimate."""
    if safe_json.positive(factors, "power_w_per_node") is None:
        return "estimated: the site's power of each run's nodes, not measured"
    return f"estimated: {safe_json.positive(factors, 'power_w_per_node') or 0:g} W per node, not measured"
