"""What all charts share: the figure record, colours by meaning, axes, sizes that fit a phone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from hpc_accel.report.judge import ranking, wording
from hpc_accel.report.load.run_record import RunRecord

MAX_BARS = 40
KINDS = {
    "serial": "serial",
    "data": "data parallel (dp)",
    "tensor": "tensor parallel (tp)",
    "pipeline": "pipeline (pp)",
    "hybrid": "hybrid",
}
GLYPHS = {
    "diamond": "\u25c6",
    "circle": "\u25cf",
    "square": "\u25a0",
    "triangle-up": "\u25b2",
    "star": "\u2605",
    "x": "\u2716",
    "line-ns": "\u2502",
}
SYMBOLS = {"serial": "diamond", "data": "circle", "tensor": "square", "pipeline": "triangle-up", "hybrid": "star"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One chart, or the sentence that stands in its place when nothing was measured."""

    key: str
    title: str
    caption: str
    spec: dict[str, Any] | None = None
    gap: str | None = None
    height_px: int = 320

    @property
    def legend(self) -> list[tuple[str, str, str]]:
        """Glyph, colour and name of each kind of trace: the page writes them as text, which wraps on a phone."""
        found: dict[str, tuple[str, str, str]] = {}
        for trace in (self.spec or {}).get("data", []):
            if trace.get("showlegend") is not False:
                found.setdefault(trace["name"], (_glyph(trace), _trace_color(trace), trace["name"]))
        return list(found.values())


def _glyph(trace: dict[str, Any]) -> str:
    """A character that looks like the trace."""
    if trace["type"] == "bar":
        return "\u25a0"
    if "lines" in trace["mode"]:
        return "\u2504" if trace["line"].get("dash", "solid") == "dash" else "\u2501"
    symbol = trace["marker"]["symbol"]
    return GLYPHS[(symbol if isinstance(symbol, str) else symbol[0]).removesuffix("-open")]


def _trace_color(trace: dict[str, Any]) -> str:
    return str((trace.get("marker") or trace["line"])["color"])


def color(name: str) -> str:
    """A colour of the page's theme; the page replaces the name by the value."""
    return f"var(--c-{name})"


def layout(x_title: str, y_title: str = "", **more: Any) -> dict[str, Any]:
    """The axes of a figure; its title and legend are the page's, and template/chart.js makes room for labels."""
    base: dict[str, Any] = {"xaxis": {"title": {"text": x_title}}, "yaxis": {"title": {"text": y_title}}}
    for key, value in more.items():
        base[key] = {**base[key], **value} if isinstance(base.get(key), dict) and isinstance(value, dict) else value
    return base


def fastest_first(runs: Iterable[RunRecord]) -> list[RunRecord]:
    """Runs that count, by time per sample: the order of every bar chart, so that the eye can compare them."""
    timed = [
        (step.value / ranking.global_batch_size(run), run)
        for run in runs
        if run.counts and (step := ranking.step_time_ms(run))
    ]
    return [run for _, run in sorted(timed, key=lambda pair: pair[0])]


MANY = 400
GRID = 64
"""Of more than MANY marks only one stands in each cell of a grid that divides either axis by GRID."""
P = TypeVar("P")


def distinct(marks: list[P], place: Callable[[P], tuple[float, float]], like: Callable[[P], Any]) -> list[P]:
    """Marks that can be told apart on logarithmic axes: of those `like` each other and in one cell, the first.

    `place` gives x and y above 0.
    """
    if len(marks) <= MANY:
        return marks
    where = [tuple(map(math.log, place(mark))) for mark in marks]
    low = [min(at[axis] for at in where) for axis in (0, 1)]
    width = [(max(at[axis] for at in where) - low[axis]) / GRID or 1.0 for axis in (0, 1)]
    kept: dict[Any, P] = {}
    for mark, at in zip(marks, where, strict=True):
        cell = tuple(int((at[axis] - low[axis]) / width[axis]) for axis in (0, 1))
        kept.setdefault((like(mark), *cell), mark)
    return list(kept.values())


def left_out_words(num_drawn: int, num_all: int) -> str:
    """Sentence when marks that lie under others were not drawn."""
    return f" {num_drawn:,} of {num_all:,} marks are drawn; the others lie under them." if num_drawn < num_all else ""


def log_axis(low: float, high: float) -> dict[str, Any]:
    """A logarithmic axis with ticks at round numbers: few enough to read, never bare digits."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    steps = (
        (1, 1.5, 2, 3, 5, 7)
        if high / low < 10
        else (1, 2, 5)
        if high / low < 100
        else (1, 3)
        if high / low < 1e3
        else (1,)
    )
    ticks = [step * 10.0**power for power in powers for step in steps if low <= step * 10.0**power <= high]
    return {
        "type": "log",
        "range": [math.log10(low), math.log10(high)],
        "tickvals": ticks,
        "ticktext": [f"{tick:g}" if tick < 1e4 else wording.compact(tick) for tick in ticks],
    }


def bar_axis(runs: list[RunRecord]) -> dict[str, Any]:
    """A category axis that keeps the order of `runs` from top to bottom."""
    labels = [run.label for run in runs]
    return {
        "type": "category",
        "categoryarray": labels[::-1],
        "showgrid": False,
    }


def bar_height_px(num_bars: int) -> int:
    """Room for every bar's label."""
    return 70 + 24 * max(4, num_bars)


def only_shown(all_runs: list[RunRecord], shown: list[RunRecord]) -> str:
    """Sentence when a chart leaves runs out; the table has all."""
    return (
        f" The {len(shown)} fastest of {len(all_runs)} runs; the table has all." if len(shown) < len(all_runs) else ""
    )


def pattern(run: RunRecord) -> str:
    """Reduced precision is hatched: kind of layout is the colour, so precision must be something else."""
    return {"fp32": "", "bf16": "/", "fp16": "\\"}.get(run.precision, ".")


def by_kind(runs: Iterable[RunRecord]) -> dict[str, list[RunRecord]]:
    """Runs grouped by kind of layout, in the legend's order, empty kinds left out."""
    listed = list(runs)
    groups = {kind: [run for run in listed if run.kind == kind] for kind in KINDS}
    return {kind: group for kind, group in groups.items() if group}


def bar_marker(runs: list[RunRecord], kind: str) -> dict[str, Any]:
    """Colour by kind of layout, hatching by precision."""
    return {
        "color": color(kind),
        "pattern": {"shape": [pattern(run) for run in runs]},
    }


def stacked_bars(
    runs: list[RunRecord],
    parts: dict[str, tuple[str, str]],
    value_of: Callable[[RunRecord, str], float | None],
    words: Callable[[float], str],
) -> list[dict[str, Any]]:
    """Traces of bars that are stacked, one per part (key -> name and colour) that any run has."""
    traces = []
    for key, (name, color_name) in parts.items():
        known = [(run, value) for run in runs if (value := value_of(run, key))]
        if known:
            traces.append(
                {
                    "type": "bar",
                    "name": name,
                    "y": [run.label for run, _ in known],
                    "x": [value for _, value in known],
                    "marker": {"color": color(color_name)},
                    "hovertext": [f"{run.label}\n{name}: {words(value)}" for run, value in known],
                }
            )
    return traces


def stacked_layout(x_title: str, runs: list[RunRecord]) -> dict[str, Any]:
    """The layout of a chart of stacked bars."""
    return layout(x_title, yaxis=bar_axis(runs), barmode="stack", bargap=0.25)


def values_beside(labels: list[str], ends: list[float], texts: list[str]) -> dict[str, Any]:
    """The values in figures, right of the bars' ends: inside they would be unreadable on hatching."""
    return {
        "type": "scatter",
        "mode": "text",
        "name": "values",
        "showlegend": False,
        "y": labels,
        "x": ends,
        "text": [f" {text}" for text in texts],
        "hoverinfo": "skip",
    }


def precision_words(runs: list[RunRecord]) -> str:
    """What the hatching means, when there is any."""
    reduced = sorted({run.precision for run in runs if pattern(run)})
    return f" Hatched: {', '.join(reduced)}." if reduced else ""
