"""Loading a study's records: the runs its plan chose, with what each left behind or why it left nothing.

Reads plan.json, hardware.json and runs/<run_id>/{run.json,summary.json}. A missing or broken file never
stops the report: its run is listed as `missing`, and every dropped value is counted and said.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hpc_accel.errors import DataError
from hpc_accel.report import fields
from hpc_accel.study.layout import Layout
from hpc_accel.study.recipe import Recipe

STATUSES = ("completed", "wrong", "failed", "preempted", "hung", "timeout", "cancelled")
"""What summary.json may say; the report adds `missing` and `unchecked`."""

WRONG_REMEDY = "the losses are not those of the serial run: do not use this layout before they agree"
NO_ROOM_REMEDY = (
    "a run counts when its losses were compared with the serial run, which the device had no room for: compare a "
    "smaller model of the same kind, or run it where the device has more memory"
)
UNCHECKED_REMEDY = "a run counts when its losses were compared with the serial run: set measure.parity_steps to 5"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """One chosen run: what was planned, what was resolved, and its summary (empty when there is none)."""

    run_id: str
    workload: str
    label: str  # unique among the runs of its workload
    kind: str  # serial | data | tensor | pipeline | hybrid
    status: str
    remedy: str | None  # what to do when the run does not count
    directory: Path
    candidate: dict[str, Any]
    run: dict[str, Any]
    summary: dict[str, Any]
    job: dict[str, Any]  # what its last attempt's script noted
    accounting: dict[str, Any]  # what Slurm's books say of its job
    problems: tuple[str, ...] = ()
    repeats: tuple[RunRecord, ...] = ()  # where this record stands for several of one configuration: each of them

    @property
    def counts(self) -> bool:
        """Whether the run may be ranked: completed, and its losses are those of the serial run."""
        return self.status == "completed"

    @property
    def precision(self) -> str:
        """The recipe's precision."""
        return fields.text(self.part("recipe"), "precision") or "?"

    @property
    def num_ranks(self) -> int:
        """dp x pp x tp, as planned."""
        sizes = [fields.positive(self.part("layout"), key) or 1 for key in ("dp", "pp", "tp")]
        return int(sizes[0] * sizes[1] * sizes[2])

    @property
    def has_pipeline(self) -> bool:
        """Whether the layout has stages."""
        return (fields.number(self.part("layout"), "pp") or 1) > 1

    @property
    def serves(self) -> bool:
        """Whether this is an inference run; training and inference are never compared."""
        return bool(self.part("infer"))

    def part(self, key: str) -> dict[str, Any]:
        """`layout`, `recipe`, `resources` or `infer`: as run, else as planned."""
        return fields.mapping(self.run, key) or fields.mapping(self.candidate, key)


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
    served: tuple[RunRecord, ...]  # those that infer
    refused: tuple[dict[str, Any], ...]  # candidates that break a rule
    left_out: tuple[dict[str, Any], ...]  # candidates that work but were not chosen
    searches: tuple[dict[str, Any], ...]  # of each workload whose layouts were searched, what was gone through
    hardware: dict[str, Any]
    problems: tuple[str, ...]

    @property
    def measurements(self) -> tuple[RunRecord, ...]:
        """Every run that was started, repeats one by one."""
        return tuple(each for run in (*self.runs, *self.served) for each in (run.repeats or (run,)))

    @property
    def workloads(self) -> tuple[str, ...]:
        """Workload names in the plan's order."""
        return tuple(dict.fromkeys(run.workload for run in self.runs))

    @property
    def served_workloads(self) -> tuple[str, ...]:
        """Names of the workloads that serve, in the plan's order."""
        return tuple(dict.fromkeys(run.workload for run in self.served))

    def served_of(self, workload: str) -> list[RunRecord]:
        """All inference runs of one workload."""
        return [run for run in self.served if run.workload == workload]

    def submit_command(self, run: RunRecord) -> str:
        """How to start a run again: its own script, by `sbatch`, or by `bash` where there is no cluster."""
        return f"{'bash' if self.site == 'local' else 'sbatch'} {run.directory / 'job.sbatch'}"

    def of(self, workload: str) -> list[RunRecord]:
        """All training runs of one workload."""
        return [run for run in self.runs if run.workload == workload]


def load(study_dir: Path) -> StudyRecords:
    """Load the records of a study. Raises DataError only when there is no readable plan."""
    plan, problem = fields.read_json(study_dir / "plan.json")
    if plan is None:
        raise DataError(
            f"{study_dir}: {problem}",
            "a report is made of the runs that the study's plan.json chose",
            f"make the plan first: hpc-accel plan studies/{study_dir.name}.yaml",
        )
    hardware, hardware_problem = fields.read_json(study_dir / "hardware.json")
    candidates = fields.items(plan, "candidates")
    study = fields.text(plan, "study") or fields.clean(study_dir.name)
    chosen = [item for item in candidates if item.get("chosen") is True]
    books, _ = fields.read_json(study_dir / "accounting.json")
    jobs = fields.mapping(books, "jobs")
    price = fields.positive(plan, "factors", "price_per_node_hour")
    # Where nodes differ each run has a price of its own, or null.
    chosen = [{"price_per_node_hour": price, **item} for item in chosen]
    loaded = {run.run_id: run for run in (_load_run(study_dir, study, item, jobs) for item in chosen)}
    from hpc_accel.report.repeats import pooled

    return StudyRecords(
        study=study,
        site=fields.text(plan, "site") or "?",
        objective=fields.text(plan, "objective") or "time",
        cost_unit=fields.text(plan, "cost_unit") or "",
        directory=study_dir,
        factors=fields.mapping(plan, "factors"),
        runs=_unique_labels(pooled([run for run in loaded.values() if not run.serves])),
        served=_unique_labels([run for run in loaded.values() if run.serves]),
        refused=tuple(item for item in candidates if item.get("refused")),
        left_out=tuple(item for item in candidates if not item.get("refused") and item.get("chosen") is not True),
        searches=tuple(fields.items(plan, "searches")),
        hardware=hardware or {},
        problems=(hardware_problem,) if hardware_problem else (),
    )


def _load_run(study_dir: Path, study: str, candidate: dict[str, Any], jobs: dict[str, Any]) -> RunRecord:
    run_id = fields.text(candidate, "run_id") or "?"
    layout = layout_label(fields.mapping(candidate, "layout"))
    directory = study_dir / "runs" / run_id
    run: dict[str, Any] = {}
    summary: dict[str, Any] = {}
    job: dict[str, Any] = {}
    problems: list[str] = []
    # A run_id is a file name; one that is not must not lead out of the study's directory.
    if "/" in run_id or run_id.startswith("."):
        directory, problems = study_dir, [f"{run_id!r} is no run id"]
    else:
        for name in ("run.json", "summary.json"):
            content, problem = fields.read_json(directory / name)
            if content is not None and fields.text(content, "run_id") != run_id:
                content, problem = None, f"{name} belongs to run {fields.text(content, 'run_id')!r}: not used"
            if problem:
                problems.append(problem)
            run, summary = (content or {}, summary) if name == "run.json" else (run, content or {})
        job = fields.read_json(directory / "job.json")[0] or {}
    books = fields.mapping(jobs, run_id)
    status, remedy = _status(study, summary, problems)
    ended = fields.mapping(books, "ended")
    if not summary and ended:  # killed without a word: Slurm's books know more
        status, remedy = fields.text(ended, "status") or status, fields.text(ended, "remedy") or remedy
        problems.append(f"{fields.text(ended, 'message')} (job {fields.text(books, 'job_id')})")
    return RunRecord(
        run_id=run_id,
        workload=fields.text(candidate, "workload") or fields.text(run, "workload", "name") or "?",
        label=_label(layout, candidate),
        kind=_kind(fields.mapping(candidate, "layout")),
        status=status,
        remedy=remedy,
        directory=directory,
        candidate=candidate,
        run=run,
        summary=summary,
        job=job,
        accounting=books,
        problems=tuple(problems),
    )


def _status(study: str, summary: dict[str, Any], problems: list[str]) -> tuple[str, str | None]:
    """The status the report works with, and what to do about it. May add to `problems`."""
    again = (
        "read its log.txt, then run the workflow again, which continues where it stopped: "
        f"snakemake --cores all --config study=studies/{study}.yaml"
    )
    if not summary:
        return "missing", again
    status = fields.text(summary, "status")
    if status not in STATUSES:
        problems.append(f"status {status!r} is none of {', '.join(STATUSES)}")
        return "failed", again
    if status != "completed":
        default = WRONG_REMEDY if status == "wrong" else again
        return status, fields.text(summary, "error", "remedy") or default
    if fields.positive(summary, "step_time_ms", "median") is None:
        problems.append("step_time_ms is no number above 0")
        return "failed", again
    return _compared(summary)


def _compared(summary: dict[str, Any]) -> tuple[str, str | None]:
    """Whether a completed run computed the right thing, as far as that was looked at."""
    passed = fields.at(summary, "parity", "passed")
    if fields.positive(summary, "parity", "steps") is None or not isinstance(passed, bool):
        # Why it was not compared stands in the record: the study left it out, or the reference had no room.
        no_room = "memory" in (fields.text(summary, "parity", "reason") or "")
        return "unchecked", NO_ROOM_REMEDY if no_room else UNCHECKED_REMEDY
    return ("completed", None) if passed else ("wrong", WRONG_REMEDY)


def layout_label(layout: dict[str, Any]) -> str:
    """`serial`, `dp2.pp2.1f1b`; the sizes as they stand when they make no valid layout."""
    try:
        return Layout.model_validate(layout).label
    except ValidationError:
        sizes = [f"{key}{layout[key]}" for key in ("dp", "pp", "tp") if isinstance(layout.get(key), int | str)]
        return fields.clean(".".join(sizes) or "?")


def _label(layout: str, candidate: dict[str, Any]) -> str:
    precision = fields.text(candidate, "recipe", "precision") or "?"
    served = fields.positive(candidate, "infer", "batch_size")
    size = f"b{served:g}" if served else f"x{fields.number(candidate, 'layout', 'accumulation_steps') or 1:g}"
    label = " ".join([layout, precision, size, *_options(candidate)])
    repeat = fields.number(candidate, "repeat") or 1
    if served and repeat > 1:
        label = f"{label} repeat {repeat:g}"
    clocks = [
        f"{value:g} {unit}"
        for key, unit in (("gpu_freq_mhz", "MHz"), ("cpu_freq_khz", "kHz"), ("power_limit_w", "W"))
        if (value := fields.positive(candidate, "recipe", key))
    ]
    return " ".join([label, *clocks])


def _options(candidate: dict[str, Any]) -> list[str]:
    """What the recipe sets beside precision and clocks: int8, recompute, compression."""
    try:
        return Recipe.model_validate(fields.mapping(candidate, "recipe")).options
    except ValidationError:
        return []


def _kind(layout: dict[str, Any]) -> str:
    split = [key for key in ("dp", "tp", "pp") if (fields.number(layout, key) or 1) > 1]
    names = {"dp": "data", "tp": "tensor", "pp": "pipeline"}
    return "serial" if not split else names[split[0]] if len(split) == 1 else "hybrid"


def _unique_labels(runs: list[RunRecord]) -> tuple[RunRecord, ...]:
    """Add what tells equal labels apart (nodes, backend, batch, else the digest), only where it is needed."""
    twins: dict[tuple[str, str], list[RunRecord]] = {}
    for run in runs:
        twins.setdefault((run.workload, run.label), []).append(run)
    return tuple(_told_apart(run, twins[run.workload, run.label]) for run in runs)


def _told_apart(run: RunRecord, twins: list[RunRecord]) -> RunRecord:
    if len(twins) == 1:
        return run
    marks = {
        "nodes": lambda r: fields.number(r.part("resources"), "num_nodes"),
        "backend": lambda r: fields.text(r.run, "backend"),
        "samples": lambda r: fields.number(r.part("layout"), "micro_batch_size"),
    }
    for unit, value in marks.items():
        values = {value(twin) for twin in twins}
        if len(values) == len(twins) and None not in values:
            return replace(run, label=f"{run.label} {value(run)} {unit}".replace(" backend", ""))
    return replace(run, label=f"{run.label} #{run.run_id[-4:]}")
