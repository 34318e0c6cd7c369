"""What a run is called in tables and charts: its layout, its recipe, and what tells it from its twins."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from hpc_accel.report.load import safe_json
from hpc_accel.report.load.run_record import RunRecord
from hpc_accel.study.layout import Layout
from hpc_accel.study.recipe import Recipe


def layout_label(layout: dict[str, Any]) -> str:
    """`serial`, `dp2.pp2.1f1b`; the sizes as they stand when they make no valid layout."""
    try:
        return Layout.model_validate(layout).label
    except ValidationError:
        sizes = [f"{key}{layout[key]}" for key in ("dp", "pp", "tp") if isinstance(layout.get(key), int | str)]
        return safe_json.clean(".".join(sizes) or "?")


def run_label(layout: str, candidate: dict[str, Any]) -> str:
    """Layout, precision, batch, options and frequencies: `dp2 fp32 x4 recompute=full 1200 MHz`."""
    precision = safe_json.text(candidate, "recipe", "precision") or "?"
    batch_size = safe_json.positive(candidate, "infer", "batch_size")
    size = (
        f"b{batch_size:g}" if batch_size else f"x{safe_json.number(candidate, 'layout', 'accumulation_steps') or 1:g}"
    )
    label = " ".join([layout, precision, size, *recipe_options(safe_json.mapping(candidate, "recipe"))])
    repeat = safe_json.number(candidate, "repeat") or 1
    if batch_size and repeat > 1:
        label = f"{label} repeat {repeat:g}"
    clocks = [
        f"{value:g} {unit}"
        for key, unit in (("gpu_freq_mhz", "MHz"), ("cpu_freq_khz", "kHz"), ("power_limit_w", "W"))
        if (value := safe_json.positive(candidate, "recipe", key))
    ]
    return " ".join([label, *clocks])


def recipe_options(recipe: dict[str, Any]) -> list[str]:
    """What a recipe sets beside precision and clocks, such as `quantize=int8`; nothing where it is no valid recipe."""
    try:
        return Recipe.model_validate(recipe).options
    except ValidationError:
        return []


def layout_kind(layout: dict[str, Any]) -> str:
    """`serial`, `data`, `tensor`, `pipeline`, or `hybrid` where it is more than one."""
    split = [key for key in ("dp", "tp", "pp") if (safe_json.number(layout, key) or 1) > 1]
    names = {"dp": "data", "tp": "tensor", "pp": "pipeline"}
    return "serial" if not split else names[split[0]] if len(split) == 1 else "hybrid"


def unique_labels(runs: list[RunRecord]) -> tuple[RunRecord, ...]:
    """Add what tells equal labels apart (nodes, backend, batch, else the digest), only where it is needed."""
    twins: dict[tuple[str, str], list[RunRecord]] = {}
    for run in runs:
        twins.setdefault((run.workload, run.label), []).append(run)
    return tuple(_told_apart(run, twins[run.workload, run.label]) for run in runs)


def _told_apart(run: RunRecord, twins: list[RunRecord]) -> RunRecord:
    if len(twins) == 1:
        return run
    marks = {
        "nodes": lambda r: safe_json.number(r.part("resources"), "num_nodes"),
        "backend": lambda r: safe_json.text(r.run, "backend"),
        "samples": lambda r: safe_json.number(r.part("layout"), "micro_batch_size"),
    }
    for unit, value in marks.items():
        values = {value(twin) for twin in twins}
        if len(values) == len(twins) and None not in values:
            return replace(run, label=f"{run.label} {value(run)} {unit}".replace(" backend", ""))
    return replace(run, label=f"{run.label} #{run.run_id[-4:]}")
