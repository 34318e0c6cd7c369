"""`hpc-accel bench report`: made-up records are valid ones, and the page they make is timed in a browser."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from hpc_accel.bench.report import LIMITS
from hpc_accel.bench.report_study import make
from hpc_accel.cli import app
from hpc_accel.report.load.study_records import load
from tests.report.browser import chromium


def test_made_up_records_are_valid_and_different(tmp_path):
    make(tmp_path / "made-up", 200, 20)
    records = load(tmp_path / "made-up")
    assert len(records.runs) == len({run.run_id for run in records.runs}) == 200
    assert [sum(run.status == status for run in records.runs) for status in ("completed", "failed", "missing")] == [
        196, 2, 2,
    ]  # fmt: skip
    assert len({run.num_ranks for run in records.runs}) > 3


@pytest.mark.browser
@pytest.mark.skipif(chromium() is None, reason="no Chromium found: install the package chromium")
def test_times_memory_and_sizes_are_told(tmp_path):
    done = CliRunner().invoke(app, ["bench", "report", "--runs", "400", "--steps", "20", "--keep", str(tmp_path)])
    found = json.loads(done.output)
    assert (found["num_runs"], found["num_steps"]) == (400, 20)
    assert all(found[name] > 0 for name in LIMITS)
    assert found["num_charts"] > 20
    assert done.exit_code == bool(found["over_limit"])
    assert (tmp_path / "made-up" / "report.html").is_file()
