"""One thread per source that does all its reading, so that no read can stop the training.

The thread discovers the source's sensors, keeps their counters, looks often enough that no wrap is missed,
and samples power when asked. The training thread only ever waits a bounded time for it: a library that
blocks costs the figure, not the run. It is a thread and not a process, because a child process would import
the main script, and MPI with it, once more.

    counters that wrap     every min(30 s, a quarter of the time to wrap at the largest power)
    other counters         every 30 s, or not at all where nothing wraps
    power meters           at the sampling rate, or once per update if that is slower
    sampling               all sensors at the sampling rate
"""

from __future__ import annotations

import queue
import threading
import time
from array import array
from collections.abc import Callable, Iterable
from typing import Any

from hpc_accel.measure.energy.counter import EnergyCounter, Mark
from hpc_accel.measure.energy.power_samples import Series
from hpc_accel.measure.energy.sensors.sensor import Absent, Sensor, SensorError, SensorInfo, absent
from hpc_accel.measure.energy.wall_clock import Clock

READ_TIMEOUT_S = 2.0
DISCOVER_TIMEOUT_S = 10.0
LONGEST_PERIOD_S = 30.0
SHORTEST_PERIOD_S = 0.05
"""Twenty reads a second: more would disturb the figure and the run."""
TOGETHER_NS = round(SHORTEST_PERIOD_S / 5 * 1e9)
"""Sensors due this soon are read with the one that is due: waking up costs more than reading."""


def period_s(info: SensorInfo, sample_hz: float) -> float | None:
    """Seconds between two looks at this sensor; None where looking at the ends of a window is enough."""
    wanted = [max(1 / sample_hz, SHORTEST_PERIOD_S)] if sample_hz > 0 else []
    if info.kind == "power":
        wanted = [max(info.update_period_s, SHORTEST_PERIOD_S, wanted[0] if wanted else 0.1)]
    if info.wrap_j is not None:
        wanted.append(max(SHORTEST_PERIOD_S, info.wrap_j / info.max_power_w / 4))
    if info.source == "intel":
        wanted.append(LONGEST_PERIOD_S)
    return min([*wanted, LONGEST_PERIOD_S]) if wanted else None


class Reader:
    """A source's thread. Construct, then `wait_ready`, then `own`; `marks` at both ends of a window; `stop`."""

    def __init__(
        self, source: str, scope: str, discover: Callable[[], list[Sensor]], sample_hz: float, clock: Clock
    ) -> None:
        self.source = source
        self._scope = scope
        self._discover = discover
        self._sample_hz = sample_hz
        self._clock = clock
        self._requests: queue.SimpleQueue[tuple[Callable[[], Any], queue.SimpleQueue[Any]] | None] = queue.SimpleQueue()
        self._ready = threading.Event()
        self._sensors: dict[str, Sensor] = {}
        self._owned: dict[str, EnergyCounter] = {}
        self._series: dict[str, Series] = {}
        self._period_ns: dict[str, int] = {}
        self._due_ns: dict[str, int] = {}
        self._wanted: list[str] = []
        self._blocked = ""
        try:
            threading.Thread(target=self._run, name=f"energy-{source}", daemon=True).start()
        except RuntimeError as error:  # a limit on threads, processes or memory: that costs the figure, not the run
            self._blocked = f"{source}: its reader did not start: {error}"

    # The training thread's side: every wait is bounded.

    def wait_ready(self, deadline_s: float) -> list[SensorInfo]:
        """What the source has, by time.monotonic() `deadline_s`; a source that does not answer is absent."""
        remedy = "raise the limit on threads or memory (ulimit -u, ulimit -v)"
        if not self._blocked and not self._ready.wait(max(0.0, deadline_s - time.monotonic())):
            self._blocked = f"{self.source}: did not answer within {DISCOVER_TIMEOUT_S:g} s at start"
            remedy = "ask whether the driver hangs"
        if self._blocked:
            return [absent(self.source, self._scope, self._blocked, remedy, present=True).info]
        return [sensor.info for sensor in self._sensors.values()]

    def own(self, keys: Iterable[str]) -> None:
        """From now on read these sensors, and no others; without any the thread ends."""
        self._wanted = [key for key in keys if key in self._sensors]
        if not self._wanted:
            self.stop()
            return
        self._ask(lambda: self._start(self._wanted), READ_TIMEOUT_S)

    def marks(self) -> dict[str, Mark | str]:
        """Both ends of a window: read all owned sensors now; a mark each, or the reason there is none."""
        if not self._wanted:
            return {}
        return self._ask(self._read_owned, READ_TIMEOUT_S) or dict.fromkeys(self._wanted, self._blocked)

    def power(self, since_ns: int | None = None) -> dict[str, tuple[array[int], array[float]]]:
        """Power so far by key, or from shortly before `since_ns`: times in ns and mean watts since the time before."""
        if not self._wanted:
            return {}
        found = self._ask(lambda: {key: series.power(since_ns) for key, series in self._series.items()}, READ_TIMEOUT_S)
        return found or {}

    def stop(self) -> None:
        """End the thread; does not wait for it, since it may be blocked for ever."""
        self._requests.put(None)

    def _ask(self, function: Callable[[], Any], timeout_s: float) -> Any:
        """The thread's answer; None, and never asked again, when it does not come in time."""
        if self._blocked:
            return None
        answer: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._requests.put((function, answer))
        try:
            return answer.get(timeout=timeout_s)
        except queue.Empty:
            self._blocked = f"{self.source}: a read did not return within {timeout_s:g} s"
            return None

    # The reading thread's side.

    def _run(self) -> None:
        try:
            found = self._discover()
        except BaseException as error:  # a broken driver library may raise anything, SystemExit too
            found = [absent(self.source, self._scope, f"{type(error).__name__}: {error}", present=True)]
        self._sensors = {sensor.info.key: sensor for sensor in found}
        self._ready.set()
        while True:
            try:
                request = self._clock.get(self._requests, min(self._due_ns.values(), default=None))
            except queue.Empty:
                self._tick()
                continue
            if request is None:
                return
            function, answer = request
            answer.put(function())

    def _start(self, keys: list[str]) -> bool:
        for key in keys:
            sensor = self._sensors[key]
            if isinstance(sensor, Absent):
                continue
            self._owned[key] = EnergyCounter(sensor.info)
            self._series[key] = Series()
            every_s = period_s(sensor.info, self._sample_hz)
            if every_s is not None:
                self._period_ns[key] = round(every_s * 1e9)
                self._due_ns[key] = self._clock.now_ns()
        return True

    def _tick(self) -> None:
        """Read what is due. Late is late: no catching up with reads nobody needs any more."""
        soon_ns = self._clock.now_ns() + TOGETHER_NS
        for key, due_ns in self._due_ns.items():
            if due_ns <= soon_ns:
                self._read(key)
                self._sample(key)
                every_ns = self._period_ns[key]
                self._due_ns[key] = max(due_ns + every_ns, self._clock.now_ns() + every_ns // 2)

    def _read(self, key: str) -> str:
        """One reading into the counter; the reason where there is none."""
        try:
            reading = self._sensors[key].read()
        except SensorError as error:
            return error.reason
        except BaseException as error:
            return f"{self._sensors[key].info.name}: {type(error).__name__}: {error}"
        self._owned[key].add(reading, self._clock.now_ns())
        return ""

    def _sample(self, key: str) -> None:
        mark = self._owned[key].mark()
        if mark is not None and self._sample_hz > 0:
            self._series[key].add(mark)

    def _read_owned(self) -> dict[str, Mark | str]:
        marks: dict[str, Mark | str] = {}
        for key, counter in self._owned.items():
            reason = self._read(key)
            mark = counter.mark()
            self._sample(key)  # so that power, too, is known up to the window's ends
            marks[key] = reason or mark or "no reading"
        return marks
