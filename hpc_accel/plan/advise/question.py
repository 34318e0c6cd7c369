"""What is asked: how long a training, on what, within which limits, and what counts how much."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from hpc_accel.errors import ConfigError
from hpc_accel.plan.advise.catalogue import device_of
from hpc_accel.plan.advise.data_sheet import machine_of
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


def place_of(name: str, *, max_nodes: int, price: float | None = None) -> Place:
    """A device of the catalogue, or a hardware.json of one's own. Raises ConfigError."""
    if Path(name).is_file():
        machine = hardware_of(name)
        kind = machine.slowest
        return Place(
            name=machine.site,
            hardware=machine,
            measured=True,
            max_nodes=max_nodes,
            price_per_node_hour=price,
            node_power_w=kind.power_w,
            power_source="measured by the probe" if kind.power_w else "",
            power_measured=bool(kind.power_w),
        )
    device = device_of(name)
    power, source = _typical_power(name)
    fast = device.peak_flops_per_s.get("bf16") or device.peak_flops_per_s.get("fp16")
    return Place(
        name=name,
        hardware=hardware_of(device.planned_as) if device.planned_as else machine_of(device),
        measured=device.planned_as is not None,
        max_nodes=max_nodes,
        price_per_node_hour=price,
        node_power_w=power,
        power_source=source,
        not_run_here=""
        if device.runs_here
        else f"this project trains by torch; it offers {', '.join(device.frameworks)}",
        peak_flops_per_s=fast[0] if fast else None,
        assumed=() if device.planned_as else _assumed(name),
    )


def _assumed(name: str) -> tuple[str, ...]:
    from hpc_accel.plan.advise.data_sheet import assumptions

    return assumptions(device_of(name))


def _typical_power(name: str) -> tuple[float | None, str]:
    """Of a node under load, and how it follows from ratings."""
    device = device_of(name)
    if device.node_power_w is not None:
        rating = device.node_power_w[0]
        return TYPICAL_SHARE * rating, f"{TYPICAL_SHARE:.0%} of the node's rating, {rating:.0f} W"
    if device.board_power_w is not None:
        board, number = device.board_power_w[0], device.devices_per_node
        told = f"{TYPICAL_SHARE:.0%} of {number} x {board:.0f} W, devices being {DEVICES_SHARE:.0%} of a node's power"
        return TYPICAL_SHARE * board * number / DEVICES_SHARE, told
    return None, ""


def weights_of(text: str) -> dict[str, float]:
    """From "cost", or "time=1,cost=2". Raises ConfigError."""
    weights: dict[str, float] = {}
    for part in text.split(","):
        key, _, value = part.partition("=")
        try:
            weights[key] = float(value or 1)
        except ValueError:
            weights = {}
        if key not in ("time", "energy", "cost") or weights.get(key, -1) < 0:
            raise ConfigError(
                f"--objective {text}", "what counts is time, energy or cost, each with a weight", "time=1,cost=2"
            )
    return weights
