"""Where the joules went: each device's sampled power, shared among the ranks that use it, by what each was doing.

    device A   ---- 100 W ----------------------    rank 0   compute | comm_exposed | compute | idle
                                                    rank 1   compute          | pipeline_wait | compute

At every moment a device's power is divided evenly among its ranks, and a rank's share goes to the phase it is in. So
the phases of a device add up to what it used. A GPU belongs to the ranks that compute on it (none: it was idle);
everything else, and GPUs that cannot be told to be anybody's, belong to all ranks of the node. Ranks compute their own
shares; only sums travel.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hpc_accel.measure.energy.nodes import Nodes
from hpc_accel.measure.energy.power_samples import PowerSeries
from hpc_accel.measure.energy.scopes import GPU_SCOPES
from hpc_accel.measure.events import Piece, Span

METHOD = "sampled power, divided evenly among the ranks of a device and by what each of them was doing"
NO_SAMPLES = "no power was sampled: no sensor could be read"
UNCOVERED = "the power samples do not cover all timed steps"
COARSE = "phases are shorter than the time between power samples: each shows the mean power"


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """One sensor's samples; `key` tells GPUs apart, `identity` finds the sensor's row in an energy figure."""

    key: str
    identity: tuple[str, str, str]
    scope: str
    series: PowerSeries


def gather(nodes: Nodes, mine: Sequence[Device], spans: Sequence[Span], device_key: str) -> list[dict[str, Any]]:
    """One row per sensor of any node: identity, scope, phases; the same on all ranks. Collective.

    `spans` are this rank's phases and `mine` the sensors it reads, both on one clock; `device_key` is the UUID of the
    GPU it computes on, or empty.
    """
    gathered = nodes.within_node((list(mine), device_key))
    devices, keys = nodes.to_node(([each for found, _ in gathered for each in found], [key for _, key in gathered]))
    shares = nodes.within_node(_shares(devices, keys, nodes.node_rank, spans))
    rows = [_row(device, [part[device.identity] for part in shares if device.identity in part]) for device in devices]
    return list(nodes.to_all([row for found in nodes.across_nodes(rows) for row in found]))


def _shares(
    devices: Sequence[Device], keys: Sequence[str], node_rank: int, spans: Sequence[Span]
) -> dict[tuple[str, str, str], dict[str, dict[str, Any]]]:
    """What each device this rank uses did during its phases, not yet divided among the ranks."""
    from hpc_accel.measure.energy.derived import by_phase  # numpy: not for who only reads sensors

    found = {}
    # Not every source names GPUs as torch does: where no name is known, whose they are is not known either.
    named = any(device.scope in GPU_SCOPES and device.key in keys for device in devices)
    for device in devices:
        is_gpu = named and device.scope in GPU_SCOPES
        if not is_gpu or device.key == keys[node_rank]:
            found[device.identity] = by_phase([device.series], spans)
        elif device.key not in keys and node_rank == 0:
            unused = [Piece("idle", span.start_ns, span.end_ns) for span in spans]
            found[device.identity] = by_phase([device.series], unused)
    return found


def _row(device: Device, shares: Sequence[dict[str, dict[str, Any]]]) -> dict[str, Any]:
    """Node leader: the mean over the ranks that use the device."""
    names = list(dict.fromkeys(name for share in shares for name in share))
    phases: dict[str, float | None] = {}
    for name in names:
        parts = [share[name]["energy_j"] for share in shares if name in share]
        phases[name] = None if None in parts else sum(parts) / len(shares)
    resolved = [share[name]["is_resolved"] for share in shares for name in share if name != "idle"]
    return {
        "identity": device.identity,
        "name": device.series.name,
        "node": device.series.node,
        "scope": device.scope,
        "phases_j": phases,
        "is_resolved": bool(resolved) and all(resolved),
    }


def attribute(energy: dict[str, Any], rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Fields that stand beside an energy figure: `by_phase_j`, `by_device`, and how well and how they are known.

    Only sensors that are part of the figure's total count towards its phases; GPUs that no rank computes on are told
    apart. Everything is null where a sensor of the total has no samples, and the reason says so.
    """
    shown = [sensor for sensor in energy["sensors"] if sensor["is_counted"] or is_idle_gpu(sensor)]
    known: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for each in rows:
        known.setdefault(tuple(each["identity"]), []).append(each)
    # Two nodes of one name have equal identities; both lists are in the order of the nodes.
    rows_shown = [(sensor, _next(known, (sensor["node"], sensor["source"], sensor["key"]))) for sensor in shown]
    devices = [
        {
            "name": sensor["name"],
            "node": sensor["node"],
            "scope": sensor["scope"],
            "is_counted": sensor["is_counted"],
            "energy_j": sensor["energy_j"],
            "phases_j": row["phases_j"] if row else None,
        }
        for sensor, row in rows_shown
    ]
    found = [(sensor, row) for sensor, row in rows_shown if sensor["is_counted"]]
    reason = ""
    if energy["energy_j"] is None:
        reason = energy["reason"]
    elif not found or any(row is None or not row["phases_j"] for _, row in found):
        reason = NO_SAMPLES
    elif any(value is None for _, row in found if row for value in row["phases_j"].values()):
        reason = UNCOVERED
    if reason:
        return unknown(reason, devices)
    return _known(
        _added_phases([device["phases_j"] for device in devices if device["is_counted"]]),
        devices,
        resolved=all(row["is_resolved"] for _, row in found if row),
    )


def is_idle_gpu(sensor: dict[str, Any]) -> bool:
    """Whether this row of an energy figure is a GPU that was measured and that no rank computes on."""
    return sensor.get("is_used") is False and sensor["energy_j"] is not None


def combine(splits: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The split of windows that follow each other; not known where that of one of them is not."""
    devices = _added_devices([each["by_device"] for each in splits])
    lacking = [each["phases_reason"] for each in splits if each["by_phase_j"] is None]
    if lacking:
        some = f"{len(lacking)} of {len(splits)} windows: " if len(lacking) < len(splits) else ""
        return unknown(some + lacking[0], devices)
    phases_j = _added_phases([each["by_phase_j"] for each in splits])
    return _known(phases_j, devices, resolved=all(each["phases_resolved"] for each in splits))


def _added_devices(lists: Sequence[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Device by device, where all windows had the same ones; else none, for whose share would be whose is a guess."""
    names = [[(row["node"], row["name"], row["scope"]) for row in rows] for rows in lists]
    if any(each != names[0] for each in names):
        return []
    found = []
    for rows in zip(*lists, strict=True):
        energies = [row["energy_j"] for row in rows]
        energy_j = None if None in energies else sum(energies)
        found.append(rows[0] | {"energy_j": energy_j, "phases_j": _added_phases([row["phases_j"] for row in rows])})
    return found


def _added_phases(parts: Sequence[dict[str, float | None] | None]) -> dict[str, float | None] | None:
    if None in parts:
        return None
    known = [part for part in parts if part is not None]
    total: dict[str, float | None] = {}
    for name in dict.fromkeys(name for part in known for name in part):
        values = [part[name] for part in known if name in part]
        total[name] = None if None in values else sum(value for value in values if value is not None)
    return total


def _next(known: dict[tuple[str, ...], list[dict[str, Any]]], identity: tuple[str, ...]) -> dict[str, Any] | None:
    rows = known.get(identity)
    return rows.pop(0) if rows else None


def _known(
    phases_j: dict[str, float | None] | None, devices: Sequence[dict[str, Any]], *, resolved: bool
) -> dict[str, Any]:
    return {
        "by_phase_j": phases_j,
        "by_device": list(devices),
        "phases_resolved": resolved,
        "phases_method": METHOD,
        "phases_note": "" if resolved else COARSE,
        "phases_reason": "",
    }


def unknown(reason: str, devices: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """The same fields where the split is not known."""
    return {
        "by_phase_j": None,
        "by_device": list(devices),
        "phases_resolved": None,
        "phases_method": "none",
        "phases_note": "",
        "phases_reason": reason,
    }
