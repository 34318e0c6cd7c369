"""The scheduler's own figure after the job: sacct's ConsumedEnergyRaw, in joules, of whole nodes.

It counts everything on the node, so it is a job's figure only where the job had its nodes to itself. Each
step carries the energy of the nodes it ran on while it ran; steps run beside each other (the batch script
and what it starts), so they are never added: the step that covered all nodes for longest is taken. The
window is that step, start-up included, and not the timed steps: a figure of another method.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

FIELDS = "JobIDRaw,ConsumedEnergyRaw,ElapsedRaw,NNodes,State"
TIMEOUT_S = 20
UNKNOWN_J = (4294967294, 4294967295, 18446744073709551614, 18446744073709551615)
"""Slurm's "no value" and "infinite", in 32 and 64 bits."""
REMEDY = "an administrator sets AcctGatherEnergyType in slurm.conf and AcctGatherNodeFreq (below 300 s for rapl)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One line of sacct."""

    step_id: str
    energy_j: int | None
    elapsed_s: int
    num_nodes: int
    state: str


def ask(job_id: str) -> str:
    """sacct's answer for one job; raises what subprocess raises."""
    command = ["sacct", "--noheader", "--parsable2", "--jobs", job_id, "--format", FIELDS]
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True).stdout


def parse(text: str) -> list[Step]:
    """The lines that have all fields; an empty, zero or "no value" energy is unknown."""
    steps = []
    for line in text.splitlines():
        words = line.strip().split("|")
        if len(words) != 5 or not words[2].isdecimal() or not words[3].isdecimal():
            continue
        energy_j = int(words[1]) if words[1].isdecimal() else 0
        known = energy_j > 0 and energy_j not in UNKNOWN_J
        steps.append(
            Step(
                step_id=words[0],
                energy_j=energy_j if known else None,
                elapsed_s=int(words[2]),
                num_nodes=int(words[3]),
                state=words[4],
            )
        )
    return steps


def _nothing(reason: str, remedy: str = "") -> dict[str, Any]:
    return {"energy_j": None, "method": "none", "scope": None, "window_s": None, "reason": reason, "remedy": remedy}


def job_energy(job_id: str, *, is_exclusive: bool | None, sacct: Callable[[str], str] = ask) -> dict[str, Any]:
    """The job's energy object by accounting, or null with the reason. `is_exclusive`: had it its nodes to itself?"""
    if not is_exclusive:
        how = "shares its nodes" if is_exclusive is False else "is not known to have its nodes to itself"
        return _nothing(f"job {job_id} {how}: the node's energy is not the job's", "submit with --exclusive")
    try:
        steps = parse(sacct(job_id))
    except (OSError, subprocess.SubprocessError) as error:
        return _nothing(f"sacct: {error}")
    num_nodes = max((step.num_nodes for step in steps), default=0)
    whole = [step for step in steps if "." in step.step_id and step.num_nodes == num_nodes]
    known = [step for step in whole if step.energy_j is not None]
    if not known:
        return _nothing(f"the accounting has no energy for job {job_id} ({len(steps)} lines)", REMEDY)
    step = max(known, key=lambda step: step.elapsed_s)
    return {
        "energy_j": float(step.energy_j or 0),
        "method": "slurm-accounting",
        "scope": "whole nodes",
        "window_s": float(step.elapsed_s),
        "sensors": [{"name": f"sacct {step.step_id}", "source": "slurm", "scope": "node"}],
        "reason": "",
        "remedy": "",
    }
