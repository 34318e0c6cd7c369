"""Why an attempt ended without a result, in the report's words: status, message, remedy."""

from __future__ import annotations

import re
import signal
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpc_accel.files import read_json
from hpc_accel.jobs import allocation

if TYPE_CHECKING:
    from hpc_accel.record.parts import Status

MORE_TIME = "raise resources.time_limit_min in the study"
MORE_MEMORY = "raise resources.memory_mb in the study, or choose a layout with more ranks or a smaller micro-batch"
SEE_LOG = "the cause stands in log.txt beside summary.json"


@dataclass(frozen=True, kw_only=True)
class Failure:
    """How an attempt ended. `exit_code` is what the script should end with."""

    status: Status
    kind: str
    message: str
    remedy: str
    exit_code: int
    rank: int | None = None
    """The rank whose error came first, where one told its error."""

    @classmethod
    def without_record(cls) -> Failure:
        """The launcher reported success, but no rank left a summary of this attempt."""
        message = "the launcher ended with exit code 0 but this attempt left no summary"
        return cls(status="failed", kind="no record", message=message, remedy=SEE_LOG, exit_code=70)


def lost_node(host: str) -> Failure:
    """The launcher lost one of its nodes: another attempt, on other nodes, may succeed."""
    message = f"node {host} was lost: it died, or its network did"
    remedy = f"start it again: it continues from its last checkpoint; ask what happened to {host}"
    return Failure(status="failed", kind="lost node", message=message, remedy=remedy, exit_code=75)


def diagnose(exit_code: int, asked_to_stop: str, job_id: str | None) -> Failure:
    """The failure behind a launcher's exit code and the signal that the script had got before."""
    if exit_code == 75:
        status: Status = "preempted" if asked_to_stop else "failed"
        message = "stopped after a warning signal; it can be continued" if asked_to_stop else "hung or lost a peer"
        remedy = "start it again: it continues from its last checkpoint"
        return Failure(status=status, kind="retryable", message=message, remedy=remedy, exit_code=75)
    if asked_to_stop:
        return _stopped(exit_code, asked_to_stop, job_id)
    number = exit_code - 128 if exit_code > 128 else exit_code if exit_code in {6, 9, 11} else 0
    if number == signal.SIGKILL:
        message = "a rank was killed (SIGKILL), most often because the node ran out of memory"
        return Failure(status="failed", kind="killed", message=message, remedy=MORE_MEMORY, exit_code=137)
    if 0 < number < 65:
        message = f"a rank was killed by {signal.Signals(number).name}"
        return Failure(status="failed", kind="killed", message=message, remedy=SEE_LOG, exit_code=128 + number)
    message = f"the launcher ended with exit code {exit_code}"
    return Failure(status="failed", kind="exit code", message=message, remedy=SEE_LOG, exit_code=exit_code)


def told_by_ranks(failure: Failure, run_dir: Path, since_unix_s: float) -> Failure:
    """`failure` with the first error that a rank of this attempt left in error.rank<k>.json: the others follow from it.

    How the job was stopped from outside explains itself, and stays.
    """
    told = _fresh(run_dir, "error.rank*.json", since_unix_s)
    known = [each for each in told if isinstance(each.get("time_ns"), int) and each.get("message") is not None]
    if failure.kind not in ("exit code", "no record") or not known:
        return failure
    # Of NaN the first step counts: it spreads with gradients, and a rank that got it may tell it first.
    first = min(known, key=lambda each: (each.get("step") or 0, each["time_ns"]))
    lines = str(first["message"]).splitlines() or [""]
    where = f" ({first['where']})" if first.get("where") else ""
    return replace(
        failure,
        kind=str(first.get("kind")),
        message=f"rank {first.get('rank')}: {first.get('kind')}: {lines[0]}{where}",
        remedy=str(first.get("remedy") or SEE_LOG),
        rank=first["rank"] if isinstance(first.get("rank"), int) else None,
    )


def told_by_hang(failure: Failure, run_dir: Path, since_unix_s: float) -> Failure:
    """`failure` with what ranks wrote of a hang (hang.rank<k>.json) or of a crash in C (stacks.rank<k>.txt)."""
    told = [each for each in _fresh(run_dir, "hang.rank*.json", since_unix_s) if isinstance(each.get("rank"), int)]
    if not told or failure.status == "cancelled":
        return _crashed(failure, run_dir, since_unix_s) if failure.kind == "killed" else failure
    hosts = [str(host) for host in told[0].get("host_of_rank") or []]
    silent = sorted(set(range(len(hosts))) - {each["rank"] for each in told})
    absent = silent or sorted(each["rank"] for each in told if not each.get("waits_in")) or [told[0]["rank"]]
    first = next((each for each in told if each["rank"] in absent), told[0])
    waiting = sorted({str(what) for each in told if each["rank"] not in absent for what in each.get("waits_in") or []})
    where = _innermost(run_dir / f"stacks.rank{absent[0]}.txt")
    on_host = f" on {hosts[absent[0]]}" if len(set(hosts)) > 1 else ""
    message = f"rank {absent[0]}{on_host} hung in {first.get('phase')} {first.get('step')}"
    message += f": no end in {first.get('limit_s')} s"
    message += f", at {where}" if where else ", and it could not write its stack: stopped, or its node is gone"
    message += f"; others waited in {', '.join(waiting)}" if waiting else ""
    remedy = "read stacks.rank*.txt beside summary.json; raise measure.hang_after_s if that rank was only slow"
    remedy += f"; look at {hosts[absent[0]]} and its network" if on_host else ""
    return Failure(status="hung", kind="hung", message=message, remedy=remedy, exit_code=75, rank=absent[0])


def _crashed(failure: Failure, run_dir: Path, since_unix_s: float) -> Failure:
    """Where a rank's native crash happened, as Python's fault handler wrote it."""
    for path in sorted(run_dir.glob("stacks.rank*.txt")):
        if path.stat().st_mtime >= since_unix_s and path.read_text(errors="replace").startswith("Fatal Python error"):
            rank, where = path.name.split(".")[1].removeprefix("rank"), _innermost(path)
            message = f"rank {rank}: {failure.message.removeprefix('a rank ')} at {where}; see {path.name}"
            return replace(failure, message=message, rank=int(rank) if rank.isdigit() else None)
    return failure


def _fresh(run_dir: Path, pattern: str, since_unix_s: float) -> list[dict[str, Any]]:
    return [read_json(path) for path in run_dir.glob(pattern) if path.stat().st_mtime >= since_unix_s]


def _innermost(path: Path) -> str:
    """`file:line in function` of a file of stacks: the user's innermost frame, else the innermost one; "" without any.

    Of a crash the current thread is meant, of a hang the main thread, which comes last.
    """
    from hpc_accel.study.sources import is_users

    text = path.read_text(errors="replace") if path.is_file() else ""
    threads = re.split(r"^(Current t|T)hread 0x.*$", text, flags=re.MULTILINE)[1:]
    if not threads:
        return ""
    crashed = text.startswith("Fatal Python error") and "Current t" in threads
    frames = re.findall(r'File "(.+?)", line (\d+) in (.+)', threads[threads.index("Current t") + 1 if crashed else -1])
    own = [frame for frame in frames if is_users(Path(frame[0]))]
    return "{}:{} in {}".format(*(own or frames)[0]) if frames else ""


def _stopped(exit_code: int, asked_to_stop: str, job_id: str | None) -> Failure:
    end_unix_s = allocation.limit_unix_s(job_id) if job_id else None
    late = end_unix_s is not None and time.time() >= end_unix_s - 5
    if late or asked_to_stop == "USR1":
        message = "the job's time limit came before the run was done"
        return Failure(status="timeout", kind="time limit", message=message, remedy=MORE_TIME, exit_code=exit_code)
    message = f"stopped by SIG{asked_to_stop}: cancelled by a person, or by Slurm for a job of higher priority"
    remedy = "start it again when it is wanted"
    return Failure(status="cancelled", kind="cancelled", message=message, remedy=remedy, exit_code=143)
