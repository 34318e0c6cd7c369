"""docs/results.md names every column of summary.csv in order, and its examples run."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from hpc_accel.report.show.summary_table import CSV_COLUMNS, MORE_COLUMNS
from hpc_accel.report.write import write
from tests.mpirun import ROOT

PAGE = (ROOT / "docs/results.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


def test_the_table_lists_every_column_in_order():
    first_cells = re.findall(r"^\| (`[^|]*) \|", PAGE, re.MULTILINE)
    named = tuple(re.findall(r"`(\w+)`", " ".join(first_cells)))
    assert named[: len(CSV_COLUMNS)] == CSV_COLUMNS
    assert sorted(named[len(CSV_COLUMNS) :]) == sorted(MORE_COLUMNS)


@pytest.mark.parametrize("example", EXAMPLES, ids=["polars", "pandas", "parquet", "duckdb", "json"])
def test_an_example_runs_and_shows_runs(energy_study, example):
    for library in ("pandas", "duckdb"):
        if f"import {library}" in example:
            pytest.importorskip(library)
    write(energy_study)
    done = subprocess.run(
        [sys.executable, "-c", example], cwd=energy_study, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "dp2" in done.stdout
