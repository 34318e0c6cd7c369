"""A job's energy by Slurm's accounting: ConsumedEnergyRaw of sacct, in joules, of whole nodes.

It counts everything on the node, so it is a job's figure only where the job had whole nodes. Each step carries the
energy of the nodes it ran on while it ran; steps run beside each other (the batch script and what it starts), so they
are never added: of the steps that covered all nodes the longest is taken. The window is that step, start-up included,
and not the timed steps of a run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hpc_accel.measure.energy.figure import EnergyFigure

UNKNOWN_J = (4294967294, 4294967295, 18446744073709551614, 18446744073709551615)
"""Slurm's "no value" and "infinite", in 32 and 64 bits."""
REMEDY = "an administrator sets AcctGatherEnergyType in slurm.conf and AcctGatherNodeFreq (below 300 s for rapl)"


def job_energy(rows: Sequence[Mapping[str, str]], *, is_exclusive: bool | None, num_runs: int = 1) -> EnergyFigure:
    """The energy of the run that had this job to itself, or the reason why the accounting cannot tell it.

    `rows` are sacct's, by the names of its fields; `is_exclusive` is whether the job had whole nodes; `num_runs` took
    turns in the job. The figure's `window` is the id of the step that it covers.
    """
    steps = [row for row in rows if "." in row["JobIDRaw"]]
    allocations = [row for row in rows if "." not in row["JobIDRaw"]]
    job_id = rows[0]["JobIDRaw"].partition(".")[0]
    if len(allocations) > 1:
        return EnergyFigure.missing(
            "sacct reports energy per component for heterogeneous jobs; overlapping steps cannot be summed"
        )
    if not is_exclusive:
        how = "shares its nodes" if is_exclusive is False else "is not known to have its nodes to itself"
        return EnergyFigure.missing(
            f"job {job_id} {how}: the node's energy is not the job's", "submit with --exclusive"
        )
    num_nodes = max(_whole(row["NNodes"]) for row in rows)
    known = [row for row in steps if _whole(row["NNodes"]) == num_nodes and _energy_j(row) is not None]
    if not known:
        return EnergyFigure.missing(f"the accounting has no energy for job {job_id} ({len(rows)} lines)", REMEDY)
    if num_runs > 1:
        return EnergyFigure.missing(
            f"{num_runs} runs took turns in job {job_id}, and its accounting does not divide them"
        )
    step = max(known, key=lambda row: _whole(row["ElapsedRaw"]))
    return EnergyFigure(
        window=step["JobIDRaw"],
        energy_j=_energy_j(step),
        window_s=float(_whole(step["ElapsedRaw"])),
        scope="whole nodes",
        method="slurm-accounting",
    )


def _energy_j(row: Mapping[str, str]) -> float | None:
    """Empty, zero and "no value" are unknown."""
    energy_j = _whole(row["ConsumedEnergyRaw"])
    return float(energy_j) if energy_j > 0 and energy_j not in UNKNOWN_J else None


def _whole(text: str) -> int:
    return int(text) if text.isdecimal() else 0
