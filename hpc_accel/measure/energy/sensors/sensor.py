"""What a sensor is: something that says how many joules have passed, or how many watts pass now.

A sensor knows what it covers (scope), which physical thing it is (key), and how often it changes. Every
source of sensors is one file beside this one with one function, `discover() -> list[Sensor]`; it returns
what it finds, and for what it cannot read an `Absent` with the reason and the remedy. Everything that can
go wrong in a read is a SensorError: a figure is then unknown, and never 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, NoReturn, Protocol

Kind = Literal["counter", "power"]


class SensorError(Exception):
    """A sensor gives no figure: why, and what a person can do about it."""

    def __init__(self, reason: str, remedy: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy


@dataclass(frozen=True, kw_only=True, slots=True)
class SensorInfo:
    """A sensor's description.

    `key` names the physical sensor within its node, and in the whole world where `is_global` (a GPU's
    UUID). `is_present` is False for a whole kind of hardware this node does not have, `is_ours` for a part
    of the node that was given to others: it is shown and never missed. `wrap_j` is the range after which a
    counter begins anew; no sensor of this scope can pass more than `max_power_w`.
    """

    name: str
    source: str
    scope: str
    key: str
    kind: Kind = "counter"
    update_period_s: float = 0.1
    is_global: bool = False
    is_present: bool = True
    is_ours: bool = True
    wrap_j: float | None = None
    max_power_w: float = 20_000.0
    reason: str = ""
    remedy: str = ""

    @property
    def is_available(self) -> bool:
        """Whether it can be read."""
        return not self.reason


class Reading(NamedTuple):
    """One look at a sensor: a tuple, because a hundred are made in a second, beside what is measured.

    `sensor_time_ns` is the sensor's own clock where it has one. `freshness` must change between two looks at a
    living sensor and `epoch` must not; both empty where a sensor has none.
    """

    energy_j: float | None = None
    power_w: float | None = None
    sensor_time_ns: int | None = None
    freshness: str = ""
    epoch: str = ""


class Sensor(Protocol):
    """The small interface every source implements."""

    @property
    def info(self) -> SensorInfo: ...

    def read(self) -> Reading:
        """One reading now; SensorError when there is none."""
        ...


@dataclass(frozen=True, slots=True)
class Absent:
    """A sensor that exists or might, and cannot be read."""

    info: SensorInfo

    def read(self) -> NoReturn:
        """Always the reason."""
        raise SensorError(self.info.reason, self.info.remedy)


def absent(
    source: str,
    scope: str,
    reason: str,
    remedy: str = "",
    *,
    name: str = "",
    key: str = "",
    present: bool = False,
    ours: bool = True,
) -> Absent:
    """An `Absent` for a whole source (nothing there) or, with `present`, for one sensor that is there but closed.

    `key` is the name by which it is known in the whole world, where it has one.
    """
    label = name or source
    info = SensorInfo(
        name=label,
        source=source,
        scope=scope,
        key=key or label,
        is_global=bool(key),
        is_present=present,
        is_ours=ours,
        reason=reason,
        remedy=remedy,
    )
    return Absent(info)
