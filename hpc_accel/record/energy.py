"""Joules of a window, what they cover, and what follows from them: per step, sample, token and epoch."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import model_validator

from hpc_accel.record.figure import Joules, JouleSeconds, Number, Part, Seconds, Watts, Whole
from hpc_accel.record.text import Text

Method = Literal["counter", "integrated-power", "slurm-accounting", "none"]


class Sensor(Part):
    """What one sensor of one node counted in the window, and whether it is part of the total."""

    name: Text
    node: Text
    source: Text
    scope: Text
    key: Text
    kind: Text
    update_period_s: Number
    is_used: bool | None = None
    energy_j: Number | None
    window_s: Number | None
    reason: Text = ""
    remedy: Text = ""
    is_counted: bool


class Coverage(Part):
    """Ranks, nodes and sensors that gave a figure, of those expected."""

    ranks: Whole = 0
    ranks_expected: Whole = 0
    nodes: Whole = 0
    nodes_expected: Whole = 0
    devices: Whole = 0
    devices_expected: Whole = 0
    unused_gpus: Whole = 0
    notes: tuple[Text, ...] = ()

    @property
    def is_short(self) -> bool:
        """Whether fewer gave a figure than expected."""
        seen = (self.ranks, self.nodes, self.devices)
        expected = (self.ranks_expected, self.nodes_expected, self.devices_expected)
        return any(found < wanted for found, wanted in zip(seen, expected, strict=True))


class Device(Part):
    """A sensor's joules by phase; null where its row among `sensors` says why."""

    name: Text
    node: Text
    scope: Text
    is_counted: bool
    energy_j: Number | None
    phases_j: dict[Text, Number | None] | None


class EnergyPhases(Part):
    """The joules by what the ranks were doing; no phases for `reason`. They add up to the total, but for its ends."""

    by_phase_j: dict[Text, Number] = {}
    by_device: tuple[Device, ...] = ()
    is_resolved: bool | None = None
    method: Text = "none"
    note: Text = ""
    reason: Text = ""

    @model_validator(mode="after")
    def _says_why(self) -> Self:
        if bool(self.by_phase_j) == bool(self.reason):
            raise ValueError("energy has phases or a reason, and not both")
        return self


class WindowEnergy(Part):
    """Gross energy of one window. `energy_j` is null for `reason`, which also says why a total is partial."""

    energy_j: Number | None
    window_s: Number | None
    scope: Text | None
    method: Method
    reason: Text = ""
    remedy: Text = ""
    is_partial: bool = False
    resolution_warning: bool = False

    @model_validator(mode="after")
    def _says_why(self) -> Self:
        if self.energy_j is None and not self.reason:
            raise ValueError("energy that was not measured has a reason")
        return self

    @property
    def figure(self) -> Joules:
        """The joules as a figure. Sensors that counted nothing measured nothing."""
        known = self.energy_j if self.energy_j is not None and self.energy_j > 0 else None
        return Joules.of(known, self.reason or "the sensors counted nothing", self.remedy)


class RequestEnergy(WindowEnergy):
    """Of the window of one arrival rate, warm-up requests included."""

    per_request_j: Joules


class TokenEnergy(WindowEnergy):
    """Of the window of one way to generate."""

    per_token_j: Joules


class Energy(WindowEnergy):
    """Gross energy of the timed steps, and what follows from it."""

    sensors: tuple[Sensor, ...] = ()
    coverage: Coverage = Coverage()
    num_windows: Whole = 1
    resolution_s: Seconds
    unused_gpus_j: Joules
    idle_power_w: Watts
    idle_window_s: Seconds
    energy_above_idle_j: Joules
    phases: EnergyPhases
    per_step_j: Joules
    per_sample_j: Joules
    per_token_j: Joules
    per_epoch_j: Joules
    energy_delay_product_js: JouleSeconds

    @model_validator(mode="after")
    def _follows(self) -> Self:
        follows = (self.per_step_j, self.per_sample_j, self.per_token_j, self.per_epoch_j, self.energy_delay_product_js)
        if self.energy_j is None and any(figure.value is not None for figure in follows):
            raise ValueError("nothing follows from energy that was not measured")
        return self

    @classmethod
    def missing(cls, reason: str, remedy: str = "") -> Self:
        """No energy, and why."""
        joules, seconds = Joules.missing(reason, remedy), Seconds.missing(reason, remedy)
        return cls(
            energy_j=None,
            window_s=None,
            scope=None,
            method="none",
            reason=reason,
            remedy=remedy,
            resolution_s=seconds,
            unused_gpus_j=joules,
            idle_power_w=Watts.missing(reason, remedy),
            idle_window_s=seconds,
            energy_above_idle_j=joules,
            phases=EnergyPhases(reason=reason),
            per_step_j=joules,
            per_sample_j=joules,
            per_token_j=joules,
            per_epoch_j=joules,
            energy_delay_product_js=JouleSeconds.missing(reason, remedy),
        )
