"""A few steps of one layout on some of the ranks, through the stepper that training has, timed phase by phase."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from statistics import median, quantiles
from typing import Any

import torch

import hpc_accel.mpi
from hpc_accel.calibrate.layers import Times, layer_times
from hpc_accel.calibrate.power import NodePower
from hpc_accel.calibrate.shorten import shortened
from hpc_accel.calibrate.wanted import PASSES, Wanted
from hpc_accel.mpi.launch import apart
from hpc_accel.parallel.mesh import rank_coordinates
from hpc_accel.plan.calibration import MAX_SPREAD
from hpc_accel.runtime.in_flight import StepInFlight, StepResult
from hpc_accel.runtime.make_stepper import make_stepper
from hpc_accel.runtime.precision import arithmetic
from hpc_accel.runtime.randomness import seed_rank
from hpc_accel.runtime.stage_sizes import stage_sizes
from hpc_accel.runtime.step import Stepper
from hpc_accel.runtime.threads import threads_per_rank
from hpc_accel.workloads import entry

WARM_STEPS = 4
FEWEST_STEPS, MOST_STEPS = 9, 400
WINDOW_S = 0.5
"""Steps are timed for so long, within those numbers."""
NUM_GROUPS = 9
"""Neighbouring steps of a window count together to say how far they spread: single short ones always do."""
MOST_TRIES = 3
"""Windows, of which the quietest counts: more than one where something else disturbed."""
PHASES = ("data", "forward", "backward", "optimizer")


@dataclass(frozen=True, kw_only=True)
class Steps:
    """What one measurement saw: medians over steps, each that of its slowest rank."""

    step_s: float
    phases_s: dict[str, float]
    """Of one step."""
    spread: float
    """Of the step: difference of the quartiles over the median."""
    layers: Times | None
    """Seconds of each layer, run alone; None where they cannot be, or are not asked for."""
    kept_layers: tuple[int, ...] | None = None
    """Of a shortened model, which layers it has."""
    power_w: float | None = None
    """Of the node, copies beside this one included; None where no sensor could tell, and of a shortened model."""


def measure(
    wanted: Wanted, comm: Any, device: torch.device, kept: tuple[int, ...] | None, power: NodePower | None = None
) -> Steps:
    """Steps of `wanted.run` on the ranks of `comm`, as many as its layout has. Collective over them.

    `kept` are the layers of a model that is measured shortened; None for the whole. `power` reads the node's
    sensors around more steps. Raises what the workload raises.
    """
    run = wanted.run
    torch.set_num_threads(run.recipe.threads_per_rank or threads_per_rank(wanted.at_once, run.resources.cpus_per_rank))
    with apart(comm), arithmetic(run.recipe.precision):
        hpc_accel.mpi.init(run.backend, expected_size=run.layout.num_ranks)
        try:
            return _measured(wanted, comm, device, kept, power)
        finally:
            with suppress(Exception):  # what went wrong before counts
                hpc_accel.mpi.shutdown()


def _measured(
    wanted: Wanted, comm: Any, device: torch.device, kept: tuple[int, ...] | None, power: NodePower | None
) -> Steps:
    run = wanted.run
    place = rank_coordinates(run.layout, comm.rank, device.type)
    workload = shortened(entry.build_deferred(run.workload, run.seed), kept)
    split = stage_sizes(run, workload, device, comm)
    with entry.users_code(run.workload.entry):
        stepper = make_stepper(run, workload, place, device, recipe=run.recipe, split=split)
        seed_rank(run.seed, place)
        for _ in range(WARM_STEPS):
            stepper.step()
        stepper.settle()
        best = _window(stepper, comm)
        for _ in range(MOST_TRIES - 1):
            if best.spread <= MAX_SPREAD:
                break
            again = _window(stepper, comm)
            best = min(best, again, key=lambda each: each.spread)
        power_w = power.draw(stepper, comm) if power is not None else None
        layers = layer_times(stepper, workload, stepper.next_batch()[0]) if wanted.what == PASSES else None
        stepper.release()
    return replace(best, layers=layers, kept_layers=kept, power_w=power_w)


def _window(stepper: Stepper, comm: Any) -> Steps:
    launched: list[StepInFlight] = []
    end = time.perf_counter() + WINDOW_S
    while len(launched) < MOST_STEPS:
        launched.append(stepper.step())
        enough = len(launched) >= FEWEST_STEPS and time.perf_counter() > end
        if len(launched) >= FEWEST_STEPS and comm.bcast(enough, root=0):
            break
    stepper.settle()
    return _summed([each.result() for each in launched], comm)


def _summed(results: Sequence[StepResult], comm: Any) -> Steps:
    """Medians, the same on all ranks: of each step the slowest rank's time, and of each phase the longest of any."""
    rows = [[result.step.duration_ns / 1e9, *(_phase_s(result, name) for name in PHASES)] for result in results]
    ranks = comm.allgather(rows)
    slowest = [max(rows[number][0] for rows in ranks) for number in range(len(results))]
    middle, size = median(slowest), max(1, len(slowest) // NUM_GROUPS)
    groups = [median(slowest[begin : begin + size]) for begin in range(0, len(slowest) - size + 1, size)]
    quarters = quantiles(groups, n=4)
    phases = {
        name: max(median(row[index] for row in rows) for rows in ranks) for index, name in enumerate(PHASES, start=1)
    }
    return Steps(step_s=middle, phases_s=phases, spread=(quarters[2] - quarters[0]) / middle, layers=None)


def _phase_s(result: StepResult, name: str) -> float:
    return sum(span.duration_ns for span in result.phases if span.name == name) / 1e9
