"""Loss curves of all layouts: they train on the same samples in the same order, so they should lie on each other."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import polars as pl

from hpc_accel.report.judge import wording
from hpc_accel.report.load.run_record import RunRecord
from hpc_accel.report.show.figures import style

MAX_CURVES = 24
MAX_POINTS = 160
DASHES = {"fp32": "solid", "bf16": "dot", "fp16": "dash"}


def figures(runs: list[RunRecord]) -> list[style.Figure]:
    """One line per run, thinned: wrong ones first, because they are what to look for, then serial, then the fastest."""
    ordered = style.fastest_first(runs)
    serial = [run for run in ordered if run.kind == "serial"]
    parallel = [run for run in ordered if run.kind != "serial"]
    with_losses = [run for run in runs if run.status == "wrong"] + serial + parallel
    shown = with_losses[:MAX_CURVES]
    data: list[dict[str, Any]] = []
    dropped, unreadable = 0, 0
    for run in shown:
        curve, lost, problem = read_losses(run.directory / "steps.parquet")
        dropped += lost
        unreadable += problem
        # The summary's first losses stand in for a lost file, and only for that.
        if problem:
            curve = [(step, value) for step, value in enumerate(run.summary.losses.first) if value is not None]
        if curve:
            data.append(_trace(run, curve, {trace["name"] for trace in data}))
    if not data:
        gap = "Not available: no run left a readable steps.parquet."
        return [style.Figure(key="loss", title="Loss", caption="", gap=gap)]
    caption = "Same samples in the same order: the curves should lie on each other."
    dashes = {"bf16": "Dotted", "fp16": "Dashed"}
    caption += "".join(f" {dashes[key]}: {key}." for key in sorted({run.precision for run in shown} & dashes.keys()))
    if len(shown) < len(with_losses):
        caption += f" {len(shown)} of {len(with_losses)} runs are drawn."
    if unreadable:
        words = wording.counted(unreadable, "run")
        caption += f" {words} left no readable steps.parquet: only their first losses are drawn."
    if dropped:
        caption += f" {wording.counted(dropped, 'row')} without a finite loss or repeated were not used."
    spec = {"data": data, "layout": style.layout("step", "loss")}
    return [style.Figure(key="loss", title="Loss", caption=caption, spec=spec)]


def _trace(run: RunRecord, curve: list[tuple[int, float]], named: set[str]) -> dict[str, Any]:
    """One curve; a name already `named` gets no second entry in the legend."""
    wrong = run.status == "wrong"
    name = "wrong" if wrong else style.KINDS[run.kind]
    return {
        "type": "scatter",
        "mode": "lines" if len(curve) > 1 else "markers",
        "name": name,
        "showlegend": name not in named,
        "x": [step for step, _ in curve],
        "y": [value for _, value in curve],
        "line": {
            "width": 2.5 if wrong else 1.5,
            "color": style.color("bad" if wrong else run.kind),
            "dash": DASHES.get(run.precision, "dashdot"),
        },
        "marker": {"symbol": "circle", "color": style.color("bad" if wrong else run.kind)},
        "label": run.label,
    }


def read_losses(path: Path) -> tuple[list[tuple[int, float]], int, bool]:
    """Mean loss over ranks per step, thinned; the number of rows not used; whether the file was unreadable."""
    try:
        frame = pl.read_parquet(path, columns=["step", "rank", "loss"])
        rows = frame.with_columns(pl.col("step", "rank").cast(pl.Int64), pl.col("loss").cast(pl.Float64))
    except (OSError, pl.exceptions.PolarsError):
        return [], 0, True
    # Only the ranks that see the loss report one (the last stage of a pipeline): null is no fault, NaN is.
    reported = rows.drop_nulls()
    finite = reported.filter(pl.col("loss").is_finite()).unique(["step", "rank"], keep="last", maintain_order=True)
    curve = finite.group_by("step").agg(pl.col("loss").mean()).sort("step")
    every = max(1, math.ceil(curve.height / MAX_POINTS))
    return (
        [(int(step), float(loss)) for step, loss in curve.gather_every(every).iter_rows()],
        reported.height - finite.height,
        False,
    )
