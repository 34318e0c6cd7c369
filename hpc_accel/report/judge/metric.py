"""The workload's metric on held-out samples, and how far each run is from the plain serial one that trained as long."""

from __future__ import annotations

from collections.abc import Iterable

from hpc_accel.report.load.labels import recipe_options
from hpc_accel.report.load.run_record import RunRecord

NO_PLAIN_RUN = "no serial fp32 run without options trained as long"

Baselines = dict[tuple[str, float, float], float]
"""Metric of the serial fp32 run by workload, steps and samples per step."""


def value(run: RunRecord) -> float | None:
    """The figure, of a run that counts."""
    return run.summary.metric.value if run.counts else None


def reason(run: RunRecord) -> str | None:
    """Why there is none."""
    if value(run) is not None:
        return None
    return run.summary.metric.reason if run.counts else f"the run is {run.status}"


def baselines(runs: Iterable[RunRecord]) -> Baselines:
    """What each workload's plain run reached: one rank, fp32, no option set."""
    found: Baselines = {}
    for run in runs:
        figure = value(run)
        if figure is not None and _is_plain(run):
            found.setdefault(_trained(run), figure)
    return found


def difference(run: RunRecord, plain: Baselines) -> float | None:
    """Figure minus that of the plain run; None without either."""
    figure, base = value(run), plain.get(_trained(run))
    return figure - base if figure is not None and base is not None else None


def words(run: RunRecord, plain: Baselines) -> str:
    """What the figure is, and how it compares: `accuracy, -0.0021 against serial fp32`."""
    name = run.summary.metric.name or ""
    off = difference(run, plain)
    if off is None or _is_plain(run):
        return name
    return f"{name}, {off:+.2g} against serial fp32" if off else f"{name}, as serial fp32"


def _is_plain(run: RunRecord) -> bool:
    return run.num_ranks == 1 and run.precision == "fp32" and not recipe_options(run.part("recipe"))


def _trained(run: RunRecord) -> tuple[str, float, float]:
    steps = run.summary.steps
    return (
        (run.workload, steps.num_warmup + steps.num_timed, steps.global_batch_size) if steps else (run.workload, 0, 0)
    )
