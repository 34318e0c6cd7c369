"""Real inference runs on real ranks: every layout answers what the serial model answers, and leaves a whole record."""

import json

import polars as pl
import pytest

from tests.infer.make_runs import write_runs
from tests.mpirun import ROOT, check, mpirun
from tests.records import summary_in

SCRIPT = ROOT / "tests/infer/many.py"
LM = {"name": "lm", "args": {"layers": 2, "hidden": 32, "heads": 2, "sequence": 16}}
LOAD = {"arrival_rates_per_s": [400.0], "num_requests": 100, "warmup_requests": 10, "min_top1_agreement": 0.0}


def serve_all(n, paths, timeout_s=270):
    check(mpirun(n, [SCRIPT, *paths], timeout_s))
    return {path.parent: summary_in(path.parent) for path in paths}


def check_record(directory, summary):
    """Every figure is measured, or null with a reason; requests.parquet has every request of every window."""
    assert summary.status == "completed", summary.error
    assert summary.parity.passed
    assert summary.parity.steps >= 100
    assert summary.step_time_ms.ci_low <= summary.step_time_ms.value <= summary.step_time_ms.ci_high
    [rate] = summary.inference.rates
    times = rate.latency_ms
    assert 0 < times.p50.value <= times.p90.value <= times.p99.value <= times.max_ms
    assert times.p99_9.value is None
    assert "needs at least 1000" in times.p99_9.reason
    for energy, per in ((rate.energy, "per_request_j"), (summary.energy, "per_sample_j")):
        assert (energy.energy_j is None) == bool(energy.reason)
        assert (getattr(energy, per).value is None) == (energy.energy_j is None)
    requests = pl.read_parquet(directory / "requests.parquet")
    listed = requests.filter(pl.col("kind") == "rate")
    assert listed.height == 110
    assert listed["warmup"].sum() == 10
    assert (requests["started_ns"] >= requests["scheduled_ns"]).all()
    assert (requests["ended_ns"] > requests["started_ns"]).all()
    assert requests["batch"].max() <= summary.inference.batch_size
    counted = listed.filter(~pl.col("warmup"))
    latency = (counted["ended_ns"] - counted["scheduled_ns"]) / 1e6
    assert latency.max() == pytest.approx(times.max_ms)
    assert set(requests["replica"].unique()) == set(range(summary.inference.replicas))
    steps = pl.read_parquet(directory / "steps.parquet")
    assert steps.filter(~pl.col("warmup")).height == 3 * summary.inference.replicas


@pytest.mark.mpi
def test_recipes_on_one_rank(tmp_path):
    recipes = [{"precision": "bf16"}, {"quantize": "int8"}, {"prune": "magnitude"}, {"channels_last": True}]
    infer = {**LOAD, "batch_sizes": [4], "layouts": [{}], "train_steps": 5, "deadline_ms": 10_000}
    paths = write_runs(tmp_path, {"name": "digits"}, {**infer, "recipes": recipes})
    found = serve_all(1, paths)
    error = {}
    for directory, summary in found.items():
        check_record(directory, summary)
        assert (directory / "weights.safetensors").exists()
        assert summary.inference.rates[0].deadline.passed
        recipe = json.loads((directory / "run.json").read_text())["recipe"]
        name = next((key for key in ("quantize", "prune") if recipe[key] != "none"), recipe["precision"])
        error["channels_last" if recipe["channels_last"] else name] = summary.outputs.max_rel_err.value
    assert error["channels_last"] < 1e-4
    assert 1e-4 < error["bf16"] < 0.05
    assert 1e-4 < error["quantize"] < 0.1
    # What pruning does to the answers is no matter of rounding, and layouts have no part in it.
    assert error["prune"] > 0.05
    pruned = next(each for each in found.values() if each.outputs.max_rel_err.value == error["prune"])
    assert pruned.parity.max_rel_err < 1e-4


@pytest.mark.mpi
def test_layouts_on_two_ranks(tmp_path):
    layouts = [{"dp": 2}, {"pp": 2}, {"tp": 2}]
    digits = {**LOAD, "batch_sizes": [4], "layouts": layouts, "train_steps": 5}
    # The first stage has convolutions alone: nothing to quantise there is no mistake.
    int8 = {**LOAD, "layouts": [{"pp": 2, "split": [5, 4]}], "recipes": [{"quantize": "int8"}]}
    lm = {**LOAD, "layouts": [{"dp": 2}, {"tp": 2}], "batch_sizes": [3], "generate": {"prompt": 5, "tokens": 8}}
    paths = write_runs(tmp_path, {"name": "digits"}, digits)
    paths += write_runs(tmp_path, LM, lm)
    paths += write_runs(tmp_path, LM, {**LOAD, "layouts": [{"pp": 2, "split": [2, 2]}]})
    limited = write_runs(tmp_path, {"name": "mlp"}, {**LOAD, "layouts": [{"dp": 2}], "latency_limit_ms": 30})
    paths += limited + write_runs(tmp_path, {"name": "digits"}, int8)
    summaries = serve_all(2, paths)
    for directory, summary in summaries.items():
        check_record(directory, summary)
        int8 = bool(summary.inference.notes) and "int8" in summary.inference.notes[0]
        assert summary.parity.max_rel_err < (0.1 if int8 else 1e-4), (directory.name, summary.parity)
        assert not int8 or summary.parity.max_rel_err > 1e-4
        for generated in summary.inference.generate:
            assert generated.time_to_first_token_ms.value > 0
            assert generated.time_per_output_token_ms.value > 0
            assert (generated.cache_max_rel_err.value is None) != generated.kv_cache
            assert (generated.cache_max_rel_err.value or 0.0) < 1e-4
    limit = summaries[limited[0].parent].inference.limit
    assert (limit.max_rate_per_s.value is None) == bool(limit.max_rate_per_s.reason)
    assert len(limit.tried) <= 7
    assert all(tried.within == (tried.latency_ms <= 30) for tried in limit.tried)


@pytest.mark.mpi
def test_a_warning_ends_the_run_with_75_on_all_ranks(tmp_path):
    [path] = write_runs(tmp_path, {"name": "mlp"}, {**LOAD, "layouts": [{"dp": 2}]})
    done = mpirun(2, [SCRIPT, path, "--warn"], 100)
    assert done.returncode == 75, done.stdout
    assert "asked to stop after" in done.stdout
    assert not (path.parent / "summary.json").exists()
    assert not list(path.parent.glob("error.rank*.json"))
