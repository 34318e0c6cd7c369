"""A figure of one run, or why there is none: a cell of the tables."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from hpc_accel.record import Figure
from hpc_accel.report.judge.wording import NOT_MEASURED


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """`value`, or the `reason` for having none. Never both. A remark may have neither: there is nothing to say."""

    value: Any = None
    reason: str | None = None

    @classmethod
    def of(cls, value: Any, reason: str | None = None) -> Self:
        """The value where there is one, else the reason."""
        return cls(value=value) if value is not None else cls(reason=reason or NOT_MEASURED)

    @classmethod
    def figure(cls, figure: Figure) -> Self:
        """A figure of the record."""
        return cls.of(figure.value, figure.reason)


Row = dict[str, Cell]
"""The cells of one run by column."""
