"""The Slurm allocation around this process: its variables, its size, its end, and whether it has its nodes alone.

Light on purpose: it is imported before every run.
"""

from __future__ import annotations

import datetime
import os
import re
import subprocess
from collections.abc import MutableMapping
from dataclasses import dataclass
from pathlib import Path

from hpc_accel.errors import UsageError
from hpc_accel.study.slurm_time import seconds_of

TIMEOUT_S = 10
AS_IT_IS = "submit the script by sbatch without options of your own, or write another script"


@dataclass(frozen=True, kw_only=True)
class Component:
    """What a script wants of one component of its job: `4x8 --gres=gpu:8` is 4 nodes of 8 ranks each.

    A plain job is one component. The words after the size are srun's options for a step on one of its nodes.
    """

    num_nodes: int
    ranks_per_node: int
    step_options: tuple[str, ...] = ()

    @property
    def num_ranks(self) -> int:
        """Ranks of all its nodes."""
        return self.num_nodes * self.ranks_per_node

    @property
    def num_gpus(self) -> int:
        """GPUs of all its nodes, by the step's options."""
        found = (re.fullmatch(r"--(?:gres=gpu|gpus-per-node)\S*?(\d+)", option) for option in self.step_options)
        return self.num_nodes * sum(int(match[1]) for match in found if match)

    @classmethod
    def parse(cls, text: str) -> Component:
        """Raises UsageError."""
        size, *options = text.split()
        found = re.fullmatch(r"(\d+)x(\d+)", size)
        if found is None:
            raise UsageError(f"--allocation {text!r}", "an allocation is <nodes>x<ranks per node>", "write it like 4x8")
        return cls(num_nodes=int(found[1]), ranks_per_node=int(found[2]), step_options=tuple(options))


def is_inside(environ: MutableMapping[str, str]) -> bool:
    """Whether this process is part of a Slurm job."""
    return bool(environ.get("SLURM_JOB_ID"))


def is_batch_shell(environ: MutableMapping[str, str]) -> bool:
    """Whether this process is the job's own batch shell, which alone gets Slurm's warning before the time limit."""
    return environ.get("SLURM_TASK_PID") == str(os.getpid())


def restore_variables(environ: MutableMapping[str, str]) -> None:
    """Put back the SLURM_* variables that Snakemake's jobstep drops, without which MPI sees no allocation.

    The batch shell, an ancestor of this process, still has them.
    """
    if not environ.get("SLURM_JOB_NODELIST"):
        for variables in _environments_above():
            if "SLURM_JOB_NODELIST" in variables:
                environ.update({key: value for key, value in variables.items() if key.startswith("SLURM_")})
                break
    # Left by `sbatch --export=NONE`; mpirun's daemons would start without an environment.
    environ.pop("SLURM_EXPORT_ENV", None)


def _environments_above() -> list[dict[str, str]]:
    """The environments of the parent, its parent, and so on, as far as they may be read."""
    found, pid = [], os.getppid()
    while pid > 1:
        try:
            entries = os.fsdecode(Path(f"/proc/{pid}/environ").read_bytes()).split("\0")
            status = Path(f"/proc/{pid}/status").read_text()
        except OSError:
            break
        found.append(dict(entry.split("=", 1) for entry in entries if "=" in entry))
        pid = int(status.partition("\nPPid:")[2].split()[0])
    return found


def check_size(wanted: list[Component], environ: MutableMapping[str, str]) -> None:
    """Refuse an allocation of another size than the script's. Raises UsageError."""
    if len(wanted) == 1:
        _check_one(wanted[0], environ, "")
        return
    size = environ.get("SLURM_HET_SIZE") or "1"
    if size != str(len(wanted)):
        raise UsageError(
            f"a job of {size} component(s)",
            f"this script wants a heterogeneous job of {len(wanted)}",
            "submit it by sbatch as it is",
        )
    for number, component in enumerate(wanted):
        _check_one(component, environ, f"_HET_GROUP_{number}")


def _check_one(wanted: Component, environ: MutableMapping[str, str], suffix: str) -> None:
    num_nodes = environ.get("SLURM_JOB_NUM_NODES" + suffix) or "unknown"
    num_tasks = environ.get("SLURM_NTASKS" + suffix) or "unknown"
    if num_nodes == str(wanted.num_nodes) and num_tasks in {str(wanted.num_ranks), "unknown"}:
        return
    what = f"component {suffix.rpartition('_')[2]}" if suffix else "an allocation"
    raise UsageError(
        f"{what} of {num_nodes} node(s), {num_tasks} task(s)",
        f"this script wants exactly {wanted.num_nodes} node(s), {wanted.num_ranks} task(s)",
        AS_IT_IS,
    )


def of_all_components(environ: MutableMapping[str, str], name: str) -> str | None:
    """One of Slurm's variables; of a heterogeneous job that of every component, joined by commas."""
    size = environ.get("SLURM_HET_SIZE", "1")
    if not size.isdigit() or int(size) == 1:
        return environ.get(name)
    return ",".join(environ.get(f"{name}_HET_GROUP_{k}", "") for k in range(int(size)))


def had_nodes_to_itself(job_id: str | None) -> bool | None:
    """Whether Slurm gave the job whole nodes; None outside Slurm, or when it does not answer."""
    if job_id is None:
        return None
    answer = _answer(["scontrol", "--oneliner", "show", "job", job_id])
    found = re.findall(r"\bOverSubscribe=(\S+)", answer)  # one for each component
    return all(word == "NO" for word in found) if found else None


def neighbours(environ: MutableMapping[str, str]) -> list[str]:
    """Other jobs that run on this job's nodes now: "job 12 of alice on n1"; empty where Slurm does not answer."""
    nodes = of_all_components(environ, "SLURM_JOB_NODELIST")
    own = {value for key, value in environ.items() if key.startswith(("SLURM_JOB_ID", "SLURM_JOBID"))}
    if not nodes or not own:
        return []
    answer = _answer(["squeue", "--noheader", "--states=RUNNING", f"--nodelist={nodes}", "--format=%A|%u|%N"])
    rows = [line.split("|") for line in answer.splitlines() if line.count("|") == 2]
    return [f"job {number} of {user} on {where}" for number, user, where in rows if number not in own]


def end_unix_s(job_id: str) -> float | None:
    """When the time limit will end the running job; None when Slurm does not answer or there is no limit."""
    answer = _answer(["squeue", "--noheader", f"--jobs={job_id}", "--format=%e"])
    return _unix_s(answer.partition("\n")[0])  # each component has a line of its own


def limit_unix_s(job_id: str) -> float | None:
    """When the time limit ends the job, whether or not it has ended; None as in `end_unix_s`.

    From start and limit, because a cancelled job's end time is at once the time it was cancelled at.
    """
    answer = _answer(["squeue", "--noheader", "--states=all", f"--jobs={job_id}", "--format=%S|%l"])
    start, _, limit = answer.partition("\n")[0].partition("|")  # components of a job start and end together
    start_unix_s, limit_min = _unix_s(start), minutes(limit)
    return start_unix_s + 60 * limit_min if start_unix_s is not None and limit_min else None


def submitted_unix_s(job_id: str) -> float | None:
    """When the job went into the queue, or went back into it; None when Slurm does not answer."""
    answer = _answer(["squeue", "--noheader", "--states=all", f"--jobs={job_id}", "--format=%V"])
    return _unix_s(answer.partition("\n")[0])


def minutes(text: str) -> int | None:
    """Slurm's [days-]hours:minutes:seconds in minutes; None for "infinite"."""
    seconds = seconds_of(text)
    return None if seconds is None else seconds // 60


def _unix_s(text: str) -> float | None:
    """Of Slurm's time in the node's local time."""
    try:
        return datetime.datetime.fromisoformat(text.strip()).timestamp()
    except ValueError:
        return None


def _answer(command: list[str]) -> str:
    """What a Slurm command prints; empty when it fails, is not there, or takes too long."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
