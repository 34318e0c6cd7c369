"""The product's training steps beside the loop that a user would otherwise write, in turns in one run, as ratios.

    python benchmarks/engine.py [--budget-s 200] [--json FILE]

One rank: a plain torch loop (DataLoader, forward, backward, optimizer, and the loss read each step, which everybody
logs) and the product's step with the rows that a run keeps of it. Two ranks: the same loop under
DistributedDataParallel on gloo, and the product's data parallelism on mpi4py. Both sides train copies of one model from
the same weights on the same samples in the same order; the losses of the first steps must agree. A round is four
blocks, plain product product plain, so that drift hits both alike; above 1 the product is faster. The figure is the
median of the rounds with its 95 % interval. Start-up stands beside it: seconds of `import torch` alone, and of
importing the product's training.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from copy import deepcopy
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

BATCHES = {"mlp": 100, "digits": 64, "lm": 16}
"""Workload and global batch, as in studies/quickstart.yaml."""
BLOCK_S = 0.4
FEWEST_ROUNDS = 5
AGREEING_STEPS = 3
TOLERANCE = 1e-4
WANTED = 0.98
IMPORTS = {"import torch": "import torch", "import the product's training": "import hpc_accel.train.main"}


class Plain:
    """The loop beside the product's."""

    def __init__(self, stepper: Any, model: Any, workload: Any) -> None:
        import torch
        from torch.nn.parallel import DistributedDataParallel
        from torch.utils.data import DataLoader

        self.loss, self.module = workload.loss, model
        optimizer = stepper.optimizer
        named = {key: value for key, value in optimizer.defaults.items() if key in ("lr", "weight_decay", "momentum")}
        self.optimizer = type(optimizer)(model.parameters(), **named)
        if stepper.place.layout.dp > 1:
            self.module = DistributedDataParallel(model, process_group=torch.distributed.new_group(backend="gloo"))
        self.batches = iter(DataLoader(workload.dataset, batch_sampler=deepcopy(stepper.sampler)))

    def step(self) -> float:
        """One step; its loss on this rank."""
        inputs, targets = next(self.batches)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(self.module(inputs), targets)
        loss.backward()
        self.optimizer.step()
        return float(loss.item())


class Product:
    """The product's step and what a run keeps of each."""

    def __init__(self, run: Any, stepper: Any, rank: int) -> None:
        from hpc_accel.mpi import timeline
        from hpc_accel.train.step_table import StepTable

        self.stepper, self.rows, self.done = stepper, StepTable(run, rank, [], timeline.drain), 0

    def step(self) -> None:
        """One step."""
        self.rows.add(self.done, False, self.stepper.step())
        self.done += 1


def run_of(name: str, ranks: int) -> Any:
    """The run: serial, or data parallel."""
    from hpc_accel.study.expand import listed_runs, resolve_workload
    from hpc_accel.study.study_file import Study
    from hpc_accel.workloads.facts_without_weights import facts_of

    content = {
        "name": "engine",
        "device": "cpu",
        "workload": {"name": name, "global_batch_size": BATCHES[name]},
        "layouts": [{"dp": ranks}],
        "resources": {"ranks_per_node": ranks},
    }
    study = Study.model_validate(content)
    (choice,) = study.workloads
    (run,) = listed_runs(study, choice, facts_of(resolve_workload(choice), study.seed))
    return run


def compared(name: str, comm: Any, budget_s: float) -> dict[str, Any]:
    """One workload's figures, the same on all ranks."""
    import torch

    from hpc_accel.measure.statistics import median_ci
    from hpc_accel.mpi import timeline
    from hpc_accel.parallel.mesh import rank_coordinates
    from hpc_accel.runtime.make_stepper import make_stepper
    from hpc_accel.workloads import entry

    run = run_of(name, comm.size)
    workload = entry.build(run.workload, run.seed)
    model = deepcopy(workload.model)
    place = rank_coordinates(run.layout, comm.rank, "cpu")
    stepper = make_stepper(run, workload, place, torch.device("cpu"), recipe=run.recipe, split=None)
    plain, product = Plain(stepper, model, workload), Product(run, stepper, comm.rank)
    apart = _agree(plain, stepper, comm)
    timeline.enable()
    sides: dict[str, Callable[[], object]] = {"plain": plain.step, "product": product.step}
    few = {side: _block_s(step, 3, comm) for side, step in sides.items()}
    steps = max(3, round(BLOCK_S / few["plain"]))
    ratios, times = [], {"plain": list[float](), "product": list[float]()}
    began = time.perf_counter()
    while len(ratios) < FEWEST_ROUNDS or comm.bcast(time.perf_counter() - began < budget_s):
        found = [(side, _block_s(sides[side], steps, comm)) for side in ("plain", "product", "product", "plain")]
        for side, seconds in found:
            times[side].append(seconds)
        ratios.append((found[0][1] + found[3][1]) / (found[1][1] + found[2][1]))
    timeline.disable()
    stepper.settle()
    middle, low, high = median_ci(ratios)
    return {
        "workload": name,
        "num_ranks": comm.size,
        "steps_per_block": steps,
        "rounds": len(ratios),
        "plain_step_ms": 1e3 * median(times["plain"]),
        "product_step_ms": 1e3 * median(times["product"]),
        "product_over_plain": middle,
        "interval_95": [low, high],
        "wanted": WANTED,
        "first_losses_apart": apart,
    }


def _agree(plain: Plain, stepper: Any, comm: Any) -> float:
    """Largest relative difference of the mean losses of the first steps. Raises ValueError beyond the tolerance."""
    apart = 0.0
    for _ in range(AGREEING_STEPS):
        theirs = comm.allreduce(plain.step()) / comm.size
        flown = stepper.step()
        stepper.settle()
        ours = comm.allreduce(flown.result().loss) / comm.size
        apart = max(apart, abs(ours - theirs) / abs(theirs))
    if apart > TOLERANCE:
        raise ValueError(f"the two sides train differently: losses {apart:.2g} apart")
    return apart


def _block_s(step: Callable[[], object], count: int, comm: Any) -> float:
    """Seconds of a step, those of the slowest rank."""
    from mpi4py import MPI

    comm.Barrier()
    began = time.perf_counter()
    for _ in range(count):
        step()
    seconds: float = comm.allreduce((time.perf_counter() - began) / count, op=MPI.MAX)
    return seconds


def on_ranks(budget_s: float, out: Path) -> None:
    """All workloads on the ranks of this launch; rank 0 writes them."""
    import torch
    from mpi4py import MPI

    import hpc_accel.mpi

    torch.set_num_threads(1)
    hpc_accel.mpi.init("mpi4py")
    comm, found = MPI.COMM_WORLD, []
    for name in BATCHES:
        found.append(compared(name, comm, budget_s / len(BATCHES)))
        if comm.rank == 0:
            sys.stdout.write(f"{json.dumps(found[-1])}\n")
            sys.stdout.flush()
    if comm.rank == 0:
        out.write_text(json.dumps(found))
    hpc_accel.mpi.shutdown()


def import_s(code: str) -> float:
    """Median of five fresh interpreters."""
    timed = f"import time; t = time.perf_counter(); {code}; print(time.perf_counter() - t)"
    runs = [subprocess.run([sys.executable, "-c", timed], capture_output=True, text=True, check=True) for _ in range(5)]
    return median(float(each.stdout.split()[-1]) for each in runs)


def main() -> None:
    """Start the ranks, one and then two, and put everything into one file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget-s", type=float, default=200.0, help="for all rounds together")
    parser.add_argument("--json", type=Path, help="write the result there, too")
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)  # of the ranks
    options = parser.parse_args()
    if options.out is not None:
        on_ranks(options.budget_s, options.out)
        return
    from hpc_accel.bench.start_ranks import start_ranks
    from hpc_accel.measure import provenance

    load, tables = os.getloadavg()[0], []
    with tempfile.TemporaryDirectory() as directory:
        for ranks in (1, 2):
            out = Path(directory) / f"{ranks}.json"
            arguments = ["--budget-s", str(options.budget_s / 2), "--out", str(out)]
            if start_ranks(ranks, "benchmarks.engine", arguments):
                raise SystemExit(f"{ranks} rank(s) failed")
            tables += json.loads(out.read_text())
    content = {
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "num_cpus": os.cpu_count(),
        "load_1min_before": load,
        "load_1min_after": os.getloadavg()[0],
        "imports_s": {name: import_s(code) for name, code in IMPORTS.items()},
        "steps": tables,
        "provenance": provenance.collect(),
    }
    text = json.dumps(content, indent=1)
    sys.stdout.write(text + "\n")
    if options.json:
        options.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
