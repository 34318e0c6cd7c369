"""One step of the fastest run on all ranks: what the plan predicted above what the trace measured."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any

from hpc_accel.report.judge import ranking, wording
from hpc_accel.report.load import safe_json
from hpc_accel.report.load.run_record import RunRecord
from hpc_accel.report.show.figures import style

MAX_RANKS = 16
MAX_PASSES = 2000
MAX_TRACE_BYTES = 30_000_000
TITLE = "One step of the fastest run"
PARTS = {
    "data": ("data", "phase-data"),
    "forward": ("forward", "phase-forward"),
    "backward": ("backward", "phase-backward"),
    "communication_exposed": ("communication", "phase-comm-exposed"),
    "bubble": ("pipeline wait", "phase-pipeline-wait"),
    "optimizer": ("optimizer", "phase-optimizer"),
    "other": ("other", "phase-other"),
}
Pass = tuple[str, str, float, float]
"""Row, part, start and duration in ms."""


def figures(runs: list[RunRecord]) -> list[style.Figure]:
    """A row per rank, two where it communicated beside computing."""
    best = ranking.fastest(runs)
    if best is None:
        return [
            style.Figure(key="timeline", title=TITLE, caption="", gap="Not available: no run of this workload counts.")
        ]
    passes = measured(best.run)
    if not passes:
        gap = f"Not available: {best.run.label} left no readable trace.json."
        return [style.Figure(key="timeline", title=TITLE, caption="", gap=gap)]
    rows = list(dict.fromkeys(row for row, *_ in passes))
    planned = predicted(best.run)
    caption = f"{best.run.label}; the traced step whose time is nearest to the median. "
    if planned:
        passes, rows = [*planned, *passes], ["predicted", *rows]
        caption += "The first row adds up the predicted parts of a step; they do not tell which comes when. "
    if len(set(rows) - {"predicted"}) < best.run.num_ranks:
        caption += f"Of {best.run.num_ranks} ranks the first {len(set(rows) - {'predicted'})} are drawn. "
    caption += "A trace of all traced steps is in trace.json."
    layout = style.layout("ms", yaxis={"type": "category", "categoryarray": rows[::-1]}, bargap=0.15)
    spec = {"data": _traces(passes), "layout": layout}
    return [
        style.Figure(key="timeline", title=TITLE, caption=caption, spec=spec, height_px=style.bar_height_px(len(rows)))
    ]


def predicted(run: RunRecord) -> list[Pass]:
    """The predicted parts one after the other; none where the plan predicted no time."""
    found: list[Pass] = []
    at = 0.0
    for part in PARTS:
        duration = safe_json.positive(run.candidate, "prediction", "parts_ms", part)
        if duration:
            found.append(("predicted", part, at, duration))
            at += duration
    return found


def measured(run: RunRecord) -> list[Pass]:
    """The passes of one step on the first ranks, from the earliest start of any; none without a trace."""
    spans = _spans(run.directory / "trace.json")
    steps: dict[str, list[tuple[float, float]]] = {}
    for row, name, _, begin, length in spans:
        if name == "step":
            steps.setdefault(row, []).append((begin, begin + length))
    if not steps:
        return []
    lengths = [end - begin for begin, end in sorted(next(iter(steps.values())))]
    middle = median(lengths)
    number = min(range(len(lengths)), key=lambda at: abs(lengths[at] - middle))
    windows = {row: sorted(each)[number] for row, each in steps.items() if len(each) > number}
    zero = min(begin for begin, _ in windows.values())
    found = [
        (row, part, begin - zero, length)
        for row, _, part, begin, length in spans
        if part and row in windows and windows[row][0] <= begin < windows[row][1]
    ]
    ordered = sorted(found, key=lambda each: (len(each[0]), each[0], each[2]))
    if len(ordered) <= MAX_PASSES:
        return ordered
    cut = ordered[MAX_PASSES][0]  # a rank is drawn whole or not at all; the first one in any case
    return [each for each in ordered[:MAX_PASSES] if each[0] != cut or cut == ordered[0][0]]


def _spans(path: Path) -> list[tuple[str, str, str, float, float]]:
    """Row, name, part, begin and length in ms of each event of the first ranks; none of a file that is too large."""
    try:
        if path.stat().st_size > MAX_TRACE_BYTES:
            return []
    except OSError:
        return []
    found = []
    for event in safe_json.items(safe_json.read_json(path)[0], "traceEvents"):
        begin, length, row = _ms(event, "ts"), _ms(event, "dur"), _row(event)
        if row and begin is not None and length:
            found.append((row, safe_json.text(event, "name") or "", _part(event), begin, length))
    return found


def _ms(event: dict[str, Any], key: str) -> float | None:
    value = safe_json.number(event, key)
    return value / 1e3 if value is not None else None


def _row(event: dict[str, Any]) -> str:
    rank = safe_json.number(event, "pid")
    return f"rank {rank:g}" if rank is not None and 0 <= rank < MAX_RANKS else ""


def _part(event: dict[str, Any]) -> str:
    """The part of PARTS that an event belongs to: phases by name, receiving is waiting for another stage, and whatever
    else the other rows hold is communication.
    """
    name = event.get("name")
    if event.get("tid") == 0:
        return name if isinstance(name, str) and name in PARTS else ""
    return "bubble" if name == "recv" else "communication_exposed"


def _traces(passes: list[Pass]) -> list[dict[str, Any]]:
    traces = []
    for part, (name, color) in PARTS.items():
        mine = [each for each in passes if each[1] == part]
        if mine:
            beside = part in ("communication_exposed", "bubble")
            traces.append(
                {
                    "type": "bar",
                    "name": name,
                    "y": [row for row, *_ in mine],
                    "x": [round(duration, 4) for *_, duration in mine],
                    "base": [round(begin, 4) for *_, begin, _ in mine],
                    # Communication runs beside computing: it gets the lower third of a row.
                    "slots": [[2, 3, 1] if beside and row != "predicted" else [0, 3, 2] for row, *_ in mine],
                    "marker": {"color": style.color(color)},
                    "hovertext": [
                        f"{row}: {name}\n{wording.short(duration)} ms from {wording.short(begin)} ms on"
                        for row, _, begin, duration in mine
                    ],
                }
            )
    return traces
