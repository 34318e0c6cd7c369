"""Ranks of tests/train/test_meta.py: each holds its part of models built without values, and compares it, bit for bit.

meta_ranks.py values RUN.json...   the parts of each run beside the same elements of the whole model
meta_ranks.py memory RUN.json...   the rank's share in bytes, and the peak of memory over what the process held before
"""

import gc
import json
import sys
from pathlib import Path

import torch

import hpc_accel.mpi  # noqa: F401
from hpc_accel.parallel.mesh import rank_coordinates
from hpc_accel.parallel.pieces import pieces_of, shapes_of
from hpc_accel.runtime.make_stepper import make_stepper
from hpc_accel.runtime.stage_sizes import stage_sizes
from hpc_accel.runtime.start_ranks import start_ranks
from hpc_accel.study.run import Run
from hpc_accel.workloads import entry
from hpc_accel.workloads.tensor_plan import divisions, planned


def part_of(run, launch):
    """This rank's pieces of the run's model, with their values, and the stepper."""
    place = rank_coordinates(run.layout, launch.rank, "cpu")
    workload = entry.build_deferred(run.workload, run.seed)
    assert all(each.is_meta for each in workload.model.parameters())
    shapes = shapes_of(workload.model)
    divided = divisions(workload.model, planned(workload.model, workload.tensor_plan)) if place.layout.tp > 1 else {}
    split = stage_sizes(run, workload, launch.device, launch.comm)
    stepper = make_stepper(run, workload, place, launch.device, recipe=run.recipe, split=split)
    return list(pieces_of(stepper.model, place, divided, shapes)), stepper


def values(run, launch):
    """Every element that this rank holds is that of the serial run."""
    pieces, stepper = part_of(run, launch)
    whole = dict(entry.build(run.workload, run.seed).model.named_parameters())
    seen = set()
    for piece in pieces:
        own = piece.local(piece.parameter.detach())
        same = whole[piece.name].detach()
        for dim, (start, length) in enumerate(zip(piece.start, own.shape, strict=True)):
            same = same.narrow(dim, start, length) if length else same.narrow(dim, 0, 0)
        assert torch.equal(own, same), (run.run_id, piece.name)
        seen.add(piece.name)
    assert not any(each.is_meta for each in stepper.model.parameters)
    everywhere = set().union(*launch.comm.allgather(seen))
    assert everywhere == set(shapes_of(entry.build_deferred(run.workload, run.seed).model))
    return {"run": run.run_id, "compared": len(seen)}


def memory(run, launch):
    """Peak of the resident set in bytes while the part is made, over what the process held before."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here
    before = resident("VmRSS")
    pieces, _ = part_of(run, launch)
    held = {id(piece.parameter): local_bytes(piece.parameter) for piece in pieces}
    return {"run": run.run_id, "ranks": launch.comm.allgather((sum(held.values()), resident("VmHWM") - before))}


def resident(key):
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[key].split()[0]) * 1024


def local_bytes(parameter):
    own = parameter.to_local() if hasattr(parameter, "to_local") else parameter
    return own.numel() * own.element_size()


def main():
    what, *paths = sys.argv[1:]
    runs = [Run.model_validate_json(Path(path).read_text()) for path in paths]
    launch = start_ranks(runs[0], Path(paths[0]).parent)
    for run in runs:
        found = {"values": values, "memory": memory}[what](run, launch)
        if launch.rank == 0:
            sys.stdout.write(json.dumps(found) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
