"""Which measured run is trained to its end: the best for an objective, or the one that is named."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from hpc_accel.errors import ConfigError
from hpc_accel.report.judge import ranking
from hpc_accel.report.judge.answer import winner
from hpc_accel.report.load.run_record import RunRecord
from hpc_accel.report.load.study_records import StudyRecords, load
from hpc_accel.study.run import Objective, Run
from hpc_accel.study.run_file import read_run

RULE = "what is trained to its end was measured, and computes what the serial run computes"


def choose(
    results: Path, *, run: str | None, objective: Objective | None, workload: str | None
) -> tuple[Run, RunRecord]:
    """The run and what was measured of it. Raises DataError without a plan, ConfigError where there is no such run."""
    records = load(results)
    found = _named(records, run) if run is not None else _best(records, objective, _workload(records, workload))
    if run is not None and workload is not None and found.workload != workload:
        raise ConfigError(
            f"run {run} of workload {found.workload}", f"workload is {workload}", "leave one of the two out"
        )
    one = found.repeats[0] if found.repeats else found
    return read_run(one.directory / "run.json"), found


def _named(records: StudyRecords, name: str) -> RunRecord:
    every = [*records.runs, *(each for run in records.runs for each in run.repeats)]
    found = next((each for each in every if each.run_id == name), None)
    if found is None:
        known = ", ".join(each.run_id for each in records.runs[:8])
        served = any(each.run_id == name for each in records.inference_runs)
        raise ConfigError(
            f"run {name!r}",
            "an inference run trains nothing" if served else f"{records.directory} has no such run",
            f"name one of its training runs: {known}",
        )
    if not found.counts:
        why = found.remedy or "see its row in the report"
        raise ConfigError(f"run {name} is {found.status}", RULE, f"choose another, or measure it again: {why}")
    return found


def _workload(records: StudyRecords, name: str | None) -> str:
    known = records.workloads
    if name is not None and name not in known:
        raise ConfigError(
            f"workload {name!r}", f"the study trains {', '.join(known) or 'none'}", "name one of them: --workload"
        )
    if name is None and len(known) != 1:
        value = (
            f"{len(known)} workloads in {records.directory}: {', '.join(known)}" if known else f"{records.directory}"
        )
        rule = "one model is trained at a time" if known else "a study that trains nothing has no layout to train in"
        raise ConfigError(value, rule, "name one of them: --workload" if known else "give it layouts and train: true")
    return name or known[0]


def _best(records: StudyRecords, objective: Objective | None, workload: str) -> RunRecord:
    runs = records.of(workload)
    if not any(run.counts for run in runs):
        states = ", ".join(sorted({f"{run.label}: {run.status}" for run in runs}))
        raise ConfigError(
            f"{workload}: no run of {len(runs)} can be used ({states})",
            RULE,
            "start the workflow, which measures them, or read in the report why they do not count",
        )
    if objective == "energy" and len(ranking.least_energy(runs)) != 1:
        why = "was measured in more than one way" if ranking.least_energy(runs) else "was not measured"
        raise ConfigError(
            f"--objective energy: {workload}'s energy {why}", "the best is the least of one measure", AGAIN
        )
    if objective == "cost" and ranking.cheapest(runs) is None:
        raise ConfigError(
            f"--objective cost: {workload} has no price",
            "cost is the site's price for the time measured",
            "write price_per_node_hour into the site file, or choose --objective time",
        )
    found = winner(replace(records, objective=objective or records.objective), workload)
    assert found is not None
    return found


AGAIN = "choose --objective time, or see in the report why there is no energy"
