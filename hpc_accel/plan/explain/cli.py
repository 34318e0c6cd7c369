"""`hpc-accel plan explain`: one candidate's time and memory as a tree, and its step as a timeline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer


def plan_explain(
    study: Annotated[Path, typer.Argument(metavar="STUDY", help="The study whose plan it is of.")],
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run_id of the plan, or its beginning.")],
    hardware: Annotated[str, typer.Option(help="As `plan` was given; by default what the study's probe wrote.")] = "",
    out: Annotated[Path | None, typer.Option(help="Where the timeline goes.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the trees as JSON, for programs.")] = False,
) -> None:
    """Explain a prediction: what adds up to its step and its memory, and each pass on a timeline for Perfetto."""
    from hpc_accel.plan.explain.find import found_run
    from hpc_accel.plan.explain.timeline import write_timeline
    from hpc_accel.plan.explain.tree import memory_tree, time_tree

    found, model, prediction, results = found_run(study, run, hardware)
    trace = results / "runs" / found.run_id / "trace.json"
    path = out or results / "explained" / f"{found.run_id}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    memory = memory_tree(found, model)
    content: dict[str, Any] = {
        "run_id": found.run_id,
        "memory_bytes": memory.to_json(),
        "notes": list(prediction.notes),
    }
    lines = [f"{found.run_id}: {found.label}"]
    if model.unpredictable(found.layout, found.resources, found.device):
        content |= {"step_s": None, "reason": prediction.step_time_reason}
        lines.append(f"no time: {prediction.step_time_reason}")
    else:
        time = time_tree(found, model)
        measured_s = write_timeline(path, found, model, trace if trace.is_file() else None)
        content |= {"step_s": time.to_json(), "measured_step_s": measured_s, "timeline": str(path)}
        content["reason"] = prediction.step_time_reason
        lines += [
            *([f"not told as a prediction: {prediction.step_time_reason}"] if prediction.step_time_reason else [])
        ]
        lines += time.lines("ms", 1e3)
        told = f"{measured_s * 1e3:.4f} ms, the middle step of its trace" if measured_s else "not measured yet"
        lines += [f"measured: {told}", f"timeline: {path} (open it in ui.perfetto.dev)"]
    lines += ["", *memory.lines("GB", 1e-9), *(f"note: {note}" for note in prediction.notes)]
    typer.echo(json.dumps(content, indent=1) if as_json else "\n".join(lines))
