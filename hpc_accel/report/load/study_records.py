"""Loading a study's records: the runs its plan chose, with what each left behind or why it left nothing.

Reads plan.json, hardware.json and runs/<run_id>/{run.json,summary.json}. A missing or broken file never
stops the report: its run is listed as `missing`, and every dropped value is counted and said.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpc_accel.errors import DataError
from hpc_accel.record import Broken, Summary, read
from hpc_accel.record.parts import Error
from hpc_accel.record.summary import nothing_measured
from hpc_accel.report.load import safe_json
from hpc_accel.report.load.labels import layout_kind, layout_label, run_label, unique_labels
from hpc_accel.report.load.overlaps import with_overlaps
from hpc_accel.report.load.repeats import pooled
from hpc_accel.report.load.run_record import RunRecord
from hpc_accel.report.load.run_status import status_of
from hpc_accel.report.load.trainings import Training, trainings_of

MAX_SIZE = 10**6


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRecords:
    """Everything the report says, loaded."""

    study: str
    site: str
    objective: str
    cost_unit: str  # empty where the site names no price
    factors: dict[str, Any]  # the site's: carbon, electricity, power of a node; and what the study lets estimate
    directory: Path
    runs: tuple[RunRecord, ...]  # those that train
    inference_runs: tuple[RunRecord, ...]  # those that infer
    refused: tuple[dict[str, Any], ...]  # candidates that break a rule
    left_out: tuple[dict[str, Any], ...]  # candidates that work but were not chosen
    searches: tuple[dict[str, Any], ...]  # of each workload whose layouts were searched, what was gone through
    hardware: dict[str, Any]
    problems: tuple[str, ...]
    trainings: tuple[Training, ...] = ()  # to their end

    @property
    def measurements(self) -> tuple[RunRecord, ...]:
        """Every run that was started, repeats one by one."""
        return tuple(each for run in (*self.runs, *self.inference_runs) for each in (run.repeats or (run,)))

    @property
    def workloads(self) -> tuple[str, ...]:
        """Workload names in the plan's order."""
        return tuple(dict.fromkeys(run.workload for run in self.runs))

    @property
    def inference_workloads(self) -> tuple[str, ...]:
        """Names of the workloads with inference runs, in the plan's order."""
        return tuple(dict.fromkeys(run.workload for run in self.inference_runs))

    def inference_runs_of(self, workload: str) -> list[RunRecord]:
        """All inference runs of one workload."""
        return [run for run in self.inference_runs if run.workload == workload]

    def submit_command(self, run: RunRecord) -> str:
        """How to start a run again: its own script, by `sbatch`, or by `bash` where there is no cluster."""
        return f"{'bash' if self.site == 'local' else 'sbatch'} {shlex.quote(str(run.directory / 'job.sbatch'))}"

    def of(self, workload: str) -> list[RunRecord]:
        """All training runs of one workload."""
        return [run for run in self.runs if run.workload == workload]


def load(study_dir: Path) -> StudyRecords:
    """Load the records of a study. Raises DataError only when there is no readable plan."""
    plan, problem = safe_json.read_json(study_dir / "plan.json")
    if plan is None:
        raise DataError(
            f"{study_dir}: {problem}",
            "a report is made of the runs that the study's plan.json chose",
            f"make the plan first: hpc-accel plan studies/{study_dir.name}.yaml",
        )
    hardware, hardware_problem = safe_json.read_json(study_dir / "hardware.json")
    candidates = safe_json.items(plan, "candidates")
    study = safe_json.text(plan, "study") or safe_json.clean(study_dir.name)
    chosen = [item for item in candidates if item.get("chosen") is True]
    accounting, _ = safe_json.read_json(study_dir / "accounting.json")
    jobs = safe_json.mapping(accounting, "jobs")
    price = safe_json.positive(plan, "factors", "price_per_node_hour")
    # Where nodes differ each run has a price of its own, or null.
    chosen = [{"price_per_node_hour": price, **item} for item in chosen]
    loaded = with_overlaps({run.run_id: run for run in (_load_run(study_dir, study, item, jobs) for item in chosen)})
    return StudyRecords(
        study=study,
        site=safe_json.text(plan, "site") or "?",
        objective=safe_json.text(plan, "objective") or "time",
        cost_unit=safe_json.text(plan, "cost_unit") or "",
        directory=study_dir,
        factors=safe_json.mapping(plan, "factors"),
        runs=unique_labels(pooled([run for run in loaded.values() if not run.is_inference])),
        inference_runs=unique_labels([run for run in loaded.values() if run.is_inference]),
        refused=tuple(item for item in candidates if item.get("refused")),
        left_out=tuple(item for item in candidates if not item.get("refused") and item.get("chosen") is not True),
        searches=tuple(safe_json.items(plan, "searches")),
        hardware=hardware or {},
        problems=(hardware_problem,) if hardware_problem else (),
        trainings=trainings_of(study_dir),
    )


def _load_run(study_dir: Path, study: str, candidate: dict[str, Any], jobs: dict[str, Any]) -> RunRecord:
    run_id = safe_json.text(candidate, "run_id") or "?"
    layout = layout_label(safe_json.mapping(candidate, "layout"))
    directory = study_dir / "runs" / run_id
    run: dict[str, Any] = {}
    job: dict[str, Any] = {}
    problems: list[str] = []
    # A run_id is a file name; one that is not must not lead out of the study's directory.
    if "/" in run_id or run_id.startswith("."):
        directory = study_dir
        found: Summary | Broken = Broken(reason=f"{run_id!r} is no run id", is_absent=True)
    else:
        run, job, problem = _resolved(directory, run_id)
        problems += [problem] if problem else []
        found = read(directory / "summary.json", run_id)
    problems += [found.reason] if isinstance(found, Broken) else []
    accounting = safe_json.mapping(jobs, run_id)
    status, remedy = status_of(study, found)
    ended = safe_json.mapping(accounting, "ended")
    if isinstance(found, Broken) and ended:  # it was killed before it could write: Slurm's accounting says more
        status, remedy = safe_json.text(ended, "status") or status, safe_json.text(ended, "remedy") or remedy
        problems.append(f"{safe_json.text(ended, 'message')} (job {safe_json.text(accounting, 'job_id')})")
    return RunRecord(
        run_id=run_id,
        workload=safe_json.text(candidate, "workload") or safe_json.text(run, "workload", "name") or "?",
        label=run_label(layout, candidate),
        kind=layout_kind(safe_json.mapping(candidate, "layout")),
        status=status,
        remedy=remedy,
        directory=directory,
        candidate=candidate,
        run=run,
        summary=found if isinstance(found, Summary) else _stand_in(study, run_id, candidate, found, status),
        has_record=isinstance(found, Summary),
        job=job,
        accounting=accounting,
        problems=tuple(problems),
    )


def _resolved(directory: Path, run_id: str) -> tuple[dict[str, Any], dict[str, Any], str | None]:
    """run.json, job.json, and what is wrong with the first; empty where they cannot be read."""
    content, problem = safe_json.read_json(directory / "run.json")
    if content is not None and safe_json.text(content, "run_id") != run_id:
        content, problem = None, f"run.json belongs to run {safe_json.text(content, 'run_id')!r}: not used"
    return content or {}, safe_json.read_json(directory / "job.json")[0] or {}, problem


def _stand_in(study: str, run_id: str, candidate: dict[str, Any], broken: Broken, status: str) -> Summary:
    """For a run without a usable record: every figure is missing, because the run is."""
    dp, pp, tp = (_whole(candidate, "layout", key) for key in ("dp", "pp", "tp"))
    return nothing_measured(
        f"the run is {status}",
        run_id=run_id,
        study=study,
        site="?",
        mode="infer" if safe_json.mapping(candidate, "infer") else "train",
        status="failed",
        error=Error(kind="no record", message=broken.reason, remedy=broken.remedy),
        num_nodes=_whole(candidate, "resources", "num_nodes"),
        num_ranks=dp * pp * tp,
    )


def _whole(candidate: dict[str, Any], *path: str) -> int:
    """A size of the plan, at least 1; no larger than any machine, whatever stands there."""
    return int(min(max(safe_json.positive(candidate, *path) or 1, 1), MAX_SIZE))
