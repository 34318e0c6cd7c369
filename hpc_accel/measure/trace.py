"""One trace.json of all ranks on one clock, in the Chrome trace format that Perfetto opens (ui.perfetto.dev).

    process "rank 3 (node07)"     track "phases": steps, and in them data, forward, backward, optimizer, ...
                                  tracks "communication": one slice per operation while it was under way
    arrows                        from each send to the receive it met
    process "power (node07)"      one counter per sensor, in watts

Every rank writes its own events as text, compresses them and sends them to rank 0, which appends one rank
after the other: no rank holds more than one other's chunk. What would not be readable any more is cut, and the
trace's metadata say so: ranks evenly thinned above `max_ranks`, events above `max_events` of a rank.
"""

from __future__ import annotations

import json
import platform
import sys
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hpc_accel.errors import CannotCreateError, InputOutputError
from hpc_accel.files import atomic_file
from hpc_accel.measure.clock import ClockOffset, Timebase
from hpc_accel.measure.energy.power_samples import PowerSeries
from hpc_accel.measure.events import CommEvent, Span
from hpc_accel.measure.phases import is_point_to_point

MAX_RANKS = 256
MAX_EVENTS = 20_000
_TAG = 7412
_PHASES, _COMMUNICATION = 0, 1
_POWER_PID = 1_000_000
"""Power tracks stand below the ranks: their process numbers begin here."""


GroupRanks = Mapping[str, Sequence[int]]
"""Name of a process group -> the rank in `comm` of each of its members. An arrow needs to know who a peer is."""


def torch_groups() -> dict[str, list[int]]:
    """The groups torch.distributed has now, by the names its backends know; empty without it."""
    dist = sys.modules.get("torch.distributed")
    if dist is None or not dist.is_initialized():
        return {}
    world = getattr(dist.distributed_c10d, "_world", None)
    groups = getattr(world, "pg_group_ranks", {})
    return {
        group.group_name: sorted(ranks, key=ranks.__getitem__)
        for group, ranks in groups.items()
        if hasattr(group, "group_name")
    }


def write(
    path: Path,
    comm: Any,
    spans: Sequence[Span],
    comm_events: Sequence[CommEvent],
    power_samples: Sequence[PowerSeries] = (),
    offsets: ClockOffset | Timebase | None = None,
    *,
    group_ranks: GroupRanks | None = None,
    max_ranks: int = MAX_RANKS,
    max_events: int = MAX_EVENTS,
) -> str:
    """Write the trace; all ranks take part, rank 0 writes by one rename. Returns why it could not, else ""."""
    timebase = Timebase(first=offsets) if isinstance(offsets, ClockOffset) else offsets
    common_ns = timebase.common_ns if timebase else int
    starts = [item.start_ns for item in spans] + [event.started_ns for event in comm_events]
    origin_ns = comm.allreduce(common_ns(min(starts)) if starts else 2**62, op=_minimum())
    error_ns = comm.allreduce(timebase.error_ns if timebase else 0, op=_maximum())
    every = -(-comm.Get_size() // max_ranks)
    rank = comm.Get_rank()
    chunk = b""
    if rank % every == 0:
        groups = torch_groups() if group_ranks is None else group_ranks
        build = _Build(rank, lambda own_ns: (common_ns(own_ns) - origin_ns) / 1000, groups)
        chunk = zlib.compress(build.text(spans, comm_events, power_samples, max_events).encode(), 1)
    metadata = {
        "clock": "rank 0",
        "clock_error_us": error_ns / 1000,
        "num_ranks": comm.Get_size(),
        "every_nth_rank": every,
    }
    return str(comm.bcast(_collect(path, comm, chunk, every, metadata), root=0))


def _minimum() -> Any:
    from mpi4py import MPI

    return MPI.MIN


def _maximum() -> Any:
    from mpi4py import MPI

    return MPI.MAX


def _collect(path: Path, comm: Any, chunk: bytes, every: int, metadata: dict[str, Any]) -> str | None:
    """Rank 0 appends chunk after chunk; the others send. Rank 0 receives all even when it cannot write."""
    if comm.Get_rank() != 0:
        if chunk:
            comm.send(chunk, dest=0, tag=_TAG)
        return None
    others = (comm.recv(source=source, tag=_TAG) for source in range(every, comm.Get_size(), every))
    try:
        with atomic_file(path) as file:
            file.write(b'{"displayTimeUnit":"ms","metadata":' + json.dumps(metadata).encode() + b',"traceEvents":[\n')
            file.write(zlib.decompress(chunk))
            for other in others:
                file.write(b",\n" + zlib.decompress(other))
            file.write(b"\n]}\n")
    except (InputOutputError, CannotCreateError) as error:
        for _ in others:  # whose ranks wait until somebody takes their chunk
            pass
        return error.value
    return ""


class _Build:
    """One rank's events as text."""

    def __init__(self, rank: int, microseconds: Callable[[int], float], groups: GroupRanks) -> None:
        self._rank = rank
        self._us = microseconds
        self._groups = groups

    def text(
        self, spans: Sequence[Span], events: Sequence[CommEvent], power: Sequence[PowerSeries], max_events: int
    ) -> str:
        """All events, comma-separated, spans first when there are too many."""
        slices = [*self._phases(spans), *self._communication(events)]
        window = (min((s.start_ns for s in spans), default=0), max((s.end_ns for s in spans), default=0))
        kept = [*self._names(events), *slices[:max_events], *self._power(power, *window)]
        if len(slices) > max_events:
            kept.append(self._event("M", _PHASES, name="process_labels", args={"labels": f"first {max_events} events"}))
        return ",\n".join(json.dumps(event, separators=(",", ":")) for event in kept)

    def _event(self, kind: str, track: int, **more: Any) -> dict[str, Any]:
        return {"ph": kind, "pid": self._rank, "tid": track, **more}

    def _names(self, events: Sequence[CommEvent]) -> Iterator[dict[str, Any]]:
        yield self._event("M", 0, name="process_name", args={"name": f"rank {self._rank} ({platform.node()})"})
        yield self._event("M", 0, name="process_sort_index", args={"sort_index": self._rank})
        yield self._event("M", _PHASES, name="thread_name", args={"name": "phases"})
        for lane in range(max(lanes(events), default=-1) + 1):
            name = "communication" if lane == 0 else f"communication {lane + 1}"
            yield self._event("M", _COMMUNICATION + lane, name="thread_name", args={"name": name})

    def _phases(self, spans: Iterable[Span]) -> Iterator[dict[str, Any]]:
        for span in sorted(spans, key=lambda span: (span.start_ns, -span.end_ns)):
            start_us = self._us(span.start_ns)
            yield self._event("X", _PHASES, name=span.name, ts=start_us, dur=self._us(span.end_ns) - start_us)

    def _communication(self, events: Sequence[CommEvent]) -> Iterator[dict[str, Any]]:
        met: dict[tuple[str, int, int], int] = defaultdict(int)
        for event, lane in zip(events, lanes(events), strict=True):
            track = _COMMUNICATION + lane
            start_us, end_us = self._us(event.started_ns), self._us(event.ended_ns)
            arguments = {"bytes": event.num_bytes, "group": event.group}
            queued_us = (event.started_ns - event.enqueued_ns) / 1000
            yield self._event(
                "X", track, name=event.op, ts=start_us, dur=end_us - start_us, args=arguments | {"queued_us": queued_us}
            )
            members = self._groups.get(event.group, ())
            if event.peer is None or not 0 <= event.peer < len(members) or not is_point_to_point(event.op):
                continue
            yield self._flow(event, members[event.peer], met, track, start_us, end_us)

    def _flow(
        self,
        event: CommEvent,
        peer: int,
        met: dict[tuple[str, int, int], int],
        track: int,
        start_us: float,
        end_us: float,
    ) -> dict[str, Any]:
        """One end of an arrow: the n-th send from a to b meets the n-th receive at b from a."""
        is_send = "send" in event.op.lower()
        pair = (event.group, self._rank, peer) if is_send else (event.group, peer, self._rank)
        met[pair] += 1
        identity = f"{pair[0]}/{pair[1]}>{pair[2]}/{met[pair]}"
        arrow = {"name": "message", "cat": "message", "id": identity}
        if is_send:
            return self._event("s", track, ts=start_us, **arrow)
        # Just before the end: a viewer ties the arrow to the slice around this moment.
        return self._event("f", track, ts=end_us - min(0.001, (end_us - start_us) / 2), bp="e", **arrow)

    def _power(self, power: Sequence[PowerSeries], start_ns: int, end_ns: int) -> Iterator[dict[str, Any]]:
        """Counters while the traced steps ran; each sensor is written by the one rank that reads it."""
        pid = _POWER_PID + self._rank
        if power:
            name = f"power ({platform.node()})"
            yield {"ph": "M", "pid": pid, "tid": 0, "name": "process_name", "args": {"name": name}}
        for series in power:
            for time_ns, power_w in zip(series.times_ns, series.powers_w, strict=True):
                if start_ns <= time_ns <= end_ns:
                    event = {"ph": "C", "pid": pid, "tid": 0, "name": series.name, "ts": self._us(time_ns)}
                    yield event | {"args": {"W": round(power_w, 3)}}


def lanes(events: Sequence[CommEvent]) -> list[int]:
    """A track for each event such that no two on one track overlap; as few tracks as possible, lowest first."""
    busy_until_ns: list[int] = []
    found = [0] * len(events)
    for index in sorted(range(len(events)), key=lambda index: events[index].started_ns):
        event = events[index]
        free = [lane for lane, until_ns in enumerate(busy_until_ns) if until_ns <= event.started_ns]
        lane = free[0] if free else len(busy_until_ns)
        if not free:
            busy_until_ns.append(0)
        busy_until_ns[lane] = event.ended_ns
        found[index] = lane
    return found
