"""What a reader must know before trusting a run's figures: warm-up that is not over, outliers, a window too short.

Nothing is corrected and nothing dropped; what is odd is counted, located and said.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from hpc_accel.measure.statistics import MIN_VALUES, num_warmup, outliers
from hpc_accel.record.energy import Energy
from hpc_accel.record.figure import Count
from hpc_accel.record.parts import Disturbance, Outliers, Steps, Straggler
from hpc_accel.runtime.disturbance import disturbed
from hpc_accel.study.run import Run

MAX_POSITIONS = 20
OUTLIER_DISTANCE = 5.0
SLOW_RANK_EXCESS = 0.5
"""Ranks that share a machine with others differ by a third now and then; what is worth a look is more."""
SLOW_RANK_STEPS = 10
NEVER_SETTLED = "step times never settle: the first half is not like the second"


def detected_warmup(step_times_ms: Sequence[float], *, is_continued: bool) -> Count:
    """Steps at the beginning of the run, warm-up included, that are slower than the rest."""
    if is_continued:
        return Count.missing("the run was continued: every attempt warmed up anew")
    if len(step_times_ms) // 2 < MIN_VALUES:
        return Count.missing(f"{len(step_times_ms)} steps are too few to tell")
    return Count.of(num_warmup(step_times_ms), NEVER_SETTLED)


def found_outliers(steps: Sequence[int], step_times_ms: Sequence[float]) -> Outliers:
    """How many timed steps lie far from the median, and the first of them by their number. They stay in all figures."""
    positions = [steps[index] for index in outliers(step_times_ms, OUTLIER_DISTANCE)]
    return Outliers(
        count=len(positions),
        steps=tuple(positions[:MAX_POSITIONS]),
        rule=f"further than {OUTLIER_DISTANCE:g} scaled median absolute deviations from the median",
    )


def environment(device_type: str) -> list[str]:
    """Settings of the process under which no figure of a GPU is worth anything, each with what can be done."""
    value = os.environ.get("CUDA_LAUNCH_BLOCKING", "")
    if device_type != "cuda" or value in ("", "0"):
        return []
    return [
        f"environment: CUDA_LAUNCH_BLOCKING={value} makes the GPU finish each kernel before the next is sent, so times "
        "and energy are those of that and of no real run: unset it and measure again"
    ]


def slow_rank(run: Run, straggler: Straggler, num_timed: int) -> list[str]:
    """One rank computes much longer than the others, though all were given the same work, and the others wait."""
    excess = straggler.excess.value
    alike = run.layout.pp == 1 and run.resources.node_kinds is None
    if not alike or excess is None or excess < SLOW_RANK_EXCESS or num_timed < SLOW_RANK_STEPS:
        return []
    leave_out = f", or leave it out (resources.sbatch_options: exclude: {straggler.host})"
    return [
        f"slow rank: rank {straggler.rank.value} on {straggler.host} computes {1 + excess:.1f} times as long in a step "
        f"as the others, which wait for it: look at {straggler.host} (its clock, heat, memory, other processes)"
        + (leave_out if run.resources.num_nodes > 1 else "")
    ]


def warnings(
    run: Run,
    steps: Steps,
    energy: Energy,
    disturbance: Disturbance,
    *,
    device_type: str = "cpu",
    gpu_clock: str = "",
) -> tuple[str, ...]:
    """Sentences for the report, each with what can be done. `gpu_clock` is what GpuFrequency.told said."""
    found = [*environment(device_type), *disturbed(disturbance)]
    if gpu_clock:
        found.append(gpu_clock)
    counted, detected = steps.num_warmup, steps.num_warmup_detected
    if detected.value is not None and detected.value > counted:
        found.append(
            f"warm-up: the first {detected.value} steps are slower than the rest, {counted} were left out: "
            f"set measure.warmup_steps to {detected.value} or more"
        )
    elif detected.reason == NEVER_SETTLED:
        found.append(f"warm-up: {detected.reason}; set measure.warmup_steps higher, or measure more steps")
    if energy.energy_j is not None and energy.resolution_warning:
        wanted = 100 * (energy.resolution_s.value or 0.0) * energy.num_windows
        allowed = "it is" if run.measure.max_steps else "set measure.max_steps, up to which a run is then"
        found.append(
            f"energy: timed for {energy.window_s or 0:.2f} s, the sensors want {wanted:.3g} s (100 updates): its ends "
            f"may be more than 1 % of the figure; {allowed} extended to as many steps as that takes"
            + (f", but {run.measure.max_steps} steps were allowed" if run.measure.max_steps else "")
        )
    return tuple(found)
