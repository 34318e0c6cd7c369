"""The answer in five lines: best layout for time, for energy, for cost; speed-up over serial; what was not measured.

A sixth says what changed between the runs that are compared, where anything did.

A study with inference runs has a line for them, and only that line where nothing was trained.

Each line answers for every workload of the study. Two layouts are called different only when their intervals
do not overlap; energies of different scope or method are named apart, never compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hpc_accel.report.judge import footprint, inference, plausibility, quantities, ranking, reasons, wording
from hpc_accel.report.judge.differences import REMEDY, differences
from hpc_accel.report.judge.ranking import Best
from hpc_accel.report.load import safe_json
from hpc_accel.report.load.run_record import RunRecord
from hpc_accel.report.load.study_records import StudyRecords


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One of the five lines, in parts: a workload (empty: the whole study) and what is said of it."""

    title: str
    parts: tuple[tuple[str, str], ...]

    @property
    def text(self) -> str:
        """`Title:  digits: ...; lm: ...`. One line, whatever the records hold."""
        joined = "; ".join(f"{workload}: {text}" if workload else text for workload, text in self.parts)
        return f"{self.title + ':':<16} {' '.join(joined.split())}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the study found. `lines` go to answer.txt; `submit` has one command per workload."""

    details: tuple[Line, ...]
    winners: dict[str, str]  # workload -> run_id, for the study's objective
    for_inference: dict[str, str]  # workload -> run_id
    submit: tuple[str, ...]
    report: str
    num_runs: int
    num_ranked: int

    @property
    def lines(self) -> tuple[str, ...]:
        """The five lines."""
        return tuple(line.text for line in self.details)

    @property
    def text(self) -> str:
        """The five lines as one text."""
        return "\n".join(self.lines) + "\n"

    def to_json(self) -> dict[str, Any]:
        """For programs: the lines in parts, the winners' run ids, and the commands that run them."""
        lines = {
            line.title: [{"workload": name or None, "text": text} for name, text in line.parts] for line in self.details
        }
        return {
            "lines": lines,
            "winners": self.winners,
            "for_inference": self.for_inference,
            "submit": list(self.submit),
            "report": self.report,
            "num_runs": self.num_runs,
            "num_ranked": self.num_ranked,
        }


def answer(records: StudyRecords) -> Answer:
    """The answer of a study whose records were loaded."""
    winners = {name: run for name in records.workloads if (run := winner(records, name))}
    by_workload = {name: records.inference_runs_of(name) for name in records.inference_workloads}
    for_inference = {name: best.run for name, runs in by_workload.items() if (best := inference.best(runs))}
    trained = (
        Line(title="Best for time", parts=_per_workload(records, _time)),
        Line(title="Best for energy", parts=_per_workload(records, _energy)),
        Line(title="Best for cost", parts=_per_workload(records, _cost)),
        Line(title="Speed-up", parts=_per_workload(records, _speed_up)),
    )
    inferred = tuple(
        (name, inference.best_words(records.inference_runs_of(name))) for name in records.inference_workloads
    )
    runs = (*records.runs, *records.inference_runs)
    return Answer(
        details=(
            *(trained if records.runs or not inferred else ()),
            *((Line(title="Best inference", parts=inferred),) if inferred else ()),
            Line(title="Not measured", parts=_not_measured(records)),
            *_not_alike(records),
        ),
        winners={name: run.run_id for name, run in winners.items()},
        for_inference={name: run.run_id for name, run in for_inference.items()},
        submit=tuple(records.submit_command(run) for run in (*winners.values(), *for_inference.values())),
        report=str(records.directory / "report.html"),
        num_runs=len(runs),
        num_ranked=sum(run.counts for run in runs),
    )


def winner(records: StudyRecords, workload: str) -> RunRecord | None:
    """The run to use."""
    best = best_of(records, workload)
    return best.run if best else None


def best_of(records: StudyRecords, workload: str) -> Best | None:
    """The run to use: best for the study's objective where that was measured in one way, else for time."""
    runs = records.of(workload)
    best: Best | None = None
    if records.objective == "energy":
        groups = ranking.least_energy(runs)
        best = next(iter(groups.values())) if len(groups) == 1 else None
    elif records.objective == "cost":
        best = ranking.cheapest(runs)
    return best or ranking.fastest(runs)


def tie_words(best: Best) -> str:
    """` (a tie with ...)`, or nothing when the best stands alone."""
    return f" (a tie with {wording.named([run.label for run in best.ties])})" if best.ties else ""


Sentence = Callable[[StudyRecords, str, list[RunRecord]], str]


def _per_workload(records: StudyRecords, say: Sentence) -> tuple[tuple[str, str], ...]:
    """What is said of each workload; workloads whose figure is missing for the same reason share a part."""
    if not records.workloads:
        return (("", f"{wording.NOT_MEASURED}: the plan chose no run"),)
    sharing: dict[str, list[str]] = {}
    for name in records.workloads:
        text = say(records, name, records.of(name))
        # A measured figure is one workload's alone, even where two read the same.
        key = text if text.startswith(wording.NOT_MEASURED) else f"{text}\0{name}"
        sharing.setdefault(key, []).append(name)
    if len(sharing) == 1 and len(records.workloads) > 1:
        return (("", next(iter(sharing))),)
    return tuple((", ".join(names), key.partition("\0")[0]) for key, names in sharing.items())


def _time(records: StudyRecords, workload: str, runs: list[RunRecord]) -> str:
    best = ranking.fastest(runs)
    step = ranking.step_time_ms(best.run) if best else None
    if best is None or step is None:
        return f"no run counts ({_why_none(runs)})"
    return f"{best.run.label}, {wording.short(step.value)} ms/step{tie_words(best)}{_disturbed_words(runs)}"


def _disturbed_words(runs: list[RunRecord]) -> str:
    """How many of the runs that are compared were disturbed: whose turn was quiet may have decided their order."""
    counted = [run for run in runs if run.counts]
    num_disturbed = sum(map(plausibility.is_disturbed, counted))
    if not num_disturbed:
        return ""
    return (
        f" [{num_disturbed} of {wording.counted(len(counted), 'run')} disturbed by other processes: see the warnings]"
    )


def _energy(records: StudyRecords, workload: str, runs: list[RunRecord]) -> str:
    groups = ranking.least_energy(runs)
    found = [
        f"{best.run.label}, {wording.short(best.value.value)} J/sample ({scope}, {method}){tie_words(best)}"
        f"{_carbon_words(records, best)}"
        for (scope, method), best in groups.items()
    ]
    return ", not comparable with ".join(found) or _gap(records, runs, "energy") + _estimate_words(records, runs)


def _carbon_words(records: StudyRecords, best: Best) -> str:
    grams = footprint.per_million_samples(footprint.carbon_g(best.run, records.factors), best.run)
    return f", {wording.short(grams)} g CO2 a million samples" if grams is not None else ""


def _estimate_words(records: StudyRecords, runs: list[RunRecord]) -> str:
    """Only where the study asked, and never in the place of a measurement: named an estimate."""
    best = ranking.fastest(runs)
    estimate = footprint.estimate_j(best.run, records.factors) if best else None
    if best is None or estimate is None or estimate.value is None:
        return ""
    joules = (footprint.per_million_samples(estimate, best.run) or 0) / 1e6
    method = footprint.estimate_method(records.factors)
    return f" [{best.run.label}: {wording.short(joules)} J/sample {method}]"


def _cost(records: StudyRecords, workload: str, runs: list[RunRecord]) -> str:
    best = ranking.cheapest(runs)
    if best is None:
        return _gap(records, runs, "cost") + _electricity_words(records, ranking.fastest(runs), named=True)
    price = f"{wording.short(best.value.value * 1e6)} {records.cost_unit}".strip()
    return f"{best.run.label}, {price} per million samples{tie_words(best)}{_electricity_words(records, best)}"


def _electricity_words(records: StudyRecords, best: Best | None, *, named: bool = False) -> str:
    """Of a million samples of the best run; `named` where the line does not say which that is."""
    found = footprint.electricity_cost(best.run, records.factors) if best else None
    money = footprint.per_million_samples(found, best.run) if best and found else None
    if best is None or money is None:
        return ""
    currency = safe_json.text(records.factors, "currency") or ""
    name = f" of a million samples of {best.run.label}" if named else ""
    return f", electricity{name} {wording.short(money)} {currency}"


def _speed_up(records: StudyRecords, workload: str, runs: list[RunRecord]) -> str:
    best, baselines = ranking.fastest(runs), ranking.baselines(runs)
    gain = ranking.speed_up(best.run, baselines) if best else None
    if best is None:
        return wording.NOT_MEASURED
    if gain is None:
        why = ranking.no_baseline_words(best.run, ranking.serial_statuses(runs))
        return f"{wording.NOT_MEASURED} for {best.run.precision}: {why}"
    if best.run.kind == "serial":
        return "none, serial is the fastest"
    efficiency = wording.percent(gain.value / best.run.num_ranks)
    base = f"serial {best.run.precision}"
    spread = f" ({wording.short(gain.low)} to {wording.short(gain.high)})" if gain.high > gain.low else ""
    doubt = " (more than they can give: see the warnings)" if plausibility.exceeds_ranks(best.run, baselines) else ""
    ranks = f"{best.run.num_ranks} ranks"
    return f"{wording.short(gain.value)}x{spread} over {base} on {ranks}, {efficiency} of ideal{doubt}"


def _not_measured(records: StudyRecords) -> tuple[tuple[str, str], ...]:
    parts = []
    for status in ("wrong", "failed", "preempted", "hung", "timeout", "cancelled", "missing", "unchecked"):
        runs = [run for run in (*records.runs, *records.inference_runs) if run.status == status]
        if runs:
            names = wording.named([f"{run.workload} {run.label}" for run in runs], most=1)
            parts.append(f"{wording.counted(len(runs), 'run')} {status} ({names})")
    every = (*records.runs, *records.inference_runs)
    lost = [each for run in every if run.counts for each in run.repeats if not each.counts]
    if lost:
        names = wording.named([f"{each.workload} {each.label} {each.status}" for each in lost], most=1)
        parts.append(f"{wording.counted(len(lost), 'repeat')} of runs that count ({names})")
    unknown = [reason for run in records.inference_runs if run.counts and (reason := quantities.ENERGY.reason(run))]
    if unknown and not any(run.counts for run in records.runs):
        parts.append(f"energy per request ({unknown[0]})")
    for gap in reasons.gaps(records):
        # Energy and cost have a line of their own when nothing of them was measured.
        whole = gap.num_runs == gap.of_runs and gap.quantity in ("energy", "cost")
        extent = "" if gap.num_runs == gap.of_runs else f" of {gap.num_runs} of {wording.counted(gap.of_runs, 'run')}"
        parts.append(gap.quantity + extent + (" (see above)" if whole else f" ({gap.reason})"))
    return tuple(("", part) for part in parts) or (("", "nothing: every run was measured in full"),)


def _not_alike(records: StudyRecords) -> tuple[Line, ...]:
    found = differences(records)
    if not found:
        return ()
    parts = tuple((each.workload, each.text) for each in found)
    return (Line(title="Not alike", parts=(*parts, ("", REMEDY))),)


def _gap(records: StudyRecords, runs: list[RunRecord], quantity: str) -> str:
    found = [gap for gap in reasons.gaps(records, runs) if gap.quantity == quantity]
    if found:
        return f"{wording.NOT_MEASURED}: {found[0].reason}; {found[0].remedy}"
    partial = any(run.counts and ranking.energy_is_partial(run) for run in runs)
    why = "some devices were not covered, so totals are partial" if partial else f"no run counts ({_why_none(runs)})"
    return f"{wording.NOT_MEASURED}: {why}"


def _why_none(runs: list[RunRecord]) -> str:
    counts = Counter(run.status for run in runs)
    return ", ".join(f"{count} {status}" for status, count in counts.items()) or "none was chosen"
