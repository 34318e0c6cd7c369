"""A results directory reduced to what is compared; everything comes from records, nothing is measured again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hpc_accel.compare import autocorrelation
from hpc_accel.compare.side import STEP_TIME, Configuration, Repeat, Side
from hpc_accel.report.judge import inference, ranking
from hpc_accel.report.judge.differences import facts_of
from hpc_accel.report.load import safe_json
from hpc_accel.report.load.repeats import slowest_ms
from hpc_accel.report.load.run_record import RunRecord
from hpc_accel.report.load.study_records import StudyRecords, load
from hpc_accel.study.base import StrictModel
from hpc_accel.study.infer_options import Infer
from hpc_accel.study.layout import Layout
from hpc_accel.study.recipe import Recipe
from hpc_accel.study.run import Resources, WorkloadSpec

NOT_COMPUTED = {
    "workload": {"sources"},
    "resources": {"partition", "memory_mb", "time_limit_min", "sbatch_options"},
}
"""Keys that say how a run is queued, or of what it was made, and not what it computes on how many ranks."""
PARTS: dict[str, type[StrictModel]] = {
    "workload": WorkloadSpec,
    "layout": Layout,
    "recipe": Recipe,
    "resources": Resources,
    "infer": Infer,
}
DIGITS = 12
"""Of a figure in a file: more are noise, and make a baseline in git longer."""


def side_of(directory: Path) -> Side:
    """The study in a results directory. Raises DataError without a readable plan.json."""
    records = load(directory)
    groups: dict[str, list[RunRecord]] = {}
    workloads = _workloads(records)
    for run in records.measurements:
        key = json.dumps(computes(run, workloads.get(run.workload)), sort_keys=True)
        groups.setdefault(key, []).append(run)
    labels = {each.run_id: run.label for run in records.runs for each in (run.repeats or (run,))}
    counting = [run for run in records.measurements if run.counts]
    times = sorted(filter(None, (run.summary.started_utc for run in counting)))
    return Side(
        study=records.study,
        site=records.site,
        measured_from_utc=times[0] if times else "",
        measured_to_utc=max((run.summary.ended_utc for run in counting), default=""),
        facts=_facts(records, counting),
        configurations=tuple(_configuration(json.loads(key), runs, labels) for key, runs in groups.items()),
    )


def _workloads(records: StudyRecords) -> dict[str, dict[str, Any]]:
    """Each workload by name as one of its runs has it: the plan has only the name, and a run may have left nothing."""
    specs = ((run.workload, safe_json.mapping(run.run, "workload")) for run in records.measurements)
    return {workload: spec for workload, spec in specs if spec}


def computes(run: RunRecord, workload: dict[str, Any] | None = None) -> dict[str, Any]:
    """What a run computes and on what: only what is not default, so that a new option changes no old run.

    `workload` stands in for that of a run that left no run.json.
    """
    content = run.run or safe_json.mapping(run.candidate, "run")
    found = {}
    for part, model in PARTS.items():
        raw = safe_json.mapping(content, part) or safe_json.mapping(run.candidate, part)
        raw = raw or (workload or {"name": run.workload} if part == "workload" else {})
        try:
            kept = model.model_validate(raw).model_dump(mode="json", exclude_defaults=True) if raw else {}
        except ValidationError:
            kept = raw  # of another version: compared as it stands
        kept = {key: value for key, value in kept.items() if key not in NOT_COMPUTED.get(part, ())}
        for kind in kept.get("node_kinds") or ():
            for key in NOT_COMPUTED["resources"] & set(kind):
                del kind[key]
        if kept:
            found[part] = kept
    return found


def _configuration(content: dict[str, Any], runs: list[RunRecord], labels: dict[str, str]) -> Configuration:
    counting, bad = [run for run in runs if run.counts], [run for run in runs if not run.counts]
    wrong = [run for run in bad if run.status == "wrong"]
    problem = ""
    if wrong or not counting:
        worst = (wrong or bad)[0]
        error = worst.summary.error
        problem = f"it is {worst.status}" + (f": {error.message.splitlines()[0]}" if error and error.message else "")
    bases = {" by ".join(ranking.energy_basis(run)) for run in counting if not ranking.energy_is_partial(run)}
    return Configuration(
        workload=runs[0].workload,
        label=labels.get(runs[0].run_id, runs[0].label),
        computes=content,
        energy_basis=bases.pop() if len(bases) == 1 else "",
        repeats=() if problem else tuple(_repeat(run) for run in counting),
        problem=problem,
    )


def _repeat(run: RunRecord) -> Repeat:
    steps = slowest_ms(run.directory / "steps.parquet")
    time = autocorrelation.integrated_time(steps)
    error = autocorrelation.log_error(steps, time)
    rates = inference.rates(run)
    figures = {
        STEP_TIME: run.summary.step_time_ms.positive,
        "energy_per_sample_j": None if ranking.energy_is_partial(run) else ranking.energy_per_sample_j(run),
        "peak_memory_bytes": run.summary.memory.peak_memory_bytes.positive,
        "latency_p99_ms": rates[-1].latency_ms.p99.positive if rates else None,
    }
    return Repeat(
        run_id=run.run_id,
        figures={name: _rounded(value) for name, value in figures.items() if value is not None},
        num_steps=run.num_timed,
        log_error=None if error is None else _rounded(error.value),
        is_least_error=error is not None and error.is_least,
        steps_per_value=_rounded(time),
        others_share=run.summary.disturbance.others_share.value,
    )


def _rounded(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _facts(records: StudyRecords, runs: list[RunRecord]) -> dict[str, tuple[str, ...]]:
    found: dict[str, dict[str, None]] = {"site": {records.site: None}}
    for run in runs:
        for name, value in (*facts_of(run).items(), *_settings(run).items()):
            if value:
                found.setdefault(name, {})[value] = None
    return {name: tuple(sorted(values)) for name, values in found.items()}


def _settings(run: RunRecord) -> dict[str, str]:
    """What else may make two studies differ that compute the same."""
    content = run.run or safe_json.mapping(run.candidate, "run")
    known = run.summary.provenance
    found = {
        "host": ", ".join(run.summary.hosts),
        "device": run.summary.device_name or run.summary.device or "",
        "backend": safe_json.text(content, "backend") or "",
        "seed": _text(content.get("seed")),
        "threads per rank": _text(run.summary.num_threads_per_rank),
        "kernel": _text(known.get("kernel")),
    }
    measure = safe_json.mapping(content, "measure")
    found |= {f"measure.{key}": _text(measure.get(key)) for key in ("warmup_steps", "steps")}
    variables = safe_json.mapping(known, "environment")
    return found | {name: _text(value) for name, value in variables.items() if name != "SLURM_JOB_ID"}


def _text(value: object) -> str:
    return "" if value is None else safe_json.clean(str(value))
