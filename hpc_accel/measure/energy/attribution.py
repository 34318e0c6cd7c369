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
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hpc_accel.measure.energy.figure import DevicePhases, EnergyFigure, Phases, PhasesJ, SensorRow, added
from hpc_accel.measure.energy.nodes import Nodes
from hpc_accel.measure.energy.power_samples import PowerSeries
from hpc_accel.measure.energy.scopes import GPU_SCOPES
from hpc_accel.measure.events import Piece, Span

if TYPE_CHECKING:
    from hpc_accel.measure.energy.phase_energy import PhaseEnergy

METHOD = "sampled power, divided evenly among the ranks of a device and by what each of them was doing"
NO_SAMPLES = "no power was sampled: no sensor could be read"
UNCOVERED = "the power samples do not cover all timed steps"
COARSE = "phases are shorter than the time between power samples: each shows the mean power"

Identity = tuple[str, str, str]
Shares = dict[Identity, "dict[str, PhaseEnergy]"]


@dataclass(frozen=True, kw_only=True, slots=True)
class SampledDevice:
    """One sensor's samples; `key` tells GPUs apart, `identity` finds the sensor's row in an energy figure."""

    key: str
    identity: Identity
    scope: str
    series: PowerSeries


@dataclass(frozen=True, kw_only=True, slots=True)
class DeviceShare:
    """What a device used in each phase, by its samples; `is_resolved` where they are closer than phases are long."""

    identity: Identity
    phases_j: PhasesJ
    is_resolved: bool


def gather(nodes: Nodes, mine: Sequence[SampledDevice], spans: Sequence[Span], device_key: str) -> list[DeviceShare]:
    """One share per sensor of any node, the same on all ranks. Collective.

    `spans` are this rank's phases and `mine` the sensors it reads, both on one clock; `device_key` is the UUID of the
    GPU it computes on, or empty.
    """
    gathered = nodes.within_node((list(mine), device_key))
    devices, keys = nodes.to_node(([each for found, _ in gathered for each in found], [key for _, key in gathered]))
    shares: list[Shares] = nodes.within_node(_shares(devices, keys, nodes.node_rank, spans))
    rows = [
        _mean(device.identity, [part[device.identity] for part in shares if device.identity in part])
        for device in devices
    ]
    return list(nodes.to_all([row for found in nodes.across_nodes(rows) for row in found]))


def _shares(devices: Sequence[SampledDevice], keys: Sequence[str], node_rank: int, spans: Sequence[Span]) -> Shares:
    """What each device this rank uses did during its phases, not yet divided among the ranks."""
    from hpc_accel.measure.energy.phase_energy import by_phase  # numpy: not for who only reads sensors

    found: Shares = {}
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


def _mean(identity: Identity, shares: Sequence[dict[str, PhaseEnergy]]) -> DeviceShare:
    """Node leader: the mean over the ranks that use the device."""
    phases: PhasesJ = {}
    for name in dict.fromkeys(name for share in shares for name in share):
        whole = added(share[name].energy_j for share in shares if name in share)
        phases[name] = None if whole is None else whole / len(shares)
    resolved = [share[name].is_resolved for share in shares for name in share if name != "idle"]
    return DeviceShare(identity=identity, phases_j=phases, is_resolved=bool(resolved) and all(resolved))


def attribute(energy: EnergyFigure, shares: Sequence[DeviceShare]) -> EnergyFigure:
    """The same figure with its `phases`, and how well and how they are known.

    Only sensors that are part of the figure's total count towards its phases; GPUs that no rank computes on are told
    apart. Where a sensor of the total has no samples, no phase is known, and the reason says so.
    """
    known: dict[Identity, list[DeviceShare]] = {}
    for each in shares:
        known.setdefault(each.identity, []).append(each)
    # Two nodes of one name have equal identities; both lists are in the order of the nodes.
    shown = [
        (sensor, known[sensor.identity].pop(0) if known.get(sensor.identity) else None)
        for sensor in energy.sensors
        if sensor.is_counted or sensor.is_idle_gpu
    ]
    devices = tuple(_device(sensor, share) for sensor, share in shown)
    counted = [share for sensor, share in shown if sensor.is_counted]
    sampled = [share for share in counted if share is not None and share.phases_j]
    reason = ""
    if energy.energy_j is None:
        reason = energy.reason
    elif not counted or len(sampled) < len(counted):
        reason = NO_SAMPLES
    elif any(value is None for share in sampled for value in share.phases_j.values()):
        reason = UNCOVERED
    if reason:
        return replace(energy, phases=Phases(by_device=devices, phases_reason=reason))
    phases_j = add_phases([share.phases_j for share in sampled])
    return replace(energy, phases=_known(phases_j, devices, resolved=all(share.is_resolved for share in sampled)))


def _device(sensor: SensorRow, share: DeviceShare | None) -> DevicePhases:
    return DevicePhases(
        name=sensor.name,
        node=sensor.node,
        scope=sensor.scope,
        is_counted=sensor.is_counted,
        energy_j=sensor.energy_j,
        phases_j=share.phases_j if share else None,
    )


def _known(phases_j: PhasesJ | None, devices: tuple[DevicePhases, ...], *, resolved: bool) -> Phases:
    return Phases(
        by_phase_j=phases_j,
        by_device=devices,
        phases_resolved=resolved,
        phases_method=METHOD,
        phases_note="" if resolved else COARSE,
        phases_reason="",
    )


def combine_phases(windows: Sequence[Phases | None]) -> Phases | None:
    """The phases of windows that follow each other; not known where those of one window are not.

    None where no window was asked for them.
    """
    if not any(windows):
        return None
    each = [phases or Phases() for phases in windows]
    devices = _combine_devices([phases.by_device for phases in each])
    lacking = [phases.phases_reason for phases in each if phases.by_phase_j is None]
    if lacking:
        some = f"{len(lacking)} of {len(each)} windows: " if len(lacking) < len(each) else ""
        return Phases(by_device=devices, phases_reason=some + lacking[0])
    phases_j = add_phases([phases.by_phase_j for phases in each])
    return _known(phases_j, devices, resolved=all(phases.phases_resolved for phases in each))


def _combine_devices(lists: Sequence[tuple[DevicePhases, ...]]) -> tuple[DevicePhases, ...]:
    """Device by device; empty if the windows had different devices: shares could not be matched."""
    names = [[(row.node, row.name, row.scope) for row in rows] for rows in lists]
    if any(each != names[0] for each in names):
        return ()
    return tuple(
        replace(
            same[0],
            energy_j=added(row.energy_j for row in same),
            phases_j=add_phases([row.phases_j for row in same]),
        )
        for same in zip(*lists, strict=True)
    )


def add_phases(parts: Sequence[PhasesJ | None]) -> PhasesJ | None:
    """Phase by phase; None where one part has no phases, and of a phase where one part does not know it."""
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    names = dict.fromkeys(name for part in known for name in part)
    return {name: added(part[name] for part in known if name in part) for name in names}
