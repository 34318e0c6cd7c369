"""What else used the machine while something was timed: processor time of others, swapping, cores that slowed down.

    before = look()        both ends of what is timed, on every rank; `together` unites those of a node
    ...
    between([(before, look())])

Linux counts a CPU's busy time in /proc/stat and a process's own in /proc/<pid>/stat, both in ticks of 10 ms, so windows
under a second are known to some percent only. What no rank used was used by others. Steal is what a virtual machine's
host took away. See proc(5). A core's clock stands in cpufreq/scaling_cur_freq, and how often heat held it back in
thermal_throttle/core_throttle_count, where the kernel knows them: virtual machines show neither.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

TICK_S = 1 / os.sysconf("SC_CLK_TCK")
MIN_WINDOW_S = 0.2
"""Shorter windows hold too few ticks to say anything."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """Counters at one moment."""

    time_s: float
    busy_s: dict[int, float]  # by CPU: what any process used
    stolen_s: dict[int, float]  # by CPU: what the host of a virtual machine took
    own_s: float  # used by this process and its children
    cpus: frozenset[int]  # those that it may use
    swapped_pages: int | None  # in and out, of the whole node
    throttles: int | None = None  # how often the CPUs that it may use were held back by heat, since the node started
    mhz: float | None = None  # of the CPU that it runs on, which is at work at both ends of what is timed


@dataclass(frozen=True, kw_only=True, slots=True)
class Disturbance:
    """Shares of processor time between two looks, 0 to 1; None with a reason where they are not known."""

    others_share: float | None
    """Of the CPUs that the ranks may use, what other processes used."""
    node_others_share: float | None
    """Of all CPUs of the node: others share its memory, caches and power even on cores of their own."""
    stolen_share: float | None
    """Of the CPUs that the ranks may use, what the host of a virtual machine took."""
    swapped_pages: int | None
    throttle_events: int | None
    """How often heat held a CPU of the ranks back."""
    frequency_drop: float | None
    """By how much of its clock the ranks' CPUs were slower at the end, where that was most."""
    reason: str = ""


def look(proc: Path = Path("/proc"), cpus: Path = Path("/sys/devices/system/cpu")) -> Look | None:
    """The counters now, this process's own among them; None where the kernel does not show them."""
    try:
        busy, stolen = _cpu_times((proc / "stat").read_text())
        own = sum(_process_s(proc / str(pid)) for pid in _with_children(os.getpid(), proc))
    except (OSError, ValueError, IndexError):
        return None
    usable = frozenset(os.sched_getaffinity(0))
    return Look(
        time_s=time.monotonic(),
        busy_s=busy,
        stolen_s=stolen,
        own_s=own,
        cpus=usable,
        swapped_pages=_swapped(proc),
        throttles=_throttles(cpus, usable),
        mhz=_mhz(cpus, proc),
    )


def together(looks: Sequence[Look | None]) -> Look | None:
    """The looks of a node's ranks as one: their own times added, their CPUs united, the mean of their clocks."""
    known = [each for each in looks if each is not None]
    if not known or len(known) < len(looks):
        return None
    cpus = frozenset[int]().union(*(each.cpus for each in known))
    # Ranks that share CPUs count the same events: the largest is enough to say that there were some.
    throttles = [each.throttles for each in known if each.throttles is not None]
    clocks = [each.mhz for each in known if each.mhz is not None]
    return replace(
        known[0],
        own_s=sum(each.own_s for each in known),
        cpus=cpus,
        throttles=max(throttles, default=None),
        mhz=sum(clocks) / len(clocks) if len(clocks) == len(known) else None,
    )


def between(windows: Sequence[tuple[Look | None, Look | None]]) -> Disturbance:
    """What happened inside all of `windows`, each from a first look to a last."""
    known = [(first, last) for first, last in windows if first is not None and last is not None]
    if not known or len(known) < len(windows):
        return _unknown("the kernel does not show processor times (/proc/stat)")
    window_s = sum(last.time_s - first.time_s for first, last in known)
    if window_s < MIN_WINDOW_S:
        return _unknown(f"the timed window of {window_s * 1e3:.0f} ms is too short to tell others' processor time")
    all_cpus = known[0][1].busy_s
    cpus = [cpu for cpu in all_cpus if cpu in known[0][1].cpus] or list(all_cpus)
    own_s = sum(last.own_s - first.own_s for first, last in known)
    drops = [1 - last.mhz / first.mhz for first, last in known if first.mhz and last.mhz]
    return Disturbance(
        others_share=_share(_spent(known, "busy_s", cpus) - own_s, window_s * len(cpus)),
        node_others_share=_share(_spent(known, "busy_s", all_cpus) - own_s, window_s * len(all_cpus)),
        stolen_share=_share(_spent(known, "stolen_s", cpus), window_s * len(cpus)),
        swapped_pages=_grown(known, "swapped_pages"),
        throttle_events=_grown(known, "throttles"),
        frequency_drop=max(0.0, *drops) if drops else None,
    )


def _spent(windows: Iterable[tuple[Look, Look]], counter: str, cpus: Iterable[int]) -> float:
    """Seconds that a counter of `cpus` grew inside the windows."""
    chosen = list(cpus)
    return sum(
        getattr(last, counter).get(cpu, 0.0) - getattr(first, counter).get(cpu, 0.0)
        for first, last in windows
        for cpu in chosen
    )


def _grown(windows: Iterable[tuple[Look, Look]], counter: str) -> int | None:
    """By how much a counter of the node grew inside the windows; None where one end does not know it."""
    ends = [(getattr(first, counter), getattr(last, counter)) for first, last in windows]
    return None if any(None in pair for pair in ends) else sum(last - first for first, last in ends)


def _unknown(reason: str) -> Disturbance:
    return Disturbance(
        others_share=None,
        node_others_share=None,
        stolen_share=None,
        swapped_pages=None,
        throttle_events=None,
        frequency_drop=None,
        reason=reason,
    )


def _share(used_s: float, available_s: float) -> float:
    return min(1.0, max(0.0, used_s / available_s))


def _cpu_times(text: str) -> tuple[dict[int, float], dict[int, float]]:
    """Busy and stolen seconds by CPU. Guests' time is part of user time already."""
    busy, stolen = {}, {}
    for line in text.splitlines():
        name, *values = line.split()
        if not name.startswith("cpu") or name == "cpu":
            continue
        user, nice, system, _idle, _iowait, irq, softirq, steal = (int(value) * TICK_S for value in values[:8])
        busy[int(name[3:])] = user + nice + system + irq + softirq
        stolen[int(name[3:])] = steal
    return busy, stolen


def _with_children(pid: int, proc: Path) -> Iterator[int]:
    """The process and its descendants: data workers compute too."""
    yield pid
    for task in (proc / str(pid) / "task").glob("*/children"):
        try:
            children = task.read_text().split()
        except OSError:  # the thread ended meanwhile
            continue
        for child in children:
            yield from _with_children(int(child), proc)


def _process_s(directory: Path) -> float:
    """User and system time of all threads of a process, those of children that it waited for included."""
    try:
        # The name in parentheses may hold anything; fields are counted from what follows it.
        fields = (directory / "stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:  # a child that ended meanwhile
        return 0.0
    return sum(int(value) for value in fields[11:15]) * TICK_S


def _swapped(proc: Path) -> int | None:
    try:
        rows = dict(line.split() for line in (proc / "vmstat").read_text().splitlines())
        return int(rows["pswpin"]) + int(rows["pswpout"])
    except (OSError, ValueError, KeyError):
        return None


def _throttles(cpus: Path, usable: Iterable[int]) -> int | None:
    try:
        return sum(int((cpus / f"cpu{cpu}/thermal_throttle/core_throttle_count").read_text()) for cpu in usable)
    except (OSError, ValueError):
        return None


def _mhz(cpus: Path, proc: Path) -> float | None:
    try:
        cpu = int((proc / "self/stat").read_text().rpartition(")")[2].split()[36])  # field 39: where it ran last
        return int((cpus / f"cpu{cpu}/cpufreq/scaling_cur_freq").read_text()) / 1e3
    except (OSError, ValueError, IndexError):
        return None
