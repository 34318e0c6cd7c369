"""The workload's metric on held-out samples, and how far each run is from the plain serial one that trained as long."""

from __future__ import annotations

from collections.abc import Iterable

from hpc_accel.report.load import safe_json
from hpc_accel.report.load.labels import recipe_options
from hpc_accel.report.load.run_record import RunRecord

NO_PLAIN_RUN = "no serial fp32 run without options trained as long"

Baselines = dict[tuple[str, float, float], float]
"""Metric of the serial fp32 run by workload, steps and samples per step."""


def value(run: RunRecord) -> float | None:
    """The figure, of a run that counts."""
    return safe_json.number(run.summary, "metric", "value") if run.counts else None


def reason(run: RunRecord) -> str | None:
    """Why there is none."""
    if value(run) is not None:
        return None
    return safe_json.text(run.summary, "metric", "reason") or "the run left no metric"


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
    name = safe_json.text(run.summary, "metric", "name") or ""
    off = difference(run, plain)
    if off is None or _is_plain(run):
        return name
    return f"{name}, {off:+.2g} against serial fp32" if off else f"{name}, as serial fp32"


def _is_plain(run: RunRecord) -> bool:
    return run.num_ranks == 1 and run.precision == "fp32" and not recipe_options(run.part("recipe"))


def _trained(run: RunRecord) -> tuple[str, float, float]:
    steps = safe_json.mapping(run.summary, "steps")
    count = (safe_json.number(steps, "num_warmup") or 0) + (safe_json.number(steps, "num_timed") or 0)
    return run.workload, count, safe_json.number(steps, "global_batch_size") or 0
