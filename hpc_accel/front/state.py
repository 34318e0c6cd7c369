"""What a study is doing, read from the files that its workflow and its runs write.

Nothing asks the processes: the same view works beside a workflow that somebody else started, over ssh, and for jobs on
other nodes. How far a run is, its own log says (`step 120 of 400`).
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpc_accel.files import end_of, read_json
from hpc_accel.front.trainings import TrainingState, trainings_in
from hpc_accel.jobs.attempt import MARKER, SUCCESSFUL
from hpc_accel.jobs.queue import submitted
from hpc_accel.report.load.labels import run_label
from hpc_accel.study.run import Run

STAGES = ("check", "probe", "plan", "script", "reference", "run", "report")
TAIL_BYTES = 20_000
_STEP = re.compile(r"^(?:step|part) (\d+) of (\d+)$", re.MULTILINE)
_RULE = re.compile(r"^(?:local)?(?:rule|checkpoint) (\w+):$", re.MULTILINE)
_WAITS = re.compile(r"^job (\d+) waits: (.*)$", re.MULTILINE)
RULE_STAGES = {"probe_script": "probe", "reference_script": "reference", "pack_script": "script", "pack": "run"}


@dataclass(frozen=True, kw_only=True)
class RunState:
    """One run of the plan. `status` is waiting, running, or what its summary says (completed, wrong, failed, ...)."""

    run_id: str
    workload: str
    label: str
    status: str
    done: int = 0
    total: int = 0
    """Steps, as far as the log of a run that trains says."""
    samples_per_s: float | None = None
    """From the log while it runs, from the summary afterwards."""
    step_time_ms: float | None = None
    cause: str = ""
    """Why it failed, in one line."""
    silent_s: float = 0.0
    """Of a run that trains: since its log last grew."""

    @property
    def is_over(self) -> bool:
        """Whether it has a result, good or bad."""
        return self.status not in {"waiting", "running"}

    @property
    def has_failed(self) -> bool:
        """Whether its result is no measurement."""
        return self.is_over and self.status not in SUCCESSFUL


@dataclass(frozen=True, kw_only=True)
class StudyState:
    """A study at one moment. Without a plan there are no runs yet."""

    stage: str
    runs: tuple[RunState, ...]
    queue: tuple[str, ...] = ()
    """Why jobs wait in Slurm's queue, the latest reason of each."""
    trainings: tuple[TrainingState, ...] = ()
    """To their end."""

    @property
    def num_over(self) -> int:
        """Runs that have a result."""
        return sum(each.is_over for each in self.runs)

    @property
    def num_failed(self) -> int:
        """Of these, those that failed."""
        return sum(each.has_failed for each in self.runs)


@dataclass
class Watcher:
    """Looks at the results of a study, again and again; what has not changed is not read again."""

    results: Path
    log: Path | None = None
    """What the workflow says, where it is known."""
    since_unix_s: float = 0.0
    """When this workflow started: nothing is learnt of how long runs take from what was there before."""
    _plan: tuple[float, list[tuple[Run, str]]] = (0.0, [])
    _over: dict[str, tuple[float, RunState]] = field(default_factory=dict)
    _first: dict[str, tuple[float, int]] = field(default_factory=dict)
    _took_s: dict[str, float] = field(default_factory=dict)

    def look(self) -> StudyState:
        """The present state."""
        said = end_of(self.log, TAIL_BYTES) if self.log else ""
        runs = tuple(self._run(run, label) for run, label in self._planned())
        queue = _waiting(self.log, said) if self.log else ()
        trainings = trainings_in(self.results)
        return StudyState(stage=self._stage(said), runs=runs, queue=queue, trainings=trainings)

    def left_s(self, state: StudyState) -> float | None:
        """How long the rest takes if it takes as long as what was measured so far; None before the first result."""
        left = len(state.runs) - state.num_over
        if not left:
            return 0.0
        if not self._took_s:
            return None
        return sum(self._took_s.values()) / len(self._took_s) * left

    def _planned(self) -> list[tuple[Run, str]]:
        """The chosen runs, each with the label that the report gives it."""
        path = self.results / "plan.json"
        changed_s = _changed_s(path)
        if changed_s and changed_s != self._plan[0]:
            chosen = [each for each in read_json(path).get("candidates", []) if each.get("chosen")]
            runs = [Run.model_validate(each["run"]) for each in chosen]
            self._plan = (changed_s, [(run, run_label(run.layout.label, run.model_dump())) for run in runs])
        return self._plan[1] if changed_s else []

    def _stage(self, said: str) -> str:
        rules = _RULE.findall(said)
        named = [stage for rule in rules if (stage := RULE_STAGES.get(rule, rule)) in STAGES]
        if named:
            return named[-1]
        present = {"report": "report.html", "run": "plan.json", "plan": "hardware.json", "probe": "check.json"}
        return next((stage for stage, name in present.items() if (self.results / name).exists()), "check")

    def _run(self, run: Run, label: str) -> RunState:
        directory = self.results / "runs" / run.run_id
        began_s, ended_s = _changed_s(directory / MARKER), _changed_s(directory / "summary.json")
        same: dict[str, Any] = {"run_id": run.run_id, "workload": run.workload.name, "label": label}
        if ended_s and ended_s >= began_s:
            known = self._over.get(run.run_id)
            if known is None or known[0] != ended_s:
                known = (ended_s, _ended(same, read_json(directory / "summary.json")))
                self._over[run.run_id] = known
                if began_s >= self.since_unix_s:
                    self._took_s[run.run_id] = ended_s - began_s
            return known[1]
        if not began_s or (self.since_unix_s and began_s < self.since_unix_s):
            return RunState(**same, status="waiting")
        return self._running(same, run, directory / "log.txt")

    def _running(self, same: dict[str, Any], run: Run, log: Path) -> RunState:
        steps = _STEP.findall(end_of(log, TAIL_BYTES))
        now_s = time.monotonic()
        done, total = (int(steps[-1][0]), int(steps[-1][1])) if steps else (0, 0)
        first = self._first.setdefault(run.run_id, (now_s, done))
        if done < first[1]:  # a new attempt
            first = self._first[run.run_id] = (now_s, done)
        rate = None
        if done > first[1] and now_s > first[0]:
            rate = (done - first[1]) / (now_s - first[0]) * run.workload.global_batch_size
        silent_s = max(0.0, time.time() - _changed_s(log)) if log.exists() else 0.0
        return RunState(**same, status="running", done=done, total=total, samples_per_s=rate, silent_s=silent_s)


def _ended(same: dict[str, Any], summary: dict[str, Any]) -> RunState:
    def value(key: str) -> float | None:
        found = summary.get(key)
        return found.get("value") if isinstance(found, dict) else None

    error = summary.get("error")
    cause = str(error.get("message") or "") if isinstance(error, dict) else ""
    return RunState(
        **same,
        status=str(summary.get("status")),
        samples_per_s=value("throughput_samples_per_s"),
        step_time_ms=value("step_time_ms"),
        cause=next(iter(cause.splitlines()), ""),
    )


def _waiting(log: Path, said: str) -> tuple[str, ...]:
    reasons = dict(_WAITS.findall(said))
    return tuple(f"job {job}: {reasons[job]}" for job in submitted(log) if job in reasons) if reasons else ()


def _changed_s(path: Path) -> float:
    """When it was last written; 0 where it is not there."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
