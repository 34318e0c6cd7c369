"""EnergyMeter: what a run used, between two points all ranks agree on, from every sensor that can be read.

    meter = EnergyMeter(comm, gpu=uuid)          all ranks; finds sensors, shares them out, starts the readers
    with meter.window("timed") as window: ...    all ranks; device synchronised, barrier, read, at both ends
    window.result                                the same on all ranks; `energy_j` None with a reason if unknown

The meter is collective over its own duplicate of `comm`, so it never meets training's messages. What goes
wrong with sensors ends up in `reason`; an exception in the body of a window passes through untouched, and
then nothing collective happens any more, since other ranks may be gone.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any

from hpc_accel.measure.clock import ClockOffset, Timebase
from hpc_accel.measure.energy import aggregate, attribution, gpus_in_use, power_samples, scopes
from hpc_accel.measure.energy.aggregate import NodeRecord, SensorEnergy
from hpc_accel.measure.energy.counter import Mark, interval
from hpc_accel.measure.energy.figure import EnergyFigure
from hpc_accel.measure.energy.idle import with_idle
from hpc_accel.measure.energy.nodes import Nodes, assign
from hpc_accel.measure.energy.reader import DISCOVER_TIMEOUT_S, Reader
from hpc_accel.measure.energy.sensors.sensor import SensorInfo
from hpc_accel.measure.energy.sensors.sources import SOURCES
from hpc_accel.measure.energy.wall_clock import Clock, WallClock
from hpc_accel.measure.events import Span

IDLE = "idle"
"""The name of the window that is the baseline of the others."""
IDLE_WINDOW_S = 30.0


def synchronise_device() -> None:
    """Wait for the CUDA work enqueued so far, where CUDA is in use at all."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


class Window:
    """One measured interval; `result` is filled when it closes."""

    def __init__(self, meter: EnergyMeter, name: str) -> None:
        self.name = name
        self.result = EnergyFigure.missing("the window has not been closed")
        self.interval_ns = (0, 0)
        """Both ends on this process's clock."""
        self._meter = meter
        self._start_ns = 0
        self._start: dict[str, Mark | str] = {}

    def elapsed_s(self) -> float:
        """Since it opened."""
        return (self._meter.clock.now_ns() - self._start_ns) * 1e-9

    def __enter__(self) -> Window:
        self._start_ns, self._start = self._meter.edge()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            return
        end_ns, end = self._meter.edge()
        self.interval_ns = (self._start_ns, end_ns)
        self.result = self._meter.conclude(self.name, (end_ns - self._start_ns) * 1e-9, self._start, end)


class EnergyMeter:
    """All sensors under one communicator. `sample_hz` above 0 also keeps power samples at that rate.

    `gpu` is the UUID of the GPU this rank computes on (gpus_in_use.uuid_of), empty where it computes on none. GPUs that
    no rank names are then no part of the total. None where nobody can say yet: all GPUs that are seen count.
    """

    def __init__(self, comm: Any, sample_hz: float = 0.0, gpu: str | None = None, clock: Clock | None = None) -> None:
        self.clock = clock or WallClock()
        self._nodes = Nodes(comm)
        self._readers = [Reader(name, scope, find, sample_hz, self.clock) for name, scope, find in SOURCES]
        deadline_s = time.monotonic() + DISCOVER_TIMEOUT_S
        found = [info for reader in self._readers for info in reader.wait_ready(deadline_s)]
        gathered = self._nodes.within_node(found)
        owners, union = assign(gathered) if gathered else ({}, [])
        owners = self._nodes.to_node(owners)
        mine = {key for key, rank in owners.items() if rank == self._nodes.node_rank}
        for reader in self._readers:
            reader.own(info.key for info in found if info.source == reader.source and info.key in mine)
        self._owned = {info.key: info for info in found if info.key in mine}
        self._union = union
        self._used = gpus_in_use.by_key(union, gpus_in_use.gather(self._nodes, gpu))
        self._idle: EnergyFigure | None = None
        self._described = self._nodes.to_all(self._describe_all())

    def _describe_all(self) -> list[dict[str, Any]]:
        """Rank 0: one row per sensor of any node, for people and for hardware.json."""
        rows = []
        for node, infos, is_used in self._nodes.across_nodes((self._nodes.node_id, self._union, self._used)):
            for info in infos:
                known = {"available": info.is_available, "is_used": is_used[info.key]}
                rows.append(asdict(info) | {"node": node.partition("/")[2]} | known)
        return rows

    def describe(self) -> list[dict[str, Any]]:
        """Every sensor found: name, scope, node, whether available, and if not the reason and the remedy."""
        return self._described

    @property
    def min_window_s(self) -> float:
        """The shortest window without a resolution warning: 100 updates of the slowest sensor of the total."""
        readable = [row for row in self._described if row["available"] and row["is_used"] is not False]
        by_node: dict[str, set[str]] = {row["node"]: set() for row in readable}
        for row in readable:
            by_node[row["node"]].add(row["scope"])
        chosen = scopes.choose(by_node)
        periods = [row["update_period_s"] for row in readable if row["scope"] in chosen]
        return aggregate.UPDATES_WANTED * max(periods, default=0.0)

    def window(self, name: str) -> Window:
        """A context manager; collective at both ends."""
        return Window(self, name)

    @property
    def can_read(self) -> bool:
        """Whether any sensor of any node can be read; the same on all ranks."""
        return any(row["available"] for row in self._described)

    def measure_idle(self, duration_s: float | None = None) -> EnergyFigure | None:
        """Measure the idle nodes now, ranks asleep, for `duration_s`; reported beside later windows. Collective.

        None means 30 s where a sensor can be read and no time at all elsewhere.
        """
        duration_s = (IDLE_WINDOW_S if self.can_read else 0.0) if duration_s is None else duration_s
        if not duration_s:
            return None
        with self.window(IDLE) as window:
            self.clock.sleep(duration_s)
        self._idle = window.result
        return window.result

    def _devices(self, since_ns: int | None = None) -> list[attribution.SampledDevice]:
        """Power samples of the sensors this rank reads, on its own clock."""
        node = self._nodes.node_id.partition("/")[2]
        found = []
        for reader in self._readers:
            for key, (times_ns, powers_w) in reader.power(since_ns).items():
                info = self._owned[key]
                series = power_samples.PowerSeries(
                    name=info.name, node=node, scope=info.scope, times_ns=times_ns, powers_w=powers_w
                )
                identity = (node, info.source, key)
                found.append(attribution.SampledDevice(key=key, identity=identity, scope=info.scope, series=series))
        return found

    def power_series(self) -> list[power_samples.PowerSeries]:
        """Power samples of the sensors this rank reads, on its own clock; not collective."""
        return [device.series for device in self._devices()]

    def attribute(self, energy: EnergyFigure, spans: Sequence[Span], device_key: str) -> EnergyFigure:
        """The same figure with where its joules went, by phase and device (attribution.py). Collective.

        `spans` are this rank's phases on its own clock, which the ranks of a node share.
        """
        since_ns = min((span.start_ns for span in spans), default=None)
        rows = attribution.gather(self._nodes, self._devices(since_ns), spans, device_key)
        return attribution.attribute(energy, rows)

    def write_samples(self, path: Path, offsets: ClockOffset | Timebase | None = None) -> str:
        """energy.parquet of all nodes on rank 0's clock; collective. Returns why it could not be written, else ""."""
        mine = [power_samples.on_common_clock(series, offsets) for series in self.power_series()]
        series = power_samples.gather(self._nodes, mine)
        reason = ""
        if self._nodes.is_root:
            try:
                power_samples.write_parquet(path, series)
            except OSError as error:
                reason = f"{path}: {error.strerror or error}"
        return str(self._nodes.to_all(reason))

    def edge(self) -> tuple[int, dict[str, Mark | str]]:
        """One end of a window: all ranks arrive, then owners read."""
        synchronise_device()
        self._nodes.barrier()
        now_ns = self.clock.now_ns()
        marks: dict[str, Mark | str] = {}
        for reader in self._readers:
            marks.update(reader.marks())
        return now_ns, marks

    def conclude(
        self, name: str, window_s: float, start: dict[str, Mark | str], end: dict[str, Mark | str]
    ) -> EnergyFigure:
        """Bring the owners' intervals together; the same figure on all ranks."""
        mine = [self._measured(info, start, end) for info in self._owned.values()]
        gathered = self._nodes.within_node(mine)
        record = self._node_record(gathered) if gathered else None
        records = self._nodes.across_nodes(record)
        energy = aggregate.aggregate(records, window_s, name) if records else None
        if energy is not None and name != IDLE:
            energy = with_idle(energy, self._idle)
        whole: EnergyFigure = self._nodes.to_all(energy)
        return whole

    def _measured(self, info: SensorInfo, start: dict[str, Mark | str], end: dict[str, Mark | str]) -> SensorEnergy:
        first, last = start.get(info.key, "not read"), end.get(info.key, "not read")
        if isinstance(first, Mark) and isinstance(last, Mark):
            part = interval(info, first, last)
            return _record(info, self._nodes.node_id, part.energy_j, part.window_s, part.reason)
        reason = first if isinstance(first, str) else str(last)
        return _record(info, self._nodes.node_id, None, None, reason)

    def _node_record(self, gathered: list[list[SensorEnergy]]) -> NodeRecord:
        """Node leader: what owners measured, and what nobody could read."""
        sensors = [sensor for measured in gathered for sensor in measured]
        owned = {sensor.key for sensor in sensors}
        closed = [info for info in self._union if info.key not in owned]
        sensors += [_record(info, self._nodes.node_id, None, None, info.reason) for info in closed]
        sensors = [replace(sensor, is_used=self._used[sensor.key]) for sensor in sensors]
        return NodeRecord(
            node_id=self._nodes.node_id,
            boot_id=self._nodes.boot_id,
            hostname=platform.node(),
            num_ranks=len(gathered),
            num_ranks_answered=len(gathered),
            sensors=sensors,
            notes=_notes(),
        )

    def __enter__(self) -> EnergyMeter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for reader in self._readers:
            reader.stop()
        if kind is None:
            self._nodes.free()

    def close(self) -> None:
        """Stop the readers and give the communicators back; collective."""
        for reader in self._readers:
            reader.stop()
        self._nodes.free()


def _record(info: SensorInfo, node: str, energy_j: float | None, window_s: float | None, reason: str) -> SensorEnergy:
    return SensorEnergy(
        name=info.name,
        node=node,
        source=info.source,
        scope=info.scope,
        key=info.key,
        kind=info.kind,
        update_period_s=info.update_period_s,
        is_global=info.is_global,
        is_present=info.is_present,
        energy_j=energy_j,
        window_s=window_s,
        reason=reason,
        remedy=info.remedy,
    )


def _notes() -> list[str]:
    """What a reader of the figure should know about this node."""
    notes = []
    if os.environ.get("HPC_ACCEL_SYSFS"):
        notes.append(f"counters read below HPC_ACCEL_SYSFS={os.environ['HPC_ACCEL_SYSFS']}, not from this machine")
    job_cpus, cpus = os.environ.get("SLURM_CPUS_ON_NODE", ""), os.cpu_count()
    if job_cpus.isdecimal() and cpus is not None and int(job_cpus) < cpus:
        notes.append(f"the job has {job_cpus} of the node's {cpus} CPUs: counters of shared parts include other jobs")
    return notes
