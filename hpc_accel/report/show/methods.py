"""methods.md: what the methods section of a paper needs, as Markdown; every word of it comes from records.

Where runs differ, each value stands with the number of runs that have it. What no record says is not mentioned, or said
to be unknown.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable

from hpc_accel.report.judge import ranking, wording
from hpc_accel.report.judge.differences import LIBRARIES, PACKAGES
from hpc_accel.report.load import safe_json
from hpc_accel.report.load.run_record import RunRecord
from hpc_accel.report.load.study_records import StudyRecords
from hpc_accel.report.show import hardware_tables

TITLES = {"hpc_accel": "hpc-accel", "python": "Python", **LIBRARIES, "kernel": "Linux kernel", "container": "container"}
NOT_COUNTED = ("completed", "missing")
DIFFER = (
    "Two configurations are called different only where their 95 % intervals do not overlap. The interval of a ratio, "
    "such as a speed-up, adds both sides' relative errors in quadrature on the logarithm."
)


def render(records: StudyRecords) -> str:
    """The whole file."""
    runs = [run for run in records.measurements if run.has_record]
    sections = [
        ("Runs", _runs(records)),
        ("Hardware", _hardware(records, runs)),
        ("Software", _software(runs)),
        ("Models and data", _workloads(records)),
        ("Layouts and recipes", _layouts(records)),
        ("Procedure", _procedure(records, runs)),
        ("Statistics", _statistics(records, runs)),
        ("Parity", _parity(runs)),
        ("Energy", _energy(runs)),
    ]
    lines = [f"# Methods: study {_plain(records.study)}", ""]
    lines += ["This text is made of the records that the runs left; `summary.csv` beside it has the results.", ""]
    for title, section in sections:
        lines += [f"## {title}", "", *(section or ["No record says anything of this."]), ""]
    return "\n".join(lines)


def _plain(text: object) -> str:
    """Text of others, which is no Markdown."""
    cleaned = " ".join(safe_json.clean(str(text)).split())
    return "".join(f"\\{letter}" if letter in "\\`*_[]<>#|" else letter for letter in cleaned)


def _shares(runs: Iterable[RunRecord], value: Callable[[RunRecord], object]) -> str:
    """A value, or each with its number of runs; empty where nobody knows it."""
    counts = Counter(_plain(found) for run in runs if (found := value(run)) not in (None, "", (), {}))
    if len(counts) == 1:
        return next(iter(counts))
    return ", ".join(f"{text} ({wording.counted(count, 'run')})" for text, count in counts.most_common())


def _fact(*path: str) -> Callable[[RunRecord], object]:
    """Reads it from a run's provenance."""
    return lambda run: safe_json.at(run.summary.provenance, *path)


def _item(name: str, text: str) -> list[str]:
    return [f"- {name}: {text}"] if text else []


def _runs(records: StudyRecords) -> list[str]:
    statuses = Counter(run.status for run in records.measurements)
    told = ", ".join(f"{count} {status}" for status, count in statuses.most_common())
    ended = [run for run in records.measurements if run.has_record and run.summary.ended_utc]
    lines = [f"- {wording.counted(len(records.measurements), 'run')} at site {_plain(records.site)}: {told}"]
    if ended:
        first = min(run.summary.started_utc or run.summary.ended_utc for run in ended)
        lines.append(f"- measured from {_plain(first)} to {_plain(max(run.summary.ended_utc for run in ended))} (UTC)")
    lines.append("- only completed runs are ranked: those that compute what the serial run computes (see Parity)")
    for run in records.measurements:
        if run.status not in NOT_COUNTED:
            error = run.summary.error.message.splitlines() if run.summary.error and run.summary.error.message else []
            why = f": {_plain(error[0])}" if error else ""
            lines.append(f"- left out: {_plain(run.workload)} {_plain(run.label)}, {run.status}{why}")
    return lines


def _hardware(records: StudyRecords, runs: list[RunRecord]) -> list[str]:
    lines = _item("processor", _shares(runs, _fact("cpu")))
    lines += _item("CPUs of a node", _shares(runs, _fact("num_cpus")))
    lines += _item("device of the ranks", _shares(runs, lambda run: run.summary.device_name))
    lines += _item("nodes", _shares(runs, lambda run: ", ".join(run.summary.hosts)))
    lines += _item("MPI ranks", _shares(runs, lambda run: run.summary.num_ranks))
    lines += _item("threads per rank", _shares(runs, lambda run: run.summary.num_threads_per_rank))
    probed = [f"- probed, {_plain(name)}: {_plain(value)}" for name, value in hardware_tables.rows(records.hardware)]
    return lines + (probed if records.hardware else [])


def _software(runs: list[RunRecord]) -> list[str]:
    lines: list[str] = []
    for key in (*PACKAGES, *LIBRARIES, "kernel", "container"):
        lines += _item(TITLES.get(key, key), _shares(runs, _fact(key)))
    lines += _item("commit of hpc-accel", _shares(runs, _fact("git")))
    lines += _item("backend of torch.distributed", _shares(runs, lambda run: safe_json.text(run.run, "backend")))
    names = {name for run in runs for name in safe_json.mapping(run.summary.provenance, "environment")}
    for name in sorted(names - {"SLURM_JOB_ID"}):
        lines += _item(f"environment {_plain(name)}", _shares(runs, _fact("environment", name)))
    return lines


def _workloads(records: StudyRecords) -> list[str]:
    lines: list[str] = []
    for name in dict.fromkeys(run.workload for run in records.measurements):
        runs = [run for run in records.measurements if run.workload == name]
        specification = next((found for run in runs if (found := safe_json.mapping(run.run, "workload"))), {})
        lines.append(f"- **{_plain(name)}**")
        lines += [f"  {line}" for line in _workload(specification, runs)]
    return lines


def _workload(specification: dict[str, object], runs: list[RunRecord]) -> list[str]:
    lines = _item("built by", _plain(specification.get("entry") or ""))
    arguments = safe_json.mapping(specification, "args")
    lines += _item("arguments", _plain(json.dumps(arguments, sort_keys=True)) if arguments else "")
    lines += _item("global batch", f"{_shares(runs, ranking.global_batch_size)} samples")
    optimizer = safe_json.mapping(specification, "optimizer")
    lines += _item("optimizer", _plain(json.dumps(optimizer, sort_keys=True)) if optimizer else "")
    lines += _item("samples of an epoch", _shares(runs, _samples_per_epoch))
    lines += _item("FLOPs of a step", _shares(runs, lambda run: run.summary.flops.per_step.value))
    lines += _item("FLOPs counted on", _shares(runs, lambda run: run.summary.flops.counted_on))
    lines += _item("seed", _shares(runs, lambda run: safe_json.number(run.run, "seed")))
    for path, digest in safe_json.mapping(specification, "sources").items():
        lines.append(f"- file {_plain(path)}: digest {_plain(digest)}")
    return lines


def _samples_per_epoch(run: RunRecord) -> object:
    return run.summary.steps.samples_per_epoch.value if run.summary.steps else None


def _layouts(records: StudyRecords) -> list[str]:
    lines = []
    for run in (*records.runs, *records.inference_runs):
        repeats = f", {len(run.repeats)} repeats" if run.repeats else ""
        nodes = wording.counted(run.summary.num_nodes, "node")
        ranks = wording.counted(run.num_ranks, "rank")
        lines.append(f"- {_plain(run.workload)}: {_plain(run.label)} on {nodes}, {ranks}{repeats}")
    if records.refused:
        lines.append(f"- {wording.counted(len(records.refused), 'candidate')} refused by a rule; plan.json names each")
    if records.left_out:
        lines.append(f"- {wording.counted(len(records.left_out), 'candidate')} predicted and not measured")
    return lines


def _procedure(records: StudyRecords, runs: list[RunRecord]) -> list[str]:
    timed = [run for run in runs if run.summary.steps]
    lines = _item("warm-up steps left out", _shares(timed, lambda run: run.summary.steps.num_warmup))  # type: ignore[union-attr]
    lines += _item("timed steps of each run", _shares(timed, lambda run: run.num_timed))
    repeats = Counter(len(run.repeats) or 1 for run in (*records.runs, *records.inference_runs))
    told = ", ".join(f"{number} ({wording.counted(count, 'configuration')})" for number, count in repeats.items())
    lines += _item("measurements of each configuration", told)
    outliers = sum(run.summary.steps.outliers.count for run in timed if run.summary.steps)
    rule = _shares(timed, lambda run: run.summary.steps.outliers.rule)  # type: ignore[union-attr]
    if timed:
        lines.append(f"- outliers: {outliers} timed steps, counted and kept" + (f" ({rule})" if rule else ""))
    shares = [share for run in runs if (share := run.summary.disturbance.others_share.value) is not None]
    if shares:
        lines.append(
            f"- CPUs of the runs used by others while steps were timed: at most {wording.percent(max(shares))}"
        )
    return lines


def _statistics(records: StudyRecords, runs: list[RunRecord]) -> list[str]:
    pooled = [run for run in (*records.runs, *records.inference_runs) if run.repeats]
    lines = _item("step time", _shares([*runs, *pooled], lambda run: run.summary.step_time_ms.method))
    return [*lines, f"- {DIFFER}"] if lines else []


def _parity(runs: list[RunRecord]) -> list[str]:
    compared = [run for run in runs if run.summary.parity.steps]
    lines = _item("compared with", _shares(compared, lambda run: run.summary.parity.reference))
    lines += _item("steps (samples of inference) compared", _shares(compared, lambda run: run.summary.parity.steps))
    lines += _item("largest relative error allowed", _shares(compared, lambda run: run.summary.parity.tolerance))
    errors = [run.summary.parity.max_rel_err for run in compared if run.counts]
    known = [error for error in errors if error is not None]
    if known:
        lines.append(f"- largest relative error of a run that counts: {wording.error(max(known))}")
    without = len(runs) - len(compared)
    return lines + ([f"- not compared: {wording.counted(without, 'run')}"] if without else [])


def _energy(runs: list[RunRecord]) -> list[str]:
    measured = [run for run in runs if run.summary.energy.energy_j]
    if not measured:
        return _item("not measured", _shares(runs, lambda run: run.summary.energy.reason))
    lines = _item("method", _shares(measured, lambda run: run.summary.energy.method))
    lines += _item("scope", _shares(measured, lambda run: run.summary.energy.scope))
    sensors = _shares(
        measured, lambda run: ", ".join(sorted({s.source for s in run.summary.energy.sensors if s.is_counted}))
    )
    lines += _item("sensors counted", sensors)
    lines += _item("resolution in s", _shares(measured, lambda run: run.summary.energy.resolution_s.value))
    lines.append("- gross energy of the timed steps; energies of different scope or method are not compared")
    partial = [run for run in measured if ranking.energy_is_partial(run)]
    lines += [f"- partial, and not ranked: {wording.counted(len(partial), 'run')}"] if partial else []
    without = len(runs) - len(measured)
    return lines + ([f"- not measured: {wording.counted(without, 'run')}"] if without else [])
