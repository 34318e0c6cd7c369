"""A mapping file: which column of a published table is what, what all its rows share, and the program that ran them."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from hpc_accel.errors import ConfigError
from hpc_accel.plan.software import Software
from hpc_accel.plan.transformer import BlockCosts
from hpc_accel.study.base import StrictModel
from hpc_accel.study.recipe import Precision
from hpc_accel.study.yaml import read_yaml, validated

DIRECTORY = Path(__file__).parent / "sets"
Row = dict[str, str]


class Source(StrictModel):
    """Where a field comes from: a column, with its words translated and its unit converted."""

    column: str
    values: dict[str, Any] = {}
    """What a cell means; one that is not named stands for itself."""
    empty: Any = None
    """What an empty cell means."""
    scale: float | None = None
    contains: dict[str, Any] = {}
    """What a cell means that has this in it; the first that does decides, and others mean `empty`."""


class Program(StrictModel):
    """A training program: `software` and `block` name fields of Software and BlockCosts."""

    precision: Precision
    software: dict[str, Any]
    block: dict[str, Any] = {}

    def software_of(self, recompute: str) -> Software:
        """Its behaviour with that recomputation."""
        return Software(**{**self.software, "recompute": recompute})

    @property
    def costs(self) -> BlockCosts:
        """What its blocks cost beside the products."""
        return BlockCosts(**self.block)


class Override(StrictModel):
    """What differs in the program of rows whose fields have these values."""

    rows: dict[str, tuple[Any, ...]]
    precision: Precision | None = None
    software: dict[str, Any] = {}
    block: dict[str, Any] = {}


class Unscored(StrictModel):
    """Rows whose time does not count, and why."""

    field: str
    above: float
    why: str


class Refused(StrictModel):
    """Rows that the planner is told not to predict: fields with the values of such rows, and why."""

    rows: dict[str, tuple[Any, ...]]
    above: dict[str, float] = {}
    why: str
    memory: bool = True
    """Whether their memory is predicted all the same."""

    def matches(self, values: dict[str, Any]) -> bool:
        """Whether a row's fields are all among these."""
        equal = all(values.get(name) in allowed for name, allowed in self.rows.items())
        return equal and all(float(values.get(name) or 0) > limit for name, limit in self.above.items())


class Mapping(StrictModel):
    """One set of measurements."""

    name: str
    columns: tuple[str, ...]
    """Those by which the set is recognised."""
    fields: dict[str, str | Source]
    constants: dict[str, Any] = {}
    tables: dict[str, dict[str, dict[str, Any]]] = {}
    """Field -> its value -> fields that follow, as a model's name says its sizes."""
    group: tuple[str, ...] = ()
    """Rows that agree in these differ only in layout. Empty where no layouts can be ranked."""
    fold: tuple[str, ...] = ()
    """Rows that agree in these are held out together from calibration; as `group` where empty."""
    block: tuple[str, ...] = ("hidden", "tp", "micro_batch")
    arguments: tuple[str, ...] = ()
    """Rows that agree in these ran the same, so that what they measured is a range."""
    rank: Literal["fullest", "last"] = "fullest"
    """Whose memory the table tells: that of the fullest rank, or of the last stage."""
    program: Program
    overrides: tuple[Override, ...] = ()
    inter_node: dict[str, Any] = {}
    """Of this cluster's network between nodes, what was measured to differ from the hardware file's."""
    refused: tuple[Refused, ...] = ()
    unscored: tuple[Unscored, ...] = Field(default=())

    def values_of(self, row: Row) -> dict[str, Any]:
        """The fields of one row, numbers as numbers."""
        values = dict(self.constants)
        for name, source in self.fields.items():
            value = _value(row, Source(column=source) if isinstance(source, str) else source)
            if value is not None:
                values[name] = value
        for name, table in self.tables.items():
            values |= table.get(str(values.get(name)), {})
        return values

    def variant_of(self, values: dict[str, Any]) -> tuple[int, ...]:
        """Which overrides a row's program has, by their place in the file."""
        return tuple(
            place
            for place, each in enumerate(self.overrides)
            if all(values.get(name) in allowed for name, allowed in each.rows.items())
        )

    def program_of(self, variant: tuple[int, ...]) -> Program:
        """The program with these overrides, later ones before earlier ones."""
        found = self.program
        for place in variant:
            each = self.overrides[place]
            found = Program(
                precision=each.precision or found.precision,
                software=found.software | each.software,
                block=found.block | each.block,
            )
        return found


def read_rows(path: Path) -> list[Row]:
    """The table without comment lines. Raises ConfigError where it is none."""
    try:
        lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", "evaluate reads one CSV file", "give its path") from None
    rows = list(csv.DictReader(lines))
    if not rows:
        raise ConfigError(f"{path}: no rows", "the first line names the columns, each other line is a row", "check it")
    return rows


def mapping_of(rows: list[Row], path: Path, chosen: Path | None) -> Mapping:
    """The mapping file `chosen`, or the shipped one whose columns the table has. Raises ConfigError without either."""
    if chosen is not None:
        return read_mapping(chosen)
    for candidate in sorted(DIRECTORY.glob("*.yaml")):
        mapping = read_mapping(candidate)
        if set(mapping.columns) <= set(rows[0]):
            return mapping
    raise ConfigError(
        f"{path}: columns {', '.join(rows[0])[:200]}",
        "a mapping file says which column is what; none of the package's names these",
        f"write one as in {DIRECTORY} and give it with --mapping",
    )


def read_mapping(path: Path) -> Mapping:
    """Read and check a mapping file."""
    data, lines = read_yaml(path)
    return validated(Mapping, data, path, lines)


def _value(row: Row, source: Source) -> Any:
    cell = (row.get(source.column) or "").strip()
    if not cell:
        return source.empty
    if source.contains:
        return next((value for part, value in source.contains.items() if part in cell), source.empty)
    if cell in source.values:
        return source.values[cell]
    try:
        number = float(cell)
    except ValueError:
        return cell
    if source.scale is not None:
        return number * source.scale
    return int(number) if number.is_integer() else number
