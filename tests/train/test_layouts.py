"""Every layout computes what the serial run computes: real ranks, real collectives, losses compared."""

import json

import polars as pl
import pytest

from hpc_accel.study.expand import listed_runs, resolve_workload
from hpc_accel.study.rules import refusals
from hpc_accel.study.study_file import Study
from hpc_accel.workloads import entry
from hpc_accel.workloads.count_facts import describe
from tests.mpirun import ROOT, check, mpirun
from tests.records import summary_in

SCRIPT = ROOT / "tests/train/many.py"
FP32 = 1e-4


def write_runs(directory, workload, layouts, precisions=("fp32",), recipe=None, **study):
    """run.json files of the given layouts; small and quick."""
    content = {
        "name": "t",
        "resources": {"ranks_per_node": 8},
        "measure": {"warmup_steps": 2, "steps": 4, "parity_steps": 5, "metric_samples": 64},
        "device": "cpu",
        **study,
    }
    recipes = [{"precision": list(precisions), **(recipe or {})}]
    made = Study.model_validate({**content, "workload": workload, "layouts": layouts, "recipes": recipes})
    choice = made.workloads[0]
    facts = describe(entry.build(resolve_workload(choice), made.seed))
    paths = []
    for run in listed_runs(made, choice, facts):
        assert not list(refusals(run, made.resources, facts))
        path = directory / run.run_id / "run.json"
        path.parent.mkdir(parents=True)
        path.write_text(run.model_dump_json())
        paths.append(path)
    return paths


def train_all(n, paths, timeout_s=240, **environment):
    check(mpirun(n, [SCRIPT, *paths], timeout_s, **environment))
    return {path.parent.name: summary_in(path.parent) for path in paths}


def assert_parity(summaries, tolerance=None):
    assert summaries
    for run_id, summary in summaries.items():
        parity = summary.parity
        assert summary.status == "completed", (run_id, summary.error, parity)
        assert parity.steps == 5, (run_id, parity)
        assert parity.max_rel_err <= (tolerance or parity.tolerance), (run_id, parity)


LM = {"name": "lm", "args": {"layers": 2, "hidden": 32, "heads": 2, "sequence": 16}, "global_batch_size": 8}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Directory and summary of runs on two ranks, by what is asked of them; one launch, which costs more than they."""
    digits = [
        {"dp": 2, "accumulation_steps": [1, 4]},
        {"tp": 2, "accumulation_steps": 2},
        {"pp": 2, "schedule": ["gpipe", "1f1b"], "accumulation_steps": 4},
    ]
    lm = [{"dp": 2}, {"tp": 2, "accumulation_steps": 2}, {"pp": 2, "split": [2, 2], "accumulation_steps": 4}]
    halved = [{"dp": 2, "accumulation_steps": 2}, {"tp": 2}, {"pp": 2, "accumulation_steps": 2}]
    gloo = [{"dp": 2}, {"pp": 2, "accumulation_steps": 2}]
    directory = tmp_path_factory.mktemp("layouts")
    paths = {
        "fp32": write_runs(directory, {"name": "digits"}, digits) + write_runs(directory, LM, lm),
        "16 bits": write_runs(directory, LM, halved, ("bf16", "fp16")),
        "gloo": write_runs(directory, LM, gloo, backend="gloo"),
    }
    found = train_all(2, [path for each in paths.values() for path in each])
    return {what: {path.parent: found[path.parent.name] for path in each} for what, each in paths.items()}


def by_name(runs):
    return {directory.name: summary for directory, summary in runs.items()}


@pytest.mark.mpi
def test_two_ranks(trained):
    assert_parity(by_name(trained["fp32"]), FP32)
    for directory, summary in trained["fp32"].items():
        check_record(directory, summary)


def check_record(directory, summary):
    """Every figure is measured, or null with a reason; phases explain the step."""
    steps = pl.read_parquet(directory / "steps.parquet")
    assert steps.height == 2 * 6
    assert steps["step_ns"].min() > 0
    timed = steps.filter(~pl.col("warmup"))
    assert timed.height == 2 * 4
    assert summary.step_time_ms.ci_low <= summary.step_time_ms.value <= summary.step_time_ms.ci_high
    parts = ["data_ns", "forward_ns", "backward_ns", "optimizer_ns", "comm_exposed_ns", "pipeline_wait_ns"]
    explained = sum(timed[name].fill_null(0) for name in parts)
    assert (explained <= timed["step_ns"] * 1.001).all()
    assert (timed["forward_ns"] > 0).all()
    assert (timed["backward_ns"] > 0).all()
    pipeline = "pp2" in summary.run_id
    assert (summary.bubble_fraction.value is None) != pipeline
    assert bool(summary.bubble_fraction.reason) != pipeline
    if pipeline:
        assert 0 < summary.bubble_fraction.value < 1
        assert summary.phases_ms.comm_exposed.value is None
        assert "no collective" in summary.phases_ms.comm_exposed.reason
    else:
        assert summary.phases_ms.comm_exposed.value > 0
        assert summary.phases_ms.pipeline_wait.reason == "the layout has one stage"
    trace = json.loads((directory / "trace.json").read_text())
    ranks = {event["pid"] for event in trace["traceEvents"] if event.get("name") == "forward"}
    assert len(ranks) == 2
    energy = summary.energy
    assert (energy.energy_j is None) == bool(energy.reason)
    assert (directory / "energy.parquet").exists()
    assert energy.energy_j != 0
    assert summary.memory.peak_memory_bytes.value > 1e6


@pytest.mark.mpi
def test_two_ranks_in_16_bits(trained):
    summaries = by_name(trained["16 bits"])
    assert_parity(summaries)
    errors = [summary.parity.max_rel_err for summary in summaries.values()]
    assert max(errors) > 1e-7  # 16 bits do leave a trace: the recipe was really applied


@pytest.mark.mpi
def test_gloo_carries_the_same_runs(trained):
    summaries = by_name(trained["gloo"])
    assert_parity(summaries, FP32)
    for run_id, summary in summaries.items():
        unseen = "pipeline_wait" if "pp2" in run_id else "comm_exposed"
        assert summary.phases_ms.of(unseen).value is None
        assert "gloo" in summary.phases_ms.of(unseen).reason
