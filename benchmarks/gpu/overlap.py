"""Two ranks on one card: is what the product calls exposed communication what the profiler's kernels leave open?

For each way to divide a model: the product's exposed and waiting time of some steps, and the time in which no kernel
of this rank ran on the device, by torch's profiler, in the same steps. A kernel counts from its start to its end, also
while the other rank's kernels take turns with it; copies are no kernels here.
"""

from __future__ import annotations

import sys
from typing import Any

from benchmarks.gpu.clock import kernel_intervals, profiler
from benchmarks.gpu.runs import OUT, runs_of, study_of
from benchmarks.gpu.say import DEVICE, PRETENDED, figure, size, verdict
from hpc_accel.bench.start_ranks import start_ranks
from hpc_accel.measure.phases import exposed_ns, union
from hpc_accel.mpi import timeline

NUM_STEPS = 4
MODEL = size(
    {"layers": 6, "hidden": 2048, "heads": 16, "sequence": 1024},
    {"layers": 4, "hidden": 32, "heads": 2, "sequence": 16},
)
LAYOUTS: dict[str, dict[str, Any]] = {
    "dp2": {"dp": 2},
    "tp2": {"tp": 2},
    "pp2": {"pp": 2, "accumulation_steps": 4},
    "dp2 full shard": {"dp": 2, "shard": "full"},
}


def stepper_of(layout: dict[str, Any]) -> Any:
    """The product's stepper on this rank."""
    import hpc_accel.mpi
    from hpc_accel.parallel.mesh import rank_coordinates
    from hpc_accel.runtime.make_stepper import make_stepper
    from hpc_accel.study.stage_partition import automatic_split
    from hpc_accel.workloads import entry
    from hpc_accel.workloads.facts_without_weights import facts_of_built

    workload = {"name": "lm", "args": MODEL, "global_batch_size": 16, "optimizer": {"name": "adamw"}}
    shared = {"ranks_per_node": 2, "gpus_per_node": 0, "memory_mb": 100_000}
    (run,) = runs_of(study_of(workload, layouts=[layout], recipes=[{"precision": ["bf16"]}], resources=shared))
    built = entry.build(run.workload, run.seed)
    split = None
    if run.layout.pp > 1:
        split = automatic_split(facts_of_built(built, run.workload, run.seed), run.layout.num_stages)
    place = rank_coordinates(run.layout, hpc_accel.mpi.world().rank, DEVICE.type)
    device = hpc_accel.mpi.world().device()
    return make_stepper(run, built, place, device, recipe=run.recipe, split=split)


def measured(name: str, layout: dict[str, Any], rank: int) -> None:
    """One layout's figures, of rank 0."""
    stepper = stepper_of(layout)
    for _ in range(4):
        stepper.step()
    stepper.settle()
    timeline.enable()
    stepper.step().result()  # the timeline's first event waits for the device
    timeline.drain()
    stepper.settle()
    with profiler() as seen:
        flown = [stepper.step() for _ in range(NUM_STEPS)]
        stepper.settle()
    steps = [each.result().step for each in flown]
    events = timeline.drain()
    timeline.disable()
    if rank:
        return
    whole_ms = sum(step.duration_ns for step in steps) / 1e6
    found = [exposed_ns(events, step.start_ns, step.end_ns) for step in steps]
    waited_ms = sum(each.collective_ns + each.point_to_point_ns for each in found) / 1e6
    figure(f"{name}: step", whole_ms / NUM_STEPS, "ms")
    figure(f"{name}: exposed and waiting, share of the step", waited_ms / whole_ms)
    figure(f"{name}: communication beside computing, share", sum(e.overlapped_ns for e in found) / 1e6 / whole_ms)
    if PRETENDED:
        return
    kernels = union(kernel_intervals(seen, copies=False))
    open_ms = whole_ms - sum(end - start for start, end in kernels) / 1e6
    figure(f"{name}: no kernel ran, share of the step", open_ms / whole_ms)
    figure(
        f"{name}: product's less profiler's, share of the step", (waited_ms - open_ms) / whole_ms, low=-0.1, high=0.05
    )
    if name == "dp2":
        seen.export_chrome_trace(str(OUT / "overlap-dp2.trace.json.gz"))


def on_rank() -> None:
    """All layouts, one after the other; a failure of one is told and ends this launch."""
    import torch

    import hpc_accel.mpi

    if not PRETENDED:
        torch.cuda.set_device(hpc_accel.mpi.world().device())
    place = hpc_accel.mpi.init()
    for name in [each for each in LAYOUTS if each in sys.argv]:
        measured(name, LAYOUTS[name], place.rank)
    hpc_accel.mpi.shutdown()


if __name__ == "__main__":
    if "--rank" in sys.argv:
        on_rank()
    else:
        code = start_ranks(2, "benchmarks.gpu.overlap", ["--rank", *LAYOUTS])
        if code:
            verdict("all layouts on two ranks", False, f"exit code {code}; see the log")
