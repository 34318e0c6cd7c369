"""The answer in five lines: best layout for time, for energy, for cost; speed-up over serial; what was not measured.

Each line answers for every workload of the study. Two layouts are called different only when their intervals
do not overlap; energies of different scope or method are named apart, never compared.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from hpc_accel.report import ranking, reasons, wording
from hpc_accel.report.ranking import Best
from hpc_accel.report.records import RunRecord, StudyRecords


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the study found. `lines` go to answer.txt; `submit` has one command per workload."""

    lines: tuple[str, ...]
    winners: dict[str, str]  # workload -> run_id, for the study's objective
    submit: tuple[str, ...]
    report: str
    num_runs: int
    num_ranked: int

    @property
    def text(self) -> str:
        """The five lines as one text."""
        return "\n".join(self.lines) + "\n"


def answer(records: StudyRecords) -> Answer:
    """The answer of a study whose records were loaded."""
    winners = {name: best for name in records.workloads if (best := winner(records, name))}
    return Answer(
        lines=(
            "Best for time:   " + _time(records),
            "Best for energy: " + _energy(records),
            "Best for cost:   " + _cost(records),
            "Speed-up:        " + _speed_up(records),
            "Not measured:    " + _not_measured(records),
        ),
        winners={name: run.run_id for name, run in winners.items()},
        submit=tuple(submit_command(records, run) for run in winners.values()),
        report=str(records.directory / "report.html"),
        num_runs=len(records.runs),
        num_ranked=sum(run.counts for run in records.runs),
    )


def winner(records: StudyRecords, workload: str) -> RunRecord | None:
    """The run to use: best for the study's objective where that was measured in one way, else for time."""
    runs = records.of(workload)
    best: Best | None = None
    if records.objective == "energy":
        groups = ranking.thriftiest(runs)
        best = next(iter(groups.values())) if len(groups) == 1 else None
    elif records.objective == "cost":
        best = ranking.cheapest(runs)
    best = best or ranking.fastest(runs)
    return best.run if best else None


def submit_command(records: StudyRecords, run: RunRecord) -> str:
    """How to run the winner again: its own script, by `sbatch`, or by `bash` where there is no cluster."""
    script = run.directory / "job.sbatch"
    return f"{'bash' if records.site == 'local' else 'sbatch'} {script}"


def tie_words(best: Best) -> str:
    """` (a tie with ...)`, or nothing when the best stands alone."""
    return f" (a tie with {wording.named([run.label for run in best.ties])})" if best.ties else ""


def _time(records: StudyRecords) -> str:
    parts = []
    for workload in records.workloads:
        best = ranking.fastest(records.of(workload))
        step = ranking.step_time_ms(best.run) if best else None
        text = f"{best.run.label}, {wording.short(step.value)} ms/step{tie_words(best)}" if best and step else ""
        parts.append((workload, text or f"no run counts ({_why_none(records.of(workload))})"))
    return _joined(parts) or "the plan chose no run"


def _energy(records: StudyRecords) -> str:
    parts = []
    for workload in records.workloads:
        groups = ranking.thriftiest(records.of(workload))
        if not groups:
            parts.append((workload, _gap(records, workload, "energy")))
            continue
        found = [
            f"{best.run.label}, {wording.short(best.value.value)} J/sample [{scope}, {method}]{tie_words(best)}"
            for (scope, method), best in groups.items()
        ]
        parts.append((workload, " | not comparable with: ".join(found)))
    return _joined(parts) or wording.NOT_MEASURED


def _cost(records: StudyRecords) -> str:
    parts = []
    for workload in records.workloads:
        best = ranking.cheapest(records.of(workload))
        if best is None:
            parts.append((workload, _gap(records, workload, "cost")))
        else:
            price = wording.short(best.value.value * 1e6)
            parts.append((workload, f"{best.run.label}, {price} per million samples{tie_words(best)}"))
    return _joined(parts) or wording.NOT_MEASURED


def _speed_up(records: StudyRecords) -> str:
    parts = []
    for workload in records.workloads:
        runs = records.of(workload)
        best = ranking.fastest(runs)
        gain = ranking.speed_up(best.run, runs) if best else None
        if best is None:
            text = wording.NOT_MEASURED
        elif gain is None:
            text = f"{wording.NOT_MEASURED}: no serial {best.run.precision} run counts; add `- {{}}` to its layouts"
        elif best.run.kind == "serial":
            text = "none, serial is the fastest"
        else:
            efficiency = wording.percent(gain.value / best.run.num_ranks)
            text = f"{wording.short(gain.value)}x over serial {best.run.precision} on {best.run.num_ranks} ranks ({efficiency} of ideal)"
        parts.append((workload, text))
    return _joined(parts) or wording.NOT_MEASURED


def _not_measured(records: StudyRecords) -> str:
    parts = []
    for status in ("wrong", "failed", "preempted", "hung", "timeout", "cancelled", "missing", "unchecked"):
        runs = [run for run in records.runs if run.status == status]
        if runs:
            names = wording.named([f"{run.workload} {run.label}" for run in runs], most=1)
            parts.append(f"{wording.counted(len(runs), 'run')} {status} ({names})")
    for gap in reasons.gaps(records):
        # Energy and cost have a line of their own when nothing of them was measured.
        whole = gap.num_runs == gap.of_runs and gap.quantity in ("energy", "cost")
        extent = "" if gap.num_runs == gap.of_runs else f" of {gap.num_runs} of {wording.counted(gap.of_runs, 'run')}"
        parts.append(gap.quantity + extent + ("" if whole else f" ({gap.reason})"))
    return "; ".join(parts) or "nothing: every run was measured in full"


def _gap(records: StudyRecords, workload: str, quantity: str) -> str:
    runs = records.of(workload)
    found = [gap for gap in reasons.gaps(records, runs) if gap.quantity == quantity]
    if found:
        return f"{wording.NOT_MEASURED}: {found[0].reason}; {found[0].remedy}"
    partial = any(run.counts and ranking.energy_is_partial(run) for run in runs)
    why = "some devices were not covered, so totals are partial; see the coverage" if partial else _why_none(runs)
    return f"{wording.NOT_MEASURED}: {why}"


def _why_none(runs: list[RunRecord]) -> str:
    counts = Counter(run.status for run in runs)
    return ", ".join(f"{count} {status}" for status, count in counts.items()) or "none was chosen"


def _joined(parts: list[tuple[str, str]]) -> str:
    """`digits: ...; lm: ...`, or one text when all workloads say the same. One line, whatever the records hold."""
    if len({text for _, text in parts}) == 1 and (len(parts) == 1 or wording.NOT_MEASURED in parts[0][1]):
        joined = parts[0][1] if len(parts) > 1 else f"{parts[0][0]}: {parts[0][1]}"
    else:
        joined = "; ".join(f"{workload}: {text}" for workload, text in parts)
    return " ".join(joined.split())
