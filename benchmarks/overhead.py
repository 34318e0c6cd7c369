"""What measuring costs: training steps with all measurement on against off, alternating in one run.

    mpirun -n 2 python -m mpi4py benchmarks/overhead.py [--blocks 40] [--steps 25] [--width 512]

On means what a timed step has: the communication timeline and the exposure computed from it, phase times, and
sensors sampled at 10 Hz. Where the machine has no sensor a tree of eight files stands in, whose reading
costs what reading counters costs. Blocks alternate (off, on, on, off, ...), so that what the machine does
besides hits both alike. Prints one JSON object per rank: the ratio of the median steps with its 95 % interval,
of all steps and of pairs of blocks. On a busy machine that interval is wide; beside it stands what was spent
on measuring itself, which other work hardly changes: the time after each step, and the processor time of the
sensors' threads, together as a share of the step.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics as plain
import tempfile
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any


def stand_in_sensors(directory: Path) -> None:
    """Four RAPL zones and four power meters that can be read and do not move."""
    for number in range(4):
        zone = directory / "class/powercap" / f"intel-rapl:{number}"
        zone.mkdir(parents=True)
        for name, text in (("name", f"package-{number}"), ("energy_uj", "5"), ("max_energy_range_uj", "262143000000")):
            (zone / name).write_text(text)
        meter = directory / "class/hwmon" / f"hwmon{number}"
        meter.mkdir(parents=True)
        for name, text in (("name", "power_meter"), ("power1_average", "100000000"), ("power1_average_interval", "50")):
            (meter / name).write_text(text)


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, default=40, help="blocks of steps, half of them measured")
    parser.add_argument("--steps", type=int, default=25, help="steps per block")
    parser.add_argument("--width", type=int, default=512, help="width of the perceptron")
    parser.add_argument("--batch", type=int, default=64, help="samples per rank and step")
    return parser.parse_args()


class Trainer:
    """A perceptron under DistributedDataParallel over MPI."""

    def __init__(self, width: int, batch: int) -> None:
        import torch
        from torch.nn.parallel import DistributedDataParallel

        torch.set_num_threads(1)
        torch.manual_seed(0)
        layers: list[Any] = []
        for _ in range(3):
            layers += [torch.nn.Linear(width, width), torch.nn.ReLU()]
        self.model = DistributedDataParallel(torch.nn.Sequential(*layers))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-3)
        self.batch = torch.randn(batch, width)

    def step(self, spans: list[tuple[str, int, int]] | None) -> int:
        """One step; its nanoseconds."""
        begin = time.perf_counter_ns()
        loss = self.model(self.batch).square().mean()
        forward = time.perf_counter_ns()
        loss.backward()
        backward = time.perf_counter_ns()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        end = time.perf_counter_ns()
        if spans is not None:
            spans += [("forward", begin, forward), ("backward", forward, backward), ("optimizer", backward, end)]
        return end - begin


def sensors_processor_ns() -> int:
    """Processor time of the sensors' threads so far, from the scheduler."""
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("energy-")]
    paths = [Path(f"/proc/self/task/{thread.native_id}/schedstat") for thread in threads]
    return sum(int(path.read_text().split()[0]) for path in paths if path.exists())


def measured_block(trainer: Trainer, meter: Any, num_steps: int, direct: dict[str, list[float]]) -> list[int]:
    """Steps with everything on, what follows each step included."""
    from hpc_accel.measure.phases import exposed_ns
    from hpc_accel.mpi import timeline

    durations = []
    block_ns, sensors_ns = time.perf_counter_ns(), sensors_processor_ns()
    timeline.enable()
    with meter.window("block"):
        for _ in range(num_steps):
            spans: list[tuple[str, int, int]] = []
            begin = time.perf_counter_ns()
            trainer.step(spans)
            after = time.perf_counter_ns()
            events = timeline.drain()
            for _name, start_ns, end_ns in spans:
                exposed_ns(events, start_ns, end_ns)
            end = time.perf_counter_ns()
            durations.append(end - begin)
            direct["after_step_us"].append((end - after) / 1e3)
    timeline.disable()
    sensors_share = (sensors_processor_ns() - sensors_ns) / (time.perf_counter_ns() - block_ns)
    direct["sensors_share"].append(sensors_share)
    return durations


def run(arguments: argparse.Namespace, world: Any, comm: Any) -> dict[str, Any]:
    """Alternate the blocks and compare; all ranks."""
    from hpc_accel.measure import memory
    from hpc_accel.measure.energy import EnergyMeter
    from hpc_accel.measure.statistics import median_ci, ratio_ci

    trainer = Trainer(arguments.width, arguments.batch)
    for _ in range(20):
        trainer.step(None)
    memory.reset_peak()
    before_bytes = memory.peak_bytes()
    found: dict[bool, list[int]] = {False: [], True: []}
    pairs: dict[bool, list[float]] = {False: [], True: []}
    direct: dict[str, list[float]] = {"after_step_us": [], "sensors_share": []}
    for block in range(arguments.blocks):
        is_on = block % 4 in (1, 2)
        # The sensors' threads exist only while a measured block runs: off is off.
        with EnergyMeterScope(EnergyMeter, comm) if is_on else nullcontext() as meter:
            comm.Barrier()
            if is_on:
                durations = measured_block(trainer, meter, arguments.steps, direct)
            else:
                durations = [trainer.step(None) for _ in range(arguments.steps)]
        found[is_on] += durations
        pairs[is_on].append(plain.median(durations))
    ratio, low, high = ratio_ci(found[True], found[False])
    peak_bytes = memory.peak_bytes()
    after_us, sensors_share = plain.median(direct["after_step_us"]), plain.median(direct["sensors_share"])
    return {
        "rank": world.rank,
        "num_ranks": world.size,
        "steps_each": len(found[True]),
        "step_time_off_ms": [value / 1e6 for value in median_ci(found[False]) if value is not None],
        "step_time_on_ms": [value / 1e6 for value in median_ci(found[True]) if value is not None],
        "ratio": ratio,
        "ratio_ci": [low, high],
        "ratio_of_block_pairs": median_ci([on / off for on, off in zip(pairs[True], pairs[False], strict=True)]),
        "after_step_us": after_us,
        "sensors_processor_share": sensors_share,
        "spent_share_of_step": after_us * 1e3 / plain.median(found[False]) + sensors_share,
        "peak_growth_bytes": peak_bytes - before_bytes if peak_bytes and before_bytes else None,
    }


class EnergyMeterScope:
    """A meter for one block."""

    def __init__(self, make: Any, comm: Any) -> None:
        self._meter = make(comm, sample_hz=10)

    def __enter__(self) -> Any:
        return self._meter

    def __exit__(self, *_: object) -> None:
        self._meter.close()


def main() -> None:
    """All ranks; rank 0 prints."""
    arguments = options()
    from mpi4py import MPI

    import hpc_accel.mpi

    world = hpc_accel.mpi.init("mpi4py")
    comm = MPI.COMM_WORLD
    with tempfile.TemporaryDirectory() as directory:
        if not Path("/sys/class/powercap/intel-rapl:0").exists():
            stand_in_sensors(Path(directory))
            os.environ["HPC_ACCEL_SYSFS"] = directory
        figures = comm.gather(run(arguments, world, comm))
        comm.Barrier()
    if world.rank == 0:
        print(json.dumps(figures, indent=1))
    hpc_accel.mpi.shutdown()


if __name__ == "__main__":
    main()
