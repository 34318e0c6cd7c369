"""What each field of a run becomes in another framework, or why it cannot: no field that is set is left out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hpc_accel.produce.export.rules import ALWAYS, NOT_SAID, REASONS, RULES, Framework
from hpc_accel.study.base import StrictModel
from hpc_accel.study.layout import Layout
from hpc_accel.study.optimizer import Optimizer
from hpc_accel.study.recipe import Recipe
from hpc_accel.study.run import Measure, Resources, Run, WorkloadSpec

PARTS: dict[str, type[StrictModel]] = {"layout": Layout, "recipe": Recipe, "resources": Resources, "measure": Measure}
UNIMPORTANT = ("run_id", "format", "study", "site", "repeat", "production")
"""Of a run, what says how it is named and kept."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One field that is set: `becomes` what, or None and `why`."""

    key: str
    value: Any
    becomes: str | None
    why: str = ""


def rows_of(run: Run, framework: Framework) -> list[Row]:
    """All fields of `run` that are set, in its order."""
    return [_row(key, value, run, framework) for key, value in set_fields(run)]


def set_fields(run: Run) -> Iterator[tuple[str, Any]]:
    """(key, value) of what differs from the defaults, and of what a configuration always says."""
    for name in Run.model_fields:
        part = getattr(run, name)
        if name in UNIMPORTANT or part is None:
            continue
        if name in PARTS:
            yield from _of_part(name, PARTS[name].model_fields, part)
        elif name == "workload":
            yield from _of_workload(part)
        elif part != Run.model_fields[name].get_default() or name in ALWAYS:
            yield name, part


def _of_workload(workload: WorkloadSpec) -> Iterator[tuple[str, Any]]:
    fields = {key: field for key, field in WorkloadSpec.model_fields.items() if key not in ("optimizer", "sources")}
    yield from _of_part("workload", fields, workload)
    yield from _of_part("optimizer", Optimizer.model_fields, workload.optimizer)


def _of_part(name: str, fields: dict[str, Any], part: Any) -> Iterator[tuple[str, Any]]:
    for key, field in fields.items():
        value = getattr(part, key)
        required = field.is_required()
        if required or f"{name}.{key}" in ALWAYS or value != field.get_default(call_default_factory=True):
            yield f"{name}.{key}", value


def _row(key: str, value: Any, run: Run, framework: Framework) -> Row:
    rule = RULES[framework].get(key)
    becomes = rule(value, run) if rule is not None else None
    if becomes is not None:
        return Row(key=key, value=value, becomes=becomes)
    why = REASONS.get((framework, key)) or REASONS.get(("", key)) or NOT_SAID[framework]
    return Row(key=key, value=value, becomes=None, why=why)


def table(run: Run, framework: Framework, rows: list[Row]) -> str:
    """mapping.md: what is kept, then what is not."""
    kept = [row for row in rows if row.becomes is not None]
    lost = [row for row in rows if row.becomes is None]
    lines = [
        f"# {run.run_id} for {framework}",
        "",
        f"Measured as {run.label}. {len(kept)} settings are kept, {len(lost)} are not.",
        "",
        "| measured | value | here |",
        "|---|---|---|",
        *(f"| `{row.key}` | {_cell(row.value)} | {row.becomes} |" for row in kept),
        "",
        "## What it cannot say",
        "",
        *(["| measured | value | why, and what to do |", "|---|---|---|"] if lost else ["Nothing."]),
        *(f"| `{row.key}` | {_cell(row.value)} | {row.why} |" for row in lost),
    ]
    return "\n".join(lines) + "\n"


def _cell(value: Any) -> str:
    text = value.model_dump(mode="json", exclude_defaults=True) if hasattr(value, "model_dump") else value
    return str(text).replace("|", "\\|")
