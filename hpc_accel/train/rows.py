"""Rows of steps kept by column, some 130 bytes a step: as dictionaries they would take a kilobyte, and a training has
millions of them.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import polars as pl

KINDS: dict[str, type[bool] | type[int]] = {"step": int, "rank": int, "warmup": bool}
"""Of columns that are no figure; those whose name ends with `_ns` are integers too."""


class Rows(Sequence[dict[str, Any]]):
    """Rows with the keys of the first one; a value that is None stays None. Integers are below 2^53."""

    def __init__(self, rows: Iterable[dict[str, Any]] = ()) -> None:
        self._values: dict[str, array[float]] = {}
        self._known: dict[str, bytearray] = {}
        self._num = 0
        for row in rows:
            self.append(row)

    def append(self, row: dict[str, Any]) -> None:
        """One row more."""
        if not self._num:
            self._values = {key: array("d") for key in row}
            self._known = {key: bytearray() for key in row}
        for key, values in self._values.items():
            value = row[key]
            values.append(0.0 if value is None else value)
            self._known[key].append(value is not None)
        self._num += 1

    def __len__(self) -> int:
        return self._num

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(self._num))]
        if not -self._num <= index < self._num:
            raise IndexError(index)
        return {
            key: _kind(key)(values[index]) if self._known[key][index] else None for key, values in self._values.items()
        }

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[number] for number in range(self._num))

    def frame(self) -> pl.DataFrame:
        """All of them as a table."""
        types = {bool: pl.Boolean, int: pl.Int64, float: pl.Float64}
        columns = {}
        for key, values in self._values.items():
            known = pl.Series(self._known[key], dtype=pl.UInt8).cast(pl.Boolean)
            found = pl.DataFrame({"value": pl.Series(values, dtype=pl.Float64), "known": known})
            whole = found.select(pl.when("known").then("value")).to_series()
            columns[key] = whole.cast(types[_kind(key)])
        return pl.DataFrame(columns)


def _kind(key: str) -> type[bool] | type[int] | type[float]:
    return KINDS.get(key, int if key.endswith("_ns") else float)
