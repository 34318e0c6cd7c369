"""The whole model's weights in one safetensors file, under its own names, from any layout.

Each rank writes the slices that it holds, as in a checkpoint; rank 0 puts tensor after tensor together from these
files. So no rank ever holds more than its part and one tensor. Every name of `state_dict` is there: a tied parameter
once for each name, since a file has no aliases, and persistent buffers. `load_state_dict(load_file(path))` takes it.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from hpc_accel.errors import InputOutputError
from hpc_accel.runtime.waiting import quiet_barrier
from hpc_accel.train.checkpoint_files import checkpoint_files
from hpc_accel.train.setup import Session
from hpc_accel.train.slices import Slices
from hpc_accel.train.state import State
from hpc_accel.train.tensor_file import HashedFile, Slice, chunks, header, write_slices
from hpc_accel.workloads import entry

FILE = "model.safetensors"
DIRECTORY = "weights"


def write_weights(session: Session, name: str) -> float:
    """Write the weights as they are to weights/<name>/ in the run's directory; the seconds it took. Collective.

    An earlier file stays until the new one is whole. Raises InputOutputError on all ranks.
    """
    began = time.perf_counter()
    session.stepper.average_replicas()
    directory = session.directory / DIRECTORY / name
    parts = directory / "parts.partial"
    problem = _on_root(session, lambda: _emptied(parts))
    if not problem:
        problem, names = _parts(session, parts)
        problem = problem or _on_root(session, lambda: _together(session, parts, names, directory))
    _on_root(session, lambda: shutil.rmtree(parts, ignore_errors=True))
    if problem:
        raise InputOutputError(
            f"weights to {directory}: {problem}",
            "weights are written beside run.json",
            "make room there and start it again; it goes on from the last checkpoint",
        )
    return time.perf_counter() - began


def _emptied(parts: Path) -> None:
    shutil.rmtree(parts, ignore_errors=True)
    parts.mkdir(parents=True)


def _parts(session: Session, parts: Path) -> tuple[str, list[str]]:
    """This rank's slices into a file; what went wrong on any rank, and the names of all files."""
    file = next(each for each in checkpoint_files(session.place, session.run.recipe) if each.holds == "model")
    # Replicas that train alone between two averages are alike after one.
    is_writer = file.is_writer and (session.place.layout.shard == "full" or session.place.dp_rank == 0)
    problem = ""
    if is_writer:
        slices, told = State(session.stepper).slices(file)
        try:
            write_slices(parts / file.name, slices, told, before_sync=lambda: None)
        except (OSError, ValueError) as error:
            problem = f"rank {session.rank}: {error}"
    quiet_barrier(session.comm)
    gathered: list[tuple[str, str]] = session.comm.allgather((problem, file.name if is_writer else ""))
    return next((each for each, _ in gathered if each), ""), sorted(name for _, name in gathered if name)


def _together(session: Session, parts: Path, names: list[str], directory: Path) -> None:
    """On rank 0: one file of all parts. Raises OSError and ValueError."""
    model, pretrained = session.stepper.model, session.pretrained
    slices = Slices(parts, names)
    first_names = {name: model.names.get(name, name) for name in model.shapes}
    rest = _never_used(session, {name for name in first_names.values() if name not in slices.shapes})
    prefix = pretrained.prefix if pretrained else ""
    whole: dict[str, Slice] = {}
    for name, first in first_names.items():
        shape = model.shapes[name]
        dtype = rest[first].dtype if first in rest else slices.dtypes[first]
        empty = torch.empty(shape, dtype=dtype, device="meta")
        whole[name.removeprefix(prefix)] = Slice(name=name, start=(0,) * len(shape), shape=shape, values=empty)
    partial = parts / FILE
    with HashedFile(partial) as file:
        file.write(header(whole, {"run_id": session.run.run_id, "step": session.stepper.num_steps}))
        for each in whole.values():
            first = first_names[each.name]
            for chunk in chunks(rest[first] if first in rest else slices.whole(first)):
                file.write(chunk)
        file.seal()
    if pretrained is not None:
        pretrained.write(directory)
    partial.replace(directory / FILE)


def _never_used(session: Session, missing: set[str]) -> dict[str, torch.Tensor]:
    """What no stage holds, because nothing computes with it: it is as `build()` made it."""
    if not missing:
        return {}
    state = entry.build(session.run.workload, session.run.seed).model.state_dict()
    return {name: state[name] for name in missing}


def _on_root(session: Session, action: Any) -> str:
    """Rank 0 acts; all ranks learn why it failed, or ""."""
    problem = ""
    if session.rank == 0:
        try:
            action()
        except (OSError, ValueError, SafetensorError) as error:
            problem = f"rank 0: {error}"
    return str(session.comm.bcast(problem))
