"""A figure that may be missing: its value, or why there is none and what to do about it. The class is the unit."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from hpc_accel.record.text import Text

_LARGEST = 2**63 - 1
Whole = Annotated[int, Field(ge=0, le=_LARGEST)]
Number = Annotated[int, Field(ge=-_LARGEST, le=_LARGEST)] | float
"""Bounded, because arithmetic turns a larger integer into a float, which fails."""
NOT_FINITE = "the figure is not a finite number"


class Part(BaseModel):
    """An object of the record: frozen, strict about unknown keys, without NaN and infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    def changed(self, **fields: Any) -> Self:
        """The same with other values of some fields, checked like a new one."""
        return type(self)(**{**dict(self), **fields})


class Figure(Part):
    """`value` in `unit`; where it is null, `reason` says why and `remedy` what can be done. Never 0 for the unknown."""

    value: Number | None
    unit: Text
    reason: Text = ""
    remedy: Text = ""

    @model_validator(mode="after")
    def _says_why(self) -> Self:
        if (self.value is None) != bool(self.reason):
            raise ValueError("a figure has a value or a reason, and not both")
        return self

    @classmethod
    def of(cls, value: Number | None, reason: str = "", remedy: str = "") -> Self:
        """The figure where it is known, else `reason` and `remedy`. Of NaN and infinity nothing is known."""
        if value is not None and math.isfinite(value):
            return cls(value=value)  # type: ignore[call-arg]  # classes of a unit have it
        return cls.missing(reason or NOT_FINITE, remedy)

    @classmethod
    def missing(cls, reason: str, remedy: str = "") -> Self:
        """No figure, and why."""
        return cls(value=None, reason=reason, remedy=remedy)  # type: ignore[call-arg]

    @property
    def positive(self) -> Number | None:
        """The value if it is above 0: a time or an energy of 0 or less is a broken clock, not a measurement."""
        return self.value if self.value is not None and self.value > 0 else None


class Count(Figure):
    """A number of things, or the number of one of them."""

    unit: Literal["1"] = "1"


class Fraction(Figure):
    """A share, a relative error."""

    unit: Literal["1"] = "1"


class Milliseconds(Figure):
    """A duration."""

    unit: Literal["ms"] = "ms"


class Seconds(Figure):
    """A duration."""

    unit: Literal["s"] = "s"


class Joules(Figure):
    """An energy."""

    unit: Literal["J"] = "J"


class Grams(Figure):
    """A mass, of CO2 equivalent."""

    unit: Literal["g"] = "g"


class JouleSeconds(Figure):
    """An energy times a duration."""

    unit: Literal["Js"] = "Js"


class Watts(Figure):
    """A power."""

    unit: Literal["W"] = "W"


class Bytes(Figure):
    """A size of memory."""

    unit: Literal["B"] = "B"


class Flop(Figure):
    """Floating-point operations."""

    unit: Literal["FLOP"] = "FLOP"


class FlopPerSecond(Figure):
    """A rate of floating-point operations."""

    unit: Literal["FLOP/s"] = "FLOP/s"


class PerSecond(Figure):
    """A rate: samples, requests or tokens per second, as the key says."""

    unit: Literal["1/s"] = "1/s"


class OwnUnit(Figure):
    """A loss, a metric or a price, in its own unit."""

    unit: Literal[""] = ""


class Estimate(Milliseconds):
    """A duration with its 95 % interval; an end that the values do not bound is null. `method` says how it was got."""

    ci_low: Number | None = None
    ci_high: Number | None = None
    method: Text = ""

    @classmethod
    def between(
        cls,
        value: Number | None,
        low: Number | None,
        high: Number | None,
        *,
        method: str,
        reason: str = "",
    ) -> Self:
        """The value with its interval, or why there is none."""
        return cls.missing(reason) if value is None else cls(value=value, ci_low=low, ci_high=high, method=method)
