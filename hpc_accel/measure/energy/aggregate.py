"""From what each sensor of each node measured to the one figure of the run: pure functions on plain records.

The total is one node scope, else the sum of the outermost disjoint scopes; each physical sensor once, each
scope of a node from one source. What is missing makes the total partial or absent, and says why.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from hpc_accel.measure.energy import scopes
from hpc_accel.measure.energy.figure import Coverage, EnergyFigure, SensorRow

UPDATES_WANTED = 100
"""Updates of a sensor a window should hold: then an update cut at its end is 1 % of it."""
MAX_NOTES = 20
NO_SENSOR = "no energy sensor on {nodes}: a virtual machine, a container that hides them, or unsupported hardware"
NO_SENSOR_REMEDY = "run on nodes with counters (docs/measurement.md lists them), or use the scheduler's accounting"


@dataclass(frozen=True, kw_only=True, slots=True)
class SensorEnergy:
    """One sensor's part of a window: `energy_j` None exactly where `reason` says why.

    `is_used` False is a GPU that no rank of the run computes on: shown, and neither counted nor missed.
    """

    name: str
    node: str
    source: str
    scope: str
    key: str
    kind: str
    update_period_s: float
    is_global: bool = False
    is_present: bool = True
    is_used: bool | None = None
    energy_j: float | None = None
    window_s: float | None = None
    reason: str = ""
    remedy: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class NodeRecord:
    """What one node reports at the end of a window."""

    node_id: str
    boot_id: str
    hostname: str
    num_ranks: int
    num_ranks_answered: int
    sensors: list[SensorEnergy]
    notes: list[str] = field(default_factory=list)


def unique(nodes: Iterable[NodeRecord]) -> dict[str, list[SensorEnergy]]:
    """Sensors by node, each physical one once: a key is unique within its node, a GPU's UUID in the world."""
    seen: set[tuple[str, str]] = set()
    by_node: dict[str, list[SensorEnergy]] = defaultdict(list)
    for node in nodes:
        by_node[node.node_id].extend([])
        for sensor in node.sensors:
            identity = ("" if sensor.is_global else node.node_id, f"{sensor.source}/{sensor.key}")
            if identity not in seen:
                seen.add(identity)
                by_node[node.node_id].append(sensor)
    return dict(by_node)


def preferred_source(sensors: Sequence[SensorEnergy], scope: str) -> list[SensorEnergy]:
    """A node's sensors of one scope, from the first source that measured it (else of the first that has it)."""
    candidates = [s for s in sensors if s.scope == scope and s.is_present and s.is_used is not False]
    ordered = sorted({sensor.source for sensor in candidates}, key=_source_rank)
    for source in ordered:
        chosen = [sensor for sensor in candidates if sensor.source == source]
        if any(sensor.energy_j is not None for sensor in chosen):
            return chosen
    return [sensor for sensor in candidates if ordered and sensor.source == ordered[0]]


def _source_rank(source: str) -> int:
    return scopes.SOURCE_ORDER.index(source) if source in scopes.SOURCE_ORDER else len(scopes.SOURCE_ORDER)


def _aligned_j(sensor: SensorEnergy, window_s: float) -> float:
    """Joules over the run's window, from those over the sensor's own, which begins and ends at its own reads.

    Integrated power is a mean power, good for any window near its own. A counter that was 10 % off may have missed an
    update, which no scaling brings back.
    """
    assert sensor.energy_j is not None
    limit = 2.0 if sensor.kind == "power" else 1.1
    if not sensor.window_s or not 1 / limit < window_s / sensor.window_s < limit:
        return sensor.energy_j
    return sensor.energy_j * window_s / sensor.window_s


def aggregate(nodes: Sequence[NodeRecord], window_s: float, name: str = "") -> EnergyFigure:
    """The figure of one window over all nodes."""
    by_node = unique(nodes)
    # Of a scope whose GPUs are all idle here nothing is missing: it must not keep other nodes' out of the total.
    usable = {
        node: {s.scope for s in found if s.energy_j is not None or s.is_used is False}
        for node, found in by_node.items()
    }
    chosen = scopes.choose(usable)
    counted = [sensor for found in by_node.values() for scope in chosen for sensor in preferred_source(found, scope)]
    measured = [sensor for sensor in counted if sensor.energy_j is not None]
    complete = [node for node, found in usable.items() if chosen and set(chosen) <= found]
    is_partial = bool(measured) and (len(complete) < len(by_node) or len(measured) < len(counted))
    period_s = max((sensor.update_period_s for sensor in measured), default=None)
    reason, remedy = _why(by_node, counted, complete, measured)
    scope = scopes.describe([sensor.scope for sensor in measured]) if measured else None
    idle_j = [s.energy_j for found in by_node.values() for s in found if s.is_used is False and s.energy_j is not None]
    if scope and is_partial:
        scope += f" (partial: {len(complete)} of {len(by_node)} nodes, {len(measured)} of {len(counted)} sensors)"
    return EnergyFigure(
        window=name,
        energy_j=sum(_aligned_j(sensor, window_s) for sensor in measured) if measured else None,
        window_s=window_s,
        scope=scope,
        method=_method(measured),
        is_partial=is_partial,
        unused_gpus_j=sum(idle_j) if idle_j else None,
        sensors=tuple(_row(s, s in measured) for found in by_node.values() for s in found if s.is_present),
        coverage=Coverage(
            ranks=sum(node.num_ranks_answered for node in nodes),
            ranks_expected=sum(node.num_ranks for node in nodes),
            nodes=len(complete),
            nodes_expected=len({node.node_id for node in nodes}),
            devices=len(measured),
            devices_expected=len(counted),
            unused_gpus=len(idle_j),
            notes=tuple(_notes(nodes, by_node, chosen, counted)),
        ),
        resolution_warning=period_s is not None and window_s < UPDATES_WANTED * period_s,
        resolution_s=period_s,
        reason=reason,
        remedy=remedy,
    )


def _method(measured: Sequence[SensorEnergy]) -> str:
    """The weakest method among the sensors of the total."""
    if not measured:
        return "none"
    return "integrated-power" if any(sensor.kind == "power" for sensor in measured) else "counter"


def _row(sensor: SensorEnergy, is_counted: bool) -> SensorRow:
    return SensorRow(
        name=sensor.name,
        node=sensor.node.partition("/")[2] or sensor.node,
        source=sensor.source,
        scope=sensor.scope,
        key=sensor.key,
        kind=sensor.kind,
        update_period_s=sensor.update_period_s,
        is_used=sensor.is_used,
        energy_j=sensor.energy_j,
        window_s=sensor.window_s,
        reason=sensor.reason,
        remedy=sensor.remedy,
        is_counted=is_counted,
    )


def _why(
    by_node: dict[str, list[SensorEnergy]],
    counted: Sequence[SensorEnergy],
    complete: Sequence[str],
    measured: Sequence[SensorEnergy],
) -> tuple[str, str]:
    """Why there is no total, or only a partial one; empty for a whole one."""
    failed = [sensor for sensor in counted if sensor.energy_j is None]
    without = [node for node in by_node if node not in complete]
    if measured and not failed and not without:
        return "", ""
    closed = [sensor for found in by_node.values() for sensor in found if sensor.is_present and sensor.reason]
    present = [sensor for sensor in closed if sensor.is_used is not False] or closed
    unused = sum(s.is_used is False and s.energy_j is not None for found in by_node.values() for s in found)
    if not measured and not present and not unused:
        return NO_SENSOR.format(nodes="this node" if len(by_node) == 1 else f"{len(by_node)} nodes"), NO_SENSOR_REMEDY
    reasons = list(dict.fromkeys(sensor.reason for sensor in failed or present))
    remedies = list(dict.fromkeys(sensor.remedy for sensor in failed or present if sensor.remedy))
    if measured:
        head = f"partial: {len(complete)} of {len(by_node)} nodes measured"
        return "; ".join([head, *reasons[:3]]), "; ".join(remedies[:3])
    if unused:
        reasons.insert(0, f"{unused} GPU(s) can be read, and no rank computes on them")
        remedies = remedies or [NO_SENSOR_REMEDY]
    return "no readable sensor: " + "; ".join(reasons[:3]), "; ".join(remedies[:3])


def _notes(
    nodes: Sequence[NodeRecord],
    by_node: dict[str, list[SensorEnergy]],
    chosen: Sequence[str],
    counted: Sequence[SensorEnergy],
) -> list[str]:
    """What a reader should know: what a node says of itself, odd names, and what the total leaves out or may not."""
    notes = [note for node in nodes for note in node.notes]
    names = defaultdict(set)
    for node in nodes:
        names[node.boot_id].add(node.hostname)
    for same in names.values():
        if len(same) > 1:
            notes.append(f"one kernel answers to {len(same)} host names ({', '.join(sorted(same))})")
    sensors = [sensor for found in by_node.values() for sensor in found]
    for sensor in sensors:
        is_inside = any(scope == sensor.scope or scopes.contains(scope, sensor.scope) for scope in chosen)
        is_missed = sensor.is_present and sensor.energy_j is None and sensor.is_used is not False
        if chosen and is_missed and not is_inside:
            notes.append(f"not in the total: {sensor.name} ({sensor.reason})")
    return list(dict.fromkeys([*notes, *_gpu_notes(sensors, chosen, counted)]))[:MAX_NOTES]


def _gpu_notes(sensors: Sequence[SensorEnergy], chosen: Sequence[str], counted: Sequence[SensorEnergy]) -> list[str]:
    """Whose the GPUs are, where that makes a difference to what the total means."""
    idle = [sensor for sensor in sensors if sensor.is_used is False and sensor.energy_j is not None]
    # A module of NVML's is named by its GPU; others' are not.
    gpus = [s for s in counted if s.scope in scopes.GPU_SCOPES or (s.scope == "module" and s.is_global)]
    open_gpus = [sensor for sensor in gpus if sensor.is_used is None and sensor.energy_j is not None]
    notes = []
    if idle and any(scopes.contains(scope, sensor.scope) for scope in chosen for sensor in idle):
        notes.append(f"the total contains {len(idle)} GPU(s) that no rank computes on: its sensors cover whole nodes")
    elif idle:
        notes.append(f"not in the total: {len(idle)} GPU(s) seen that no rank computes on")
    if open_gpus:
        notes.append(f"not known which of {len(open_gpus)} GPU(s) seen the ranks compute on: all are in the total")
    return notes
