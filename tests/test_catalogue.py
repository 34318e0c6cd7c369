"""What `make catalogue` left: every layout, schedule and recipe that a CPU runs, each equal to the serial run."""

import json
import os
from pathlib import Path
from typing import get_args

import pytest

from hpc_accel.study import layout, recipe
from tests.records import summary_in

RESULTS = os.environ.get("HPC_ACCEL_CATALOGUE")
pytestmark = [pytest.mark.catalogue, pytest.mark.skipif(not RESULTS, reason="HPC_ACCEL_CATALOGUE names no results")]
EXACT = 1e-4
NEEDS_GPU = {"tf32", "fp8"}


@pytest.fixture(scope="module")
def runs():
    """(run.json, summary.json) of every chosen run."""
    root = Path(RESULTS)
    plan = json.loads((root / "plan.json").read_text())
    chosen = [candidate["run_id"] for candidate in plan["candidates"] if candidate["chosen"]]
    return [
        (json.loads((root / "runs" / run_id / "run.json").read_text()), summary_in(root / "runs" / run_id))
        for run_id in chosen
    ]


def test_every_run_computes_what_the_serial_run_computes(runs):
    for run, summary in runs:
        parity = summary.parity
        assert summary.status == "completed", (run["run_id"], summary.error)
        assert parity.steps == 5
        assert parity.max_rel_err <= parity.tolerance, run["run_id"]
        changed = run["recipe"]["compression"] != "none" or run["recipe"]["average_every"] > 1
        if run["recipe"]["precision"] == "fp32" and not changed:
            assert parity.max_rel_err <= EXACT, run["run_id"]


def test_all_of_them_are_there(runs):
    assert {summary.num_ranks for _, summary in runs} == {1, 2, 4, 8}
    assert {run["layout"]["schedule"] for run, _ in runs} == {None, *get_args(layout.Schedule)}
    assert {run["layout"]["shard"] for run, _ in runs} == set(get_args(layout.Shard))
    assert {run["recipe"]["precision"] for run, _ in runs} == set(get_args(recipe.Precision)) - NEEDS_GPU
    assert {run["recipe"]["recompute"] for run, _ in runs} == set(get_args(recipe.Recompute))
    assert {run["recipe"]["compression"] for run, _ in runs} == set(get_args(recipe.Compression))
    for key in ("compile", "channels_last", "sync_batch_norm", "fused_optimizer", "static_graph", "overlap"):
        assert {run["recipe"][key] for run, _ in runs} == {True, False}, key
    assert any(run["recipe"]["average_every"] > 1 for run, _ in runs)
    assert any(run["recipe"]["data_workers"] for run, _ in runs)
    assert {run["layout"]["sequence_parallel"] for run, _ in runs} == {True, False}
    assert len({run["layout"]["order"] for run, _ in runs}) >= 3
    splits = {"+".join(map(str, s)) if isinstance(s := run["layout"]["split"], list) else s for run, _ in runs}
    assert {"auto", "measured"} < splits
    assert any(run["layout"]["shares"] for run, _ in runs)


def test_an_epoch_has_every_sample_once(runs):
    """Its last batch is not full, and the parity steps reach beyond it; so each sample counted, in every layout."""
    kept = [(run, summary) for run, summary in runs if run["workload"]["last_batch"] == "keep"]
    assert len(kept) >= 7
    for run, summary in kept:
        steps = summary.steps
        assert steps.samples_dropped_per_epoch.value == 0
        assert steps.samples_per_epoch.value == 1500
        assert run["measure"]["parity_steps"] > steps.samples_per_epoch.value / run["workload"]["global_batch_size"]
