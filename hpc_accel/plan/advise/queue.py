"""When Slurm would start a job (`sbatch --test-only`), what its accounts have left (`sshare`). Nothing is queued."""

from __future__ import annotations

import datetime
import re
import shutil
import subprocess
from dataclasses import dataclass

TIMEOUT_S = 10.0
_STARTS = re.compile(r"to start at (\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2})")


@dataclass(frozen=True, kw_only=True)
class Wait:
    """Hours until Slurm would start it, by its plan of now; None with the reason."""

    hours: float | None
    reason: str | None = None


@dataclass(frozen=True, kw_only=True)
class Account:
    """One account of this user's, as sshare tells it."""

    name: str
    fair_share: float | None
    """From 0 to 1; higher is earlier."""
    used_hours: float | None
    """Decayed usage, in billing-hours."""
    limit_hours: float | None
    """Of billing, where the account has such a limit."""

    @property
    def left_hours(self) -> float | None:
        """Of that limit."""
        if self.limit_hours is None or self.used_hours is None:
            return None
        return max(0.0, self.limit_hours - self.used_hours)


def start_wait(*, partition: str, num_nodes: int, ranks_per_node: int, gpus_per_node: int, hours: float) -> Wait:
    """Asks Slurm as a job script would; the job is a line that does nothing, and never runs."""
    command = [
        "sbatch",
        "--test-only",
        f"--nodes={num_nodes}",
        f"--ntasks-per-node={ranks_per_node}",
        f"--time={max(1, round(60 * hours))}",
        *([f"--partition={partition}"] if partition else []),
        *([f"--gres=gpu:{gpus_per_node}"] if gpus_per_node else []),
        "--wrap=true",
    ]
    output, why = _told(command)
    found = _STARTS.search(output)
    if found is None:
        return Wait(hours=None, reason=why or (output.strip().splitlines() or ["sbatch said nothing"])[-1])
    start = datetime.datetime.fromisoformat(found[1])
    return Wait(hours=max(0.0, (start - datetime.datetime.now()).total_seconds() / 3600))


def accounts() -> tuple[list[Account], str | None]:
    """This user's accounts, or why Slurm did not say."""
    output, why = _told(["sshare", "-U", "-n", "-P", "-o", "Account,FairShare,RawUsage,GrpTRESMins"])
    if why:
        return [], why
    rows = [line.strip().split("|") for line in output.splitlines()]
    return [_account(row) for row in rows if len(row) == 4 and row[0]], None


def _account(row: list[str]) -> Account:
    name, share, usage_s, limits = (cell.strip() for cell in row)
    billing = re.search(r"billing=(\d+)", limits)
    return Account(
        name=name,
        fair_share=float(share) if share else None,
        used_hours=int(usage_s) / 3600 if usage_s.isdigit() else None,
        limit_hours=int(billing[1]) / 60 if billing else None,
    )


def _told(command: list[str]) -> tuple[str, str | None]:
    """What a command printed, or why it told nothing."""
    if shutil.which(command[0]) is None:
        return "", f"{command[0]} is not here"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "", f"{command[0]} did not answer in {TIMEOUT_S:.0f} s"
    output = done.stdout + done.stderr
    if done.returncode:
        return output, (output.strip().splitlines() or [f"{command[0]} ended with {done.returncode}"])[-1]
    return output, None
