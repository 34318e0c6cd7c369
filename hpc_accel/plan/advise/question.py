"""What is asked: how long a training, on what, within which limits, and what counts how much."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpc_accel.errors import ConfigError
from hpc_accel.measure.energy.scopes import NODE_SCOPES, describe
from hpc_accel.plan.advise.catalogue import Device, device_of
from hpc_accel.plan.advise.data_sheet import assumptions, machine_of
from hpc_accel.plan.advise.models import Model
from hpc_accel.plan.shipped import hardware_of
from hpc_accel.probe.hardware import Hardware
from hpc_accel.study.recipe import Precision

TYPICAL_SHARE = 0.76
"""Of a node's rating, what training draws on average (8xH100 nodes; MLPerf v4.0 power logs)."""
DEVICES_SHARE = 0.7
"""Of a node's power, its accelerators'."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where it could be trained: nodes of one kind, how many there are, and what they cost and draw."""

    name: str
    hardware: Hardware
    measured: bool
    """Whether its rates were measured, and not read off a data sheet."""
    max_nodes: int
    price_per_node_hour: float | None = None
    node_power_w: float | None = None
    """Typical, of a whole node under load."""
    power_source: str = ""
    power_measured: bool = False
    power_reason: str = "no rating of its power is known"
    """Why `node_power_w` is None, where it is."""
    max_hours: float | None = None
    """Longest job that may run there."""
    partition: str = ""
    not_run_here: str = ""
    """Why this project's training does not run on it; "" where it does."""
    peak_flops_per_s: float | None = None
    """Of one device, in 16 bits, by its data sheet."""
    assumed: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Limits:
    """None: no limit. Energy and cost are of the whole training."""

    deadline_h: float | None = None
    budget: float | None = None
    power_w: float | None = None
    """Of all nodes together."""
    node_hours: float | None = None


@dataclass(frozen=True, kw_only=True)
class Question:
    """The whole of it. `weights` say what counts: time, energy, cost; a score multiplies them as powers."""

    model: Model
    num_samples: float
    places: tuple[Place, ...]
    limits: Limits = field(default_factory=Limits)
    weights: dict[str, float]
    currency: str = "EUR"
    precision: Precision = "bf16"

    @property
    def num_steps(self) -> float:
        """Of the whole training."""
        return self.num_samples / self.model.workload.global_batch_size


def place_of(name: str, *, max_nodes: int, price: float | None = None, per_node: int | None = None) -> Place:
    """A device of the catalogue in nodes of `per_node` (by default its usual ones), or a hardware.json of one's own.

    Raises ConfigError.
    """
    if Path(name).is_file():
        machine = hardware_of(name)
        return Place(
            name=machine.site,
            hardware=machine,
            measured=True,
            max_nodes=max_nodes,
            price_per_node_hour=price,
            **_probed_power(machine),
        )
    device = device_of(name)
    usual = device.devices_per_node
    power, source = _typical_power(device, per_node or usual)
    machine = _resized(hardware_of(device.planned_as) if device.planned_as else machine_of(device, per_node), per_node)
    assumed = () if device.planned_as else assumptions(device, per_node)
    if per_node not in (None, usual) and (device.planned_as or device.adapters):
        assumed += (f"adapters in proportion to {per_node} of {usual} devices",)
    fast = device.peak_flops_per_s.get("bf16") or device.peak_flops_per_s.get("fp16")
    return Place(
        name=name,
        hardware=machine,
        measured=device.planned_as is not None,
        max_nodes=max_nodes,
        price_per_node_hour=price,
        node_power_w=power,
        power_source=source,
        not_run_here=""
        if device.runs_here
        else f"this project trains by torch; it offers {', '.join(device.frameworks)}",
        peak_flops_per_s=fast[0] if fast else None,
        assumed=assumed,
    )


def _probed_power(machine: Hardware) -> dict[str, Any]:
    """What the probe read, where its sensors cover whole nodes; of parts alone no node's power follows."""
    covered = {each["scope"] for each in machine.sensors if each.get("available")}
    power_w = machine.slowest.power_w
    if power_w and covered and not covered & set(NODE_SCOPES):
        told = describe(sorted(covered))
        return {"power_reason": f"the probe read {power_w:.4g} W of {told} alone, not of whole nodes"}
    if not power_w:
        return {"power_reason": machine.slowest.power_w_reason or "the probe read no power"}
    return {"node_power_w": power_w, "power_source": "measured by the probe", "power_measured": True}


def _resized(machine: Hardware, per_node: int | None) -> Hardware:
    """The same with `per_node` devices a node, and adapters in proportion."""
    if per_node is None or per_node == machine.ranks_per_node:
        return machine
    network = machine.network
    between = network.inter_node
    if between is not None and between.lanes is not None:
        lanes = max(1, round(between.lanes * per_node / machine.ranks_per_node))
        network = network.model_copy(update={"inter_node": between.model_copy(update={"lanes": lanes})})
    return machine.model_copy(update={"ranks_per_node": per_node, "network": network})


def _typical_power(device: Device, per_node: int) -> tuple[float | None, str]:
    """Of a node of `per_node` devices under load, and how it follows from ratings."""
    share = f"{TYPICAL_SHARE:.0%} of"
    if device.node_power_w is not None:
        rating, usual = device.node_power_w[0], device.devices_per_node
        part = f" of {usual} devices, in proportion for {per_node}" if per_node != usual else ""
        return TYPICAL_SHARE * rating * per_node / usual, f"{share} the node's rating, {rating:.0f} W{part}"
    if device.board_power_w is None:
        return None, ""
    board = device.board_power_w[0]
    if device.board_has_cpu:
        told = f"{share} {per_node} x {board:.0f} W, CPUs included; what else a node has is not counted"
        return TYPICAL_SHARE * board * per_node, told
    told = f"{share} {per_node} x {board:.0f} W, devices being {DEVICES_SHARE:.0%} of a node's power"
    return TYPICAL_SHARE * board * per_node / DEVICES_SHARE, told


def weights_of(text: str) -> dict[str, float]:
    """From "cost", or "time=1,cost=2". Raises ConfigError."""
    weights: dict[str, float] = {}
    for part in text.split(","):
        key, _, value = part.partition("=")
        try:
            weights[key] = float(value or 1)
        except ValueError:
            weights = {}
        if key not in ("time", "energy", "cost") or not 0 <= weights.get(key, -1) < math.inf:
            weights = {}
            break
    # What counts nothing is left out, for a figure that is unknown would otherwise count.
    weights = {key: weight for key, weight in weights.items() if weight}
    if not weights:
        raise ConfigError(
            f"--objective {text}",
            "what counts is time, energy or cost, each with a finite weight, not all 0",
            "time=1,cost=2",
        )
    return weights
