"""Everything a run needs before its first step: ranks, device, threads, workload, layout, optimizer, data."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hpc_accel.measure.energy.figure import EnergyFigure
from hpc_accel.measure.energy.meter import IDLE_WINDOW_S
from hpc_accel.mpi import between_nodes
from hpc_accel.parallel.mesh import RankCoordinates, rank_coordinates
from hpc_accel.runtime.device import mesh_device
from hpc_accel.runtime.hang import HangWatch
from hpc_accel.runtime.make_stepper import make_stepper
from hpc_accel.runtime.randomness import seed_rank
from hpc_accel.runtime.stage_sizes import stage_sizes
from hpc_accel.runtime.start_ranks import RankSetup, start_ranks
from hpc_accel.runtime.step import Stepper
from hpc_accel.study.run import Run
from hpc_accel.train import rank_state
from hpc_accel.train.another_run import refuse_ended
from hpc_accel.train.checkpoint import Checkpoint, Checkpoints
from hpc_accel.train.parity.check import Checked, check_parity
from hpc_accel.train.production.hugging_face import Pretrained, pretrained_in
from hpc_accel.train.state import State
from hpc_accel.workloads import entry
from hpc_accel.workloads.workload import Workload


@dataclass(frozen=True, kw_only=True)
class Session(RankSetup):
    """A run, set up on this rank: at its beginning, or where the checkpoint `first_step` comes from left it.

    `earlier` is what earlier attempts measured on this rank: rows, windows, peak_memory_bytes, notes. `started_from`
    names the run, and its step, that the training began in; "" where it began in this one.
    """

    hang: HangWatch
    workload: Workload
    split: tuple[int, ...] | None
    place: RankCoordinates
    stepper: Stepper
    checkpoints: Checkpoints
    first_step: int
    attempt: int
    earlier: dict[str, Any]
    started_from: str
    checked: Checked
    pretrained: Pretrained | None
    """The model of transformers that is trained, if it is one."""
    samples_dropped_per_epoch: int
    startup_ms: dict[str, float]


def open_session(run: Run, directory: Path, import_ms: float) -> Session:
    """Set up `run` on this rank. Collective over all ranks.

    Raises ConfigError when the launch does not fit, DataError when there are checkpoints and all are broken.
    """
    launch = start_ranks(run, directory)
    hang = HangWatch(
        directory,
        launch.rank,
        launch.host_of_rank,
        hang_after_s=run.measure.hang_after_s,
        start_up_s=run.resources.time_limit_min * 60,
        idle_s=IDLE_WINDOW_S if run.measure.idle_s is None else run.measure.idle_s,
    )
    device, comm = launch.device, launch.comm
    place = rank_coordinates(run.layout, launch.rank, mesh_device(run, device))
    checkpoints = Checkpoints(run, directory, comm, place)
    found = checkpoints.load()
    if found and found.is_same_layout:
        between_nodes.remember(found.values.get("between_nodes", []))  # before the first of its groups is used
    if found and found.of.run_id != run.run_id:
        refuse_ended(run, found.step)
    split = _split(run, found, device, comm)
    compared = time.perf_counter()
    checked = check_parity(run, directory / "run.json", comm, place, device, split)
    began = time.perf_counter()
    first_step = found.step if found else 0
    workload = entry.build_deferred(run.workload, run.seed)
    pretrained = pretrained_in(workload.model) if run.production is not None else None  # before it is divided
    stepper = make_stepper(
        run,
        workload,
        place,
        device,
        recipe=run.recipe,
        split=split,
        first_step=first_step,
        mean=checked.mean,
        draws_data=checked.draws_data,
    )
    seed_rank(run.seed, place)
    if found:
        _restore(stepper, found, run)
    built = time.perf_counter()
    return Session(
        **vars(launch),
        hang=hang,
        workload=workload,
        split=split,
        place=place,
        stepper=stepper,
        checkpoints=checkpoints,
        first_step=first_step,
        attempt=found.values["attempt"] + 1 if found and found.of.run_id == run.run_id else 1,
        earlier=_earlier(found, run),
        started_from=_started_from(found, run),
        checked=checked,
        pretrained=pretrained,
        samples_dropped_per_epoch=stepper.sampler.samples_dropped_per_epoch,
        startup_ms={
            "imports": import_ms,
            "mpi_init": launch.mpi_init_ms,
            "parity": (began - compared) * 1e3,
            "model_build": (built - began) * 1e3,
        },
    )


def _split(run: Run, found: Checkpoint | None, device: torch.device, comm: Any) -> tuple[int, ...] | None:
    if found and found.is_same_layout and run.layout.split == "measured":
        return tuple(found.values["split"])  # measured again it might be another, and its weights lie elsewhere
    return stage_sizes(run, entry.build_deferred(run.workload, run.seed), device, comm)


def _restore(stepper: Stepper, found: Checkpoint, run: Run) -> None:
    is_same = found.is_same_layout
    keeps_options = run.workload.optimizer == found.of.workload.optimizer
    state = State(stepper)
    state.restore(found.slices, keeps_options=keeps_options, is_same_layout=is_same)
    rank_state.restore(stepper, found.values, step=found.step, seed=run.seed, is_same_layout=is_same)
    if not is_same:
        found.notes.append(f"{found.of.layout.label} to {run.layout.label}: {rank_state.SEEDED_ANEW}")
    if run.recipe.compression == "powersgd" and not (is_same and state.restore_feedback(found.slices)):
        found.notes.append("PowerSGD's error feedback is each replica's own: it begins with zeros here")
    if not keeps_options:
        found.notes.append("the optimizer's options are this run's: those of the checkpoint's run differ")


def _earlier(found: Checkpoint | None, run: Run) -> dict[str, Any]:
    """What earlier attempts at this run measured: nothing where there was none, or the checkpoint is another run's."""
    nothing: dict[str, Any] = {"rows": [], "windows": []}
    nothing |= {"peak_memory_bytes": None, "total_steps": None, "production": None}
    if found is None:
        return nothing | {"notes": []}
    if found.of.run_id != run.run_id:
        return nothing | {"notes": found.notes}
    kept = {key: found.values.get(key) for key in ("peak_memory_bytes", "total_steps", "production")}
    windows = [EnergyFigure.from_dict(window) for window in found.measured.windows]
    return kept | {
        "rows": found.measured.rows,
        "windows": windows,
        "notes": [*found.values["notes"], *found.notes],
    }


def _started_from(found: Checkpoint | None, run: Run) -> str:
    if found is None:
        return ""
    if found.of.run_id == run.run_id:
        return str(found.values["started_from"])
    return f"step {found.step} of {found.of.run_id} in layout {found.of.layout.label}"
