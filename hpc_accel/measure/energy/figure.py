"""EnergyFigure: the energy of one window as one value, from the aggregate on to the record.

A figure is never changed. Each later step returns a new one: the idle baseline (idle.py), the joules by phase
(attribution.py), several windows as one (combine_windows.py). A checkpoint keeps figures by `as_dict` and `from_dict`;
the record has a form of its own (record/measured.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, TypeVar

BRIEF = ("energy_j", "window_s", "scope", "method", "is_partial", "resolution_warning", "reason", "remedy")
NOT_ATTRIBUTED = "the joules of this window were not attributed to phases"

Made = TypeVar("Made")
PhasesJ = dict[str, float | None]
"""Joules by the phase's name; None where the samples do not cover it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SensorRow:
    """One sensor in a figure: what it measured or why not, and whether it is part of the total (`is_counted`).

    `is_used` False is a GPU that no rank of the run computes on, None where that is not known or asked.
    """

    name: str
    node: str
    source: str
    scope: str
    key: str
    kind: str
    update_period_s: float
    is_used: bool | None = None
    energy_j: float | None = None
    window_s: float | None = None
    reason: str = ""
    remedy: str = ""
    is_counted: bool = False

    @property
    def identity(self) -> tuple[str, str, str]:
        """What finds the same sensor in another window; two nodes of one name have equal ones."""
        return (self.node, self.source, self.key)

    @property
    def is_idle_gpu(self) -> bool:
        """Whether this is a GPU that was measured and that no rank computes on."""
        return self.is_used is False and self.energy_j is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class Coverage:
    """Ranks, nodes and sensors that gave a figure, of those expected; and what a reader should know."""

    ranks: int = 0
    ranks_expected: int = 0
    nodes: int = 0
    nodes_expected: int = 0
    devices: int = 0
    devices_expected: int = 0
    unused_gpus: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class DevicePhases:
    """One device's joules by phase; `phases_j` None where no power was sampled."""

    name: str
    node: str
    scope: str
    is_counted: bool
    energy_j: float | None
    phases_j: PhasesJ | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Phases:
    """The total's joules by phase, and each device's; `by_phase_j` is None exactly where `phases_reason` says why.

    `phases_resolved` is False where phases are shorter than the time between samples: each then shows the mean power.
    """

    by_phase_j: PhasesJ | None = None
    by_device: tuple[DevicePhases, ...] = ()
    phases_resolved: bool | None = None
    phases_method: str = "none"
    phases_note: str = ""
    phases_reason: str = NOT_ATTRIBUTED


@dataclass(frozen=True, kw_only=True, slots=True)
class EnergyFigure:
    """Gross energy of `window_s` seconds. `energy_j` None has a `reason`; a partial total has one too.

    `resolution_s` is the slowest sensor's update period, `resolution_warning` whether the window holds too few of
    them. Idle power stands beside the total and is never subtracted from it. `phases` None: nobody asked.
    """

    window: str = ""
    energy_j: float | None
    window_s: float | None
    scope: str | None
    method: str
    is_partial: bool = False
    unused_gpus_j: float | None = None
    sensors: tuple[SensorRow, ...] = ()
    coverage: Coverage = field(default_factory=Coverage)
    resolution_warning: bool = False
    resolution_s: float | None = None
    idle_power_w: float | None = None
    idle_window_s: float | None = None
    idle_reason: str = ""
    energy_above_idle_j: float | None = None
    reason: str = ""
    remedy: str = ""
    num_windows: int = 1
    phases: Phases | None = None

    @classmethod
    def missing(cls, reason: str, remedy: str = "", *, window_s: float | None = None) -> EnergyFigure:
        """No energy, and why."""
        return cls(
            energy_j=None,
            window_s=window_s,
            scope=None,
            method="none",
            idle_reason=reason,
            reason=reason,
            remedy=remedy,
        )

    @property
    def power_w(self) -> float | None:
        """Mean power over the window."""
        return self.energy_j / self.window_s if self.energy_j is not None and self.window_s else None

    def brief(self) -> dict[str, Any]:
        """What a reader needs of a figure that stands beside others: energy, window, scope, method, and why not."""
        return {name: getattr(self, name) for name in BRIEF}

    def as_dict(self) -> dict[str, Any]:
        """All fields as plain values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> EnergyFigure:
        """What `as_dict` gave, perhaps in another version: keys without a field are left out."""
        phases = None
        if plain.get("phases"):
            devices = tuple(_made(DevicePhases, row) for row in plain["phases"]["by_device"])
            phases = replace(_made(Phases, plain["phases"]), by_device=devices)
        sensors = tuple(_made(SensorRow, row) for row in plain.get("sensors", ()))
        coverage = _made(Coverage, plain.get("coverage", {}))
        coverage = replace(coverage, notes=tuple(coverage.notes))
        return replace(_made(cls, plain), sensors=sensors, coverage=coverage, phases=phases)


def _made(kind: type[Made], row: Mapping[str, Any]) -> Made:
    """An object of a dataclass from the keys that are its fields."""
    names = {each.name for each in fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: value for name, value in row.items() if name in names})


def added(values: Iterable[float | None]) -> float | None:
    """The sum; None where one of them is not known."""
    found = list(values)
    known = [value for value in found if value is not None]
    return sum(known) if len(known) == len(found) else None
