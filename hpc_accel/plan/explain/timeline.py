"""One step of every pipeline rank, simulated, as events of a Chrome trace; and the measured step beside it.

Times begin with the step. Ranks of the prediction are processes named "predicted rank r", those of the measurement keep
their names. Open the file in Perfetto.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hpc_accel.errors import DataError
from hpc_accel.plan.cost import StepModel
from hpc_accel.plan.pipeline_simulation import simulate
from hpc_accel.plan.schedules import SCHEDULES, Action
from hpc_accel.study.run import Run

NAMES = {"F": "forward", "B": "backward", "I": "backward, inputs", "W": "backward, weights"}
AFTER = ("communication_exposed", "optimizer", "other")
MEASURED_PID = 10_000
"""Measured ranks stand below the predicted ones."""


def predicted_events(run: Run, model: StepModel) -> list[dict[str, Any]]:
    """All passes, then what comes after them. Where there are no stages, micro-batches follow one another."""
    layout, resources = run.layout, run.resources
    stages = model.stage_times.of(layout, resources)
    order = SCHEDULES[layout.schedule or "gpipe"](layout.pp, layout.stages_per_rank, layout.accumulation_steps)
    if layout.pp == 1:
        order = [[(kind, 0, i) for i in range(layout.accumulation_steps) for kind in ("F", "B")]]
    events: list[dict[str, Any]] = []
    slowdown = model.slowdown(layout)

    def record(rank: int, action: Action, start_s: float, end_s: float) -> None:
        kind, stage, micro = action
        name = f"{NAMES[kind]} {micro}" + (f" of stage {stage}" if layout.num_stages > layout.pp else "")
        events.append(_slice(rank, name, slowdown * start_s, slowdown * end_s))

    send_s = model.boundary_s(layout, resources) if layout.pp > 1 else 0.0
    makespan_s = slowdown * simulate(order, stages.times, send_s, record).makespan_s
    parts = model.parts_s(layout, resources)
    inside = layout.accumulation_steps / layout.pp
    inside *= sum(stage.forward_comm_s + stage.backward_comm_s for stage in stages.all)
    after = {name: parts[name] - (inside if name == "communication_exposed" else 0.0) for name in AFTER}
    for rank in range(layout.pp):
        events.append(
            {"ph": "M", "pid": rank, "tid": 0, "name": "process_name", "args": {"name": f"predicted rank {rank}"}}
        )
        now = makespan_s
        for name, seconds in after.items():
            if seconds > 0:
                events.append(_slice(rank, name.replace("_", " "), now, now + seconds))
                now += seconds
    return events


def measured_events(path: Path) -> tuple[list[dict[str, Any]], float]:
    """The middle step of a run's trace, its times beginning with it, and its length in seconds. Raises DataError."""
    try:
        content = json.loads(path.read_text())["traceEvents"]
        steps = sorted((e for e in content if e.get("name") == "step" and e["pid"] == 0), key=lambda e: e["ts"])
        middle = steps[len(steps) // 2]
        start, end = float(middle["ts"]), float(middle["ts"] + middle["dur"])
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise DataError(
            f"{path}: {type(error).__name__}: {error}",
            "a measured run's trace.json has slices named step",
            "measure the run again, or explain without it",
        ) from None
    return list(_shifted(content, start, end)), (end - start) / 1e6


def _shifted(events: list[dict[str, Any]], start: float, end: float) -> Iterator[dict[str, Any]]:
    for event in events:
        pid = MEASURED_PID + int(event["pid"])
        if event["ph"] == "M":
            named = event.get("name") == "process_name"
            yield event | {"pid": pid, **({"args": {"name": f"measured {event['args']['name']}"}} if named else {})}
        elif event["ph"] == "X" and start <= event["ts"] < end:
            yield event | {"pid": pid, "ts": event["ts"] - start}


def write_timeline(path: Path, run: Run, model: StepModel, measured: Path | None) -> float | None:
    """Write both as one trace; the measured step's seconds, None without a measurement."""
    from hpc_accel.files import write_atomically

    events, seconds = predicted_events(run, model), None
    if measured is not None:
        more, seconds = measured_events(measured)
        events += more
    content = {"displayTimeUnit": "ms", "metadata": {"run_id": run.run_id}, "traceEvents": events}
    write_atomically(path, json.dumps(content, separators=(",", ":")) + "\n")
    return seconds


def _slice(rank: int, name: str, start_s: float, end_s: float) -> dict[str, Any]:
    return {"ph": "X", "pid": rank, "tid": 0, "name": name, "ts": 1e6 * start_s, "dur": 1e6 * (end_s - start_s)}
