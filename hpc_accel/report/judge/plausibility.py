"""Figures that are better than they can be: above the peak that was probed, or above what the ranks can give.

Both happen when the figure compared with was measured while something else used the machine. Neither is corrected.
"""

from __future__ import annotations

from hpc_accel.report.judge import ranking, wording
from hpc_accel.report.judge.ranking import Baselines
from hpc_accel.report.load.run_record import RunRecord


def implausible_figures(run: RunRecord, serial: Baselines) -> list[str]:
    """Sentences, each with what can be done; none for a run that does not count."""
    if not run.counts:
        return []
    found = []
    used = run.summary.flops.mfu.value
    if used is not None and used > 1:
        found.append(
            f"FLOP utilisation of {wording.percent(used)}: more than the peak the probe found, so something slowed the "
            "probe: delete hardware.json and probe again with nothing else on the node"
        )
    if exceeds_ranks(run, serial):
        found.append(
            f"speed-up above its {wording.counted(run.num_ranks, 'rank')}: either the serial run was slowed, or what "
            "a rank works on fits its cache only when divided: measure the serial run again (delete its summary.json)"
        )
    return found


def exceeds_ranks(run: RunRecord, serial: Baselines) -> bool:
    """Whether even the lower end of its speed-up is above the number of ranks."""
    gain = ranking.speed_up(run, serial)
    return gain is not None and run.kind != "serial" and gain.low > run.num_ranks


def is_disturbed(run: RunRecord) -> bool:
    """Whether something else used the run's machine while its steps were timed."""
    return bool(disturbance(run))


def disturbance(run: RunRecord) -> str:
    """What did, as the first of its warnings says; "" where nothing did."""
    return next((text for text in run.summary.warnings if text.startswith("disturbed:")), "")


def warnings(run: RunRecord, serial: Baselines) -> list[str]:
    """What the run itself warned of, and what in its figures is too good."""
    return [*run.summary.warnings, *implausible_figures(run, serial)]
