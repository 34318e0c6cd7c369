"""What measuring costs: training steps with all measurement on against off, alternating in one run.

    mpirun -n 2 python -m mpi4py benchmarks/overhead.py [--rounds 400] [--steps 20] [--json FILE]

On is what a timed step has, by the same code: phases on the clock, the communication timeline, a record kept of every
step, and sensors sampled at 10 Hz. Where the machine has no sensor a tree of eight files stands in, whose reading costs
what reading counters costs. A round is four blocks, off on on off, so that drift hits both alike; the blocks are short,
because a shared machine is never the same for long. The first five steps of every block do not count: a run starts its
sensors once, not every fifth of a second, and what follows finds the processor's caches cold. A round's ratio of all
its steps' time, those the sensors were read in among them, is one value, and the figure is the median of the rounds
with its 95 % interval; the same of the median step, which is what a report shows, stands beside it. So does what was
spent on measuring itself, which other work on the machine hardly changes: time after each step and processor time of
the sensors' threads, as a share of the step.
Also: the time to import the sensors, and the memory that measuring takes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics as plain
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

TARGETS = {"ratio": 1.01, "import_s": 0.3, "memory_bytes_per_node": 30e6}
IMPORT = "import time; t = time.perf_counter(); import hpc_accel.measure.energy.meter; print(time.perf_counter() - t)"
MEMORY_STEPS = 1000
SETTLE_STEPS = 5


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
    parser.add_argument("--rounds", type=int, default=400, help="rounds of four blocks")
    parser.add_argument("--steps", type=int, default=20, help="steps per block")
    parser.add_argument("--width", type=int, default=512, help="width of the perceptron")
    parser.add_argument("--batch", type=int, default=64, help="samples per rank and step")
    parser.add_argument("--json", type=Path, help="write the result there, too")
    return parser.parse_args()


class NoClock:
    """A clock that looks at nothing."""

    _nothing = nullcontext()

    def phase(self, name: str) -> AbstractContextManager[None]:
        """Nothing."""
        return self._nothing

    def begin(self) -> None:
        """Nothing."""

    def finish(self) -> tuple[None, None]:
        """Nothing."""
        return None, None


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

    def step(self, clock: Any) -> tuple[Any, Any]:
        """One step; what the clock saw of it."""
        clock.begin()
        with clock.phase("forward"):
            loss = self.model(self.batch).square().mean()
        with clock.phase("backward"):
            loss.backward()
        with clock.phase("optimizer"):
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
        return clock.finish()


def sensors_processor_ns() -> int:
    """Processor time of the sensors' threads so far, from the scheduler."""
    threads = [thread for thread in threading.enumerate() if thread.name.startswith("energy-")]
    spent_ns = 0
    for thread in threads:
        with suppress(OSError):  # one that had nothing to read has just ended
            spent_ns += int(Path(f"/proc/self/task/{thread.native_id}/schedstat").read_text().split()[0])
    return spent_ns


def resident_bytes() -> int:
    """Resident set of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def machine_busy_s() -> float:
    """Processor seconds of everything on this machine since it started, and of nothing while it idles."""
    user, nice, system, _idle, _iowait, irq, softirq, *_ = map(int, Path("/proc/stat").read_text().split()[1:9])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


Times = tuple[float, float]
"""Mean and median milliseconds of a block's steps."""


def _times(durations_ns: list[int]) -> Times:
    return plain.mean(durations_ns) / 1e6, plain.median(durations_ns) / 1e6


class Bench:
    """Blocks of steps with measurement on and off."""

    def __init__(self, arguments: argparse.Namespace, comm: Any) -> None:
        self.trainer = Trainer(arguments.width, arguments.batch)
        self.comm = comm
        self.num_steps = arguments.steps
        self.after_us: list[float] = []
        self.sensors_share: list[float] = []

    def settle(self) -> None:
        """Begin a block: all ranks, and steps that do not count."""
        clock = NoClock()
        self.comm.Barrier()
        for _ in range(SETTLE_STEPS):
            self.trainer.step(clock)

    def off(self) -> Times:
        """A step without any measurement."""
        clock, durations = NoClock(), []
        self.settle()
        for _ in range(self.num_steps):
            begin = time.perf_counter_ns()
            self.trainer.step(clock)
            durations.append(time.perf_counter_ns() - begin)
        return _times(durations)

    def on(self) -> Times:
        """A step and what is kept of it, the sensors' threads running."""
        from hpc_accel.measure.energy.meter import EnergyMeter

        # The threads exist only while a measured block runs: off is off.
        with EnergyMeter(self.comm, sample_hz=10) as meter, meter.window("block"):
            begin_ns, sensors_ns = time.perf_counter_ns(), sensors_processor_ns()
            durations = self.record(self.num_steps)[1]
            spent_ns = sensors_processor_ns() - sensors_ns
            self.sensors_share.append(spent_ns / (time.perf_counter_ns() - begin_ns))
        return _times(durations)

    def record(self, num_steps: int) -> tuple[Any, list[int]]:
        """Steps as the training loop measures them: the rows kept, and nanoseconds of each step with its record."""
        from hpc_accel.mpi import timeline
        from hpc_accel.runtime.phase_timer import HostTimer
        from hpc_accel.runtime.step import StepResult
        from hpc_accel.train.step_table import StepTable

        clock, rows, durations = HostTimer(), StepTable(_run(), 0, [], timeline.drain), []
        self.settle()
        timeline.enable()
        after_us = 0.0
        for number in range(num_steps):
            begin = time.perf_counter_ns()
            step, phases = self.trainer.step(clock)
            after = time.perf_counter_ns()
            rows.add(number, False, StepResult(step=step, phases=phases, loss=1.0))
            end = time.perf_counter_ns()
            durations.append(end - begin)
            after_us += (end - after) / 1e3
        begin = time.perf_counter_ns()
        rows.seen  # noqa: B018 - puts in order what is still pending; the loop does so every 64 steps
        share_ns = (time.perf_counter_ns() - begin) // num_steps
        durations = [duration + share_ns for duration in durations]
        self.after_us.append(after_us / num_steps + share_ns / 1e3)
        timeline.disable()
        return rows, durations

    def memory_bytes(self) -> int:
        """Growth of this rank's resident set by a meter and the records of many steps."""
        from hpc_accel.measure.energy.meter import EnergyMeter

        before = resident_bytes()
        with EnergyMeter(self.comm, sample_hz=10) as meter, meter.window("memory"):
            rows, _ = self.record(MEMORY_STEPS)
        growth = resident_bytes() - before
        assert len(rows.seen) == MEMORY_STEPS
        return growth


def _run() -> Any:
    from hpc_accel.study.layout import Layout
    from hpc_accel.study.recipe import Recipe
    from hpc_accel.study.run import Measure, Resources, Run, WorkloadSpec

    return Run(
        study="overhead",
        site="local",
        workload=WorkloadSpec(name="perceptron", entry="a:b", global_batch_size=2),
        layout=Layout(dp=2, micro_batch_size=1, accumulation_steps=1),
        recipe=Recipe(),
        resources=Resources(ranks_per_node=2),
        measure=Measure(),
    )


def import_seconds() -> float:
    """Median of five fresh interpreters that import the sensors."""
    times = [
        float(subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True).stdout)
        for _ in range(5)
    ]
    return plain.median(times)


def compare(arguments: argparse.Namespace, comm: Any) -> dict[str, Any] | None:
    """All rounds; the figures on rank 0. A step is as slow as its slowest rank, whose times are a block's."""
    from mpi4py import MPI

    from hpc_accel.measure.statistics import median_ci

    bench = Bench(arguments, comm)
    bench.off()
    memory = comm.allreduce(bench.memory_bytes())  # while nothing has been measured: later, memory is reused
    bench.on()
    bench.after_us.clear()
    off_ms, ratios, of_medians = [], [], []
    began_s, busy_s, own_s = time.perf_counter(), machine_busy_s(), time.process_time()
    for _ in range(arguments.rounds):
        blocks = [block() for block in (bench.off, bench.on, bench.on, bench.off)]
        for found, mine in ((ratios, [mean for mean, _ in blocks]), (of_medians, [median for _, median in blocks])):
            times = [comm.allreduce(each, op=MPI.MAX) for each in mine]
            found.append((times[1] + times[2]) / (times[0] + times[3]))
        off_ms.append((times[0] + times[3]) / 2)
    own_s = comm.allreduce(time.process_time() - own_s)
    others = (machine_busy_s() - busy_s - own_s) / (time.perf_counter() - began_s) / (os.cpu_count() or 1)
    after_us, share = plain.median(bench.after_us), plain.median(bench.sensors_share)
    gathered = comm.gather((after_us, share))
    if gathered is None:
        return None
    ratio, low, high = median_ci(ratios)
    of_median, *of_median_ci = median_ci(of_medians)
    after_us, share = max(each for each, _ in gathered), max(each for _, each in gathered)
    return {
        "rounds": arguments.rounds,
        "steps_per_block": arguments.steps,
        "other_processes_share_of_machine": others,
        "step_time_off_ms": plain.median(off_ms),
        "ratio_on_over_off": ratio,
        "ratio_ci": [low, high],
        "ratio_of_median_step": of_median,
        "ratio_of_median_step_ci": of_median_ci,
        "ratios": ratios,
        "record_us_per_step": after_us,
        "sensors_processor_share": share,
        "spent_share_of_step": after_us / 1e3 / plain.median(off_ms) + share,
        "memory_bytes_per_node": memory,
        "memory_steps": MEMORY_STEPS,
    }


def main() -> None:
    """All ranks; rank 0 prints."""
    arguments = options()
    load_before = os.getloadavg()
    import_s = (
        import_seconds() if int(os.environ.get("OMPI_COMM_WORLD_RANK") or os.environ.get("PMI_RANK") or "0") == 0 else 0
    )
    from mpi4py import MPI

    import hpc_accel.mpi
    from hpc_accel.measure import provenance

    world = hpc_accel.mpi.init("mpi4py")
    comm = MPI.COMM_WORLD
    with tempfile.TemporaryDirectory() as directory:
        if not Path("/sys/class/powercap/intel-rapl:0").exists():
            stand_in_sensors(Path(directory))
            os.environ["HPC_ACCEL_SYSFS"] = directory
        figures = compare(arguments, comm)
        comm.Barrier()
    if figures is not None:
        content = {
            "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
            "num_ranks": world.size,
            "num_cpus": os.cpu_count(),
            "load_1min_before": load_before[0],
            "load_1min_after": os.getloadavg()[0],
            "targets": TARGETS,
            "import_s": import_s,
            **figures,
            "provenance": provenance.collect(),
        }
        text = json.dumps(content, indent=1)
        print(text)
        if arguments.json:
            arguments.json.write_text(text + "\n")
    hpc_accel.mpi.shutdown()


if __name__ == "__main__":
    main()
