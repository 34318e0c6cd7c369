"""What Slurm's accounting says of a study's jobs when they are over: one `sacct` call for all, kept beside the plan.

accounting.json holds, by run id: state, elapsed and queue time, nodes, energy with its scope. Where there is no
accounting, each figure is null and the reason stands beside it. A job that Slurm ended (time limit, memory,
preemption, cancellation, a lost node) and that could not write its own record gets one here.
"""

from __future__ import annotations

import datetime
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

from hpc_accel import record
from hpc_accel.files import read_json, write_json
from hpc_accel.jobs.diagnosis import MORE_MEMORY, MORE_TIME
from hpc_accel.jobs.energy_accounting import job_energy
from hpc_accel.record.parts import Error
from hpc_accel.study.slurm_time import seconds_of

FIELDS = (
    "JobIDRaw,State,ExitCode,Submit,Start,End,ElapsedRaw,NNodes,NodeList,Partition,ConsumedEnergyRaw,JobID,Suspended"
)
TIMEOUT_S = 30
AGAIN = "start it again: it continues from its last checkpoint"
ENDED_BY_SLURM = {
    "TIMEOUT": ("timeout", "the time limit came before the run was done", MORE_TIME),
    "OUT_OF_MEMORY": ("failed", "Slurm ended the job for using more memory than it had asked for", MORE_MEMORY),
    "PREEMPTED": ("preempted", "Slurm ended the job in favour of one of higher priority", AGAIN),
    "CANCELLED": ("cancelled", "the job was cancelled", "start it again when it is wanted"),
    "NODE_FAIL": ("failed", "a node of the job was lost", "start it again; Slurm keeps the node out meanwhile"),
}
"""State in Slurm's accounting -> status, message, remedy."""
WAITING = {"PENDING": "is in the queue again", "REQUEUED": "is in the queue again", "RUNNING": "runs again"}
"""What became of a job whose last attempt Slurm ended and took back."""


def collect(results: Path) -> dict[str, Any]:
    """Ask sacct for the jobs that the runs under `results` record, write accounting.json, and return it.

    Changes nothing when no run was a Slurm job.
    """
    jobs = {path.parent.name: last_job(path.parent) for path in sorted(results.glob("runs/*/.attempt"))}
    ids = {run_id: job["job_id"] for run_id, job in jobs.items() if job.get("job_id")}
    if not ids:
        return {}
    rows, reason = ask(sorted(set(ids.values())))
    sharing = Counter(ids.values())
    facts = {
        run_id: facts_of(rows.get(job_id), reason, jobs[run_id], num_runs=sharing[job_id])
        for run_id, job_id in ids.items()
    }
    path = results / "accounting.json"
    earlier = read_json(path)
    for run_id, known in (earlier.get("jobs") or {}).items():
        # An accounting that does not answer now takes nothing back of what it said of the same job.
        same = run_id in facts and known.get("job_id") == facts[run_id]["job_id"]
        if same and facts[run_id]["state"] is None and known.get("state"):
            facts[run_id] = known
    content = {"format": 1, "jobs": facts}
    if earlier != content:
        write_json(path, content)
    return content


def last_job(run_dir: Path) -> dict[str, Any]:
    """What the last attempt's script noted; only the job's id where it was killed before it could note more."""
    attempt, noted = run_dir / ".attempt", run_dir / "job.json"
    if noted.is_file() and noted.stat().st_mtime_ns >= attempt.stat().st_mtime_ns:
        return read_json(noted)
    return {"job_id": attempt.read_text().strip() or None}


def ask(job_ids: list[str]) -> tuple[dict[str, list[dict[str, str]]], str]:
    """sacct's rows of each job, the job itself first; and why there are none."""
    command = ["sacct", "--parsable2", "--duplicates", f"--jobs={','.join(job_ids)}", f"--format={FIELDS}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
    except FileNotFoundError:
        return {}, "there is no sacct here"
    except subprocess.SubprocessError as error:
        detail = (getattr(error, "stderr", "") or str(error)).strip().splitlines()
        return {}, f"sacct does not answer: {detail[-1] if detail else error}"
    return parse(done.stdout), "sacct knows no such job (its accounting lags some seconds behind)"


def parse(text: str) -> dict[str, list[dict[str, str]]]:
    """sacct's table by job id. Of a job that was restarted, the rows of its last attempt, and the state before it.

    The components of a heterogeneous job have ids of their own, and a name that begins with the first one's: 7+1.
    """
    lines = text.splitlines()
    keys = lines[0].split("|") if lines else []
    jobs: dict[str, list[dict[str, str]]] = {}
    for line in lines[1:]:
        row = dict.fromkeys(FIELDS.split(","), "") | dict(zip(keys, line.split("|"), strict=False))
        own_id = row["JobIDRaw"].partition(".")[0]
        if not own_id:
            continue
        first, plus, _ = row["JobID"].partition("+")
        job_id = first if plus else own_id
        if row["JobIDRaw"] == own_id:  # a new attempt begins
            before = [old["State"] for old in jobs.get(job_id, []) if old["JobIDRaw"] == own_id]
            row["Before"] = before[-1] if before else ""
            kept = [old for old in jobs.get(job_id, []) if old["JobIDRaw"].partition(".")[0] != own_id]
            jobs[job_id] = kept
        jobs.setdefault(job_id, []).append(row)
    for job_id, rows in jobs.items():
        rows.sort(key=lambda row: row["JobIDRaw"].partition(".")[0] != job_id)
    return jobs


def components(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """The rows of allocations among those of steps: one, or of a heterogeneous job one for each component."""
    return [row for row in rows if "." not in row["JobIDRaw"]]


def facts_of(
    rows: list[dict[str, str]] | None, reason: str, job: dict[str, Any], *, num_runs: int = 1
) -> dict[str, Any]:
    """One job's figures, in this project's units. `num_runs` took turns in it."""
    if not rows:
        return {"job_id": job.get("job_id"), "state": None, "state_reason": reason}
    head, parts = rows[0], components(rows)
    energy = job_energy(rows, is_exclusive=job.get("exclusive"), num_runs=num_runs)
    submit, start = _unix_s(head["Submit"]), _unix_s(head["Start"])
    # sacct writes "CANCELLED by 1000".
    state = head["State"].partition(" ")[0]
    sizes = [int(part["NNodes"]) for part in parts if part["NNodes"].isdecimal()]
    return {
        "job_id": head["JobIDRaw"],
        "state": state,
        "state_reason": None,
        "ended": _ended(state, head["ExitCode"], before=head.get("Before", "")),
        "exit_code": head["ExitCode"],
        "elapsed_s": int(head["ElapsedRaw"]) if head["ElapsedRaw"].isdecimal() else None,
        "suspended_s": seconds_of(head["Suspended"]),
        "queued_s": start - submit if start and submit else None,
        "started_unix_s": start,
        "num_runs": num_runs,
        "num_nodes": sum(sizes) if len(sizes) == len(parts) else None,
        "node_list": ",".join(part["NodeList"] for part in parts),
        "partition": ",".join(part["Partition"] for part in parts),
        "energy": {"window": energy.window, **energy.brief()},
    }


def _ended(state: str, exit_code: str, *, before: str) -> dict[str, str] | None:
    """Status, message and remedy when Slurm itself ended the job; None when it ended by itself.

    `before` is how the attempt before this one ended, of which a job in the queue still has the record.
    """
    cause = ENDED_BY_SLURM.get(before.partition(" ")[0])
    if state in WAITING and cause:
        return {"status": "preempted", "message": f"{cause[1]}; it {WAITING[state]}", "remedy": "wait for it"}
    # Without cgroups a job that takes too much memory is killed as a whole, and its state is FAILED, exit code 0:9.
    killed = state == "FAILED" and exit_code.endswith(":9")
    found = ENDED_BY_SLURM.get("OUT_OF_MEMORY" if killed else state)
    return dict(zip(("status", "message", "remedy"), found, strict=True)) if found else None


def complete_statuses(results: Path) -> list[str]:
    """Correct the records of runs that Slurm ended, whose own guess was a signal's; the ids of those changed."""
    changed = []
    for run_id, facts in collect(results).get("jobs", {}).items():
        path = results / "runs" / run_id / "summary.json"
        ended, summary = facts.get("ended"), record.read(path, run_id)
        if ended is None or isinstance(summary, record.Broken):
            continue
        if summary.status in {"completed", "wrong", ended["status"]}:
            continue
        error = Error(kind=facts["state"].lower(), message=ended["message"], remedy=ended["remedy"])
        record.write(path, summary.changed(status=ended["status"], error=error))
        changed.append(run_id)
    return changed


def _unix_s(text: str) -> float | None:
    try:
        return datetime.datetime.fromisoformat(text).timestamp()
    except ValueError:
        return None
