"""A study under way, for three kinds of readers: a screen drawn anew, plain lines of what changed, JSON events."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from hpc_accel.front import trainings
from hpc_accel.front.state import RunState, StudyState

STAGE_WORDS = {
    "check": "checking the study and its models",
    "probe": "probing the machine",
    "plan": "planning",
    "script": "writing job scripts",
    "reference": "computing serial references",
    "run": "measuring",
    "report": "writing the report",
}
PLAIN_PERIOD_S = 30.0
"""A log gets a line at least so often."""
MOST_OVER = 6
"""Runs that have ended are listed as far as they are the latest; the counts have all."""
MOST_WAITING = 3
SILENT_S = 30.0
COLOURS = {"running": "cyan", "completed": "green", "waiting": "dim"}


class Shown(Protocol):
    """Gets the state of the study about twice a second."""

    def update(self, state: StudyState, left_s: float | None) -> None: ...

    def close(self) -> None: ...


def best_for(console: Console, *, as_json: bool, tell: Callable[[str], None]) -> Shown:
    """A screen for a terminal, plain lines for a file, events for a program."""
    if as_json:
        return Events(tell)
    return Screen(console) if console.is_terminal else Lines(tell)


class Screen:
    """Drawn anew in place; what scrolled by before stays."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, refresh_per_second=4, transient=True)
        self._live.start()

    def update(self, state: StudyState, left_s: float | None) -> None:
        """Draw it."""
        self._live.update(drawn(state, left_s))

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._live.stop()


class Lines:
    """One line for each thing that happened, and one now and then while nothing does."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._stage = ""
        self._known: dict[str, str] = {}
        self._queue: set[str] = set()
        self._told_s = 0.0

    def update(self, state: StudyState, left_s: float | None) -> None:
        """Tell what changed."""
        now_s = time.monotonic()
        changed = [run for run in state.runs if run.status not in {"waiting", self._known.get(run.run_id)}]
        self._known |= {run.run_id: run.status for run in state.runs}
        lines = [f"{_name(run)}: {told(run)}" for run in changed if run.is_over]
        if state.stage != self._stage:
            self._stage = state.stage
            lines.append(STAGE_WORDS[state.stage])
        lines += [f"{_name(run)}: {told(run)}" for run in changed if not run.is_over]
        for training in state.trainings:
            if self._known.get(f"training {training.name}") != f"{training.done} {training.is_over}":
                self._known[f"training {training.name}"] = f"{training.done} {training.is_over}"
                lines.append(f"training {training.name}: {trainings.told(training)}")
        lines += sorted(set(state.queue) - self._queue)
        self._queue |= set(state.queue)
        if not lines and now_s - self._told_s >= PLAIN_PERIOD_S:
            running = [f"{_name(run)} {told(run)}" for run in state.runs if run.status == "running"]
            lines = [f"{summary(state, left_s)}{': ' if running else ''}{'; '.join(running)}"]
        for line in lines:
            self._tell(line)
            self._told_s = now_s

    def close(self) -> None:
        """Nothing is kept."""


class Events:
    """A JSON object a line: `stage`, or a run whose status or step changed."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._stage = ""
        self._known: dict[str, RunState] = {}
        self._trained: dict[str, trainings.TrainingState] = {}

    def update(self, state: StudyState, left_s: float | None) -> None:
        """Tell what changed."""
        if state.stage != self._stage:
            self._stage = state.stage
            self._tell(json.dumps({"event": "stage", "stage": state.stage, "time_s": time.time()}))
        for run in state.runs:
            known = self._known.get(run.run_id)
            if known is None or (known.status, known.done) != (run.status, run.done):
                self._known[run.run_id] = run
                self._tell(json.dumps({"event": "run", "time_s": time.time(), "left_s": left_s, **asdict(run)}))
        for training in state.trainings:
            if self._trained.get(training.name) != training:
                self._trained[training.name] = training
                self._tell(json.dumps({"event": "training", "time_s": time.time(), **asdict(training)}))

    def close(self) -> None:
        """Nothing is kept."""


def drawn(state: StudyState, left_s: float | None) -> RenderableType:
    """The screen: what is done now, each run under way, the latest results, why jobs wait."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True, overflow="ellipsis", ratio=3)
    table.add_column(ratio=4, overflow="fold")
    over = [run for run in state.runs if run.is_over]
    running = [run for run in state.runs if run.status == "running"]
    waiting = [run for run in state.runs if run.status == "waiting"]
    for run in [*over[-MOST_OVER:], *running, *waiting[:MOST_WAITING]]:
        colour = "red" if run.has_failed else COLOURS.get(run.status, "yellow")
        table.add_row(Text(_name(run)), Text(told(run), style=colour))
    for training in state.trainings:
        table.add_row(Text(f"training {training.name}"), Text(trainings.told(training), style="green"))
    more = len(waiting) - MOST_WAITING
    parts: list[RenderableType] = [Text(summary(state, left_s), style="bold"), table]
    if more > 0:
        parts.append(Text(f"and {more} more that wait", style="dim"))
    parts += [Text(line, style="yellow") for line in state.queue[-MOST_WAITING:]]
    return Group(*parts)


def summary(state: StudyState, left_s: float | None) -> str:
    """One line of the whole: `measuring: 3 of 12 runs done, 1 failed, about 4 min left`."""
    words = STAGE_WORDS[state.stage]
    if not state.runs:
        return words
    counts = Counter(run.status for run in state.runs)
    parts = [f"{state.num_over} of {len(state.runs)} runs done"]
    parts += [f"{state.num_failed} failed"] if state.num_failed else []
    parts += [f"{counts['running']} running"] if counts["running"] > 1 else []
    if left_s:
        parts.append(f"about {duration(left_s)} left")
    elif left_s is None and counts["waiting"] + counts["running"]:
        parts.append("the time left is known after the first")
    return f"{words}: {', '.join(parts)}"


def told(run: RunState) -> str:
    """What a run does, or what came of it."""
    if run.status == "waiting":
        return "waits"
    if run.status == "running":
        if not run.total:
            return "starts"
        share = f"step {run.done} of {run.total}"
        rate = f", {run.samples_per_s:.4g} samples/s" if run.samples_per_s else ""
        silent = f", nothing new for {duration(run.silent_s)}" if run.silent_s > SILENT_S else ""
        return share + rate + silent
    if run.has_failed:
        return f"{run.status}: {run.cause}" if run.cause else run.status
    time_ms = f" {run.step_time_ms:.4g} ms/step" if run.step_time_ms else ""
    rate = f", {run.samples_per_s:.4g} samples/s" if run.samples_per_s else ""
    return f"{'done' if run.status == 'completed' else run.status}{time_ms}{rate}"


def duration(seconds: float) -> str:
    """Two figures at most: `45 s`, `4 min`, `2 h 10 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def _name(run: RunState) -> str:
    return f"{run.workload}: {run.label}"
