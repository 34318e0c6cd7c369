"""Energy, efficiency and checks of real runs on two ranks, against sensors of known constant power."""

from __future__ import annotations

import json

import polars as pl
import pytest

from hpc_accel.study.expand import resolve_workload
from hpc_accel.study.study_file import Study
from hpc_accel.workloads import entry
from hpc_accel.workloads.count_facts import describe
from tests.measure import trees
from tests.train.test_layouts import LM, train_all, write_runs

POWER_W = 200.0
PEAK = 2e9
MEASURE = {"warmup_steps": 2, "steps": 6, "parity_steps": 2, "idle_s": 0.4, "target_loss": 1000.0}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Summary and directory of: dp2 with more steps allowed, pp2 without, dp2 by gloo; on one node of 200 W."""
    root = tmp_path_factory.mktemp("study")
    level = {"ranks": 2, "matmul_flops_per_s": {"fp32": PEAK, "bf16": None, "fp16": None}}
    kind = {"device": "cpu", "matmul_flops_per_s": {"fp32": 2 * PEAK}, "levels": [level]}
    (root / "hardware.json").write_text(json.dumps({"site": "local", "node_kinds": [kind]}))
    runs = root / "runs"
    paths = [
        *write_runs(runs, LM, [{"dp": 2}], measure={**MEASURE, "max_steps": 5000}),
        *write_runs(runs, LM, [{"pp": 2, "accumulation_steps": 4}], measure=MEASURE),
        *write_runs(runs, LM, [{"dp": 2}], measure={**MEASURE, "idle_s": 0}, backend="gloo", seed=1, site="other"),
    ]
    with trees.pretended_root(trees.power_meter(root / "sys", POWER_W)):
        summaries = train_all(2, paths, 120)
    return [(summaries[path.parent.name], path.parent) for path in paths]


@pytest.mark.mpi
def test_a_window_is_extended_until_it_holds_a_hundred_updates(found):
    (long, directory), (short, _), _ = found
    assert long.energy.window_s >= 1.0
    assert long.steps.num_asked == 6 < long.steps.num_timed <= 5000
    assert long.energy.resolution_warning is False
    timed = pl.read_parquet(directory / "steps.parquet").filter(~pl.col("warmup"))
    assert timed.group_by("rank").len()["len"].to_list() == [long.steps.num_timed] * 2
    assert short.steps.num_timed == 6
    assert short.energy.resolution_warning is (short.energy.window_s < 1.0)
    said = [warning for warning in short.warnings if "set measure.max_steps" in warning]
    assert bool(said) is short.energy.resolution_warning


@pytest.mark.mpi
def test_the_phases_add_up_to_the_energy(found):
    for summary, _ in found:
        energy = summary.energy
        assert energy.energy_j == pytest.approx(POWER_W * energy.window_s, rel=0.01)
        # On a busy machine ranks leave a barrier some milliseconds apart.
        assert sum(energy.phases.by_phase_j.values()) == pytest.approx(energy.energy_j, rel=0.01, abs=0.01 * POWER_W)
        assert [device.scope for device in energy.phases.by_device] == ["node"]
        assert energy.phases.by_device[0].phases_j == pytest.approx(energy.phases.by_phase_j)
    (dp, _), (pp, _), (gloo, _) = (pair for pair in found)
    assert set(dp.energy.phases.by_phase_j) == {"compute", "comm_exposed", "idle"}
    assert set(pp.energy.phases.by_phase_j) == {"compute", "pipeline_wait", "idle"}
    # What gloo waits for cannot be told from computing.
    assert set(gloo.energy.phases.by_phase_j) == {"compute", "idle"}
    waited = pp.energy.phases.by_phase_j["pipeline_wait"] / pp.energy.energy_j
    assert waited == pytest.approx(pp.bubble_fraction.value, abs=0.1)


@pytest.mark.mpi
def test_idle_power_stands_beside_or_says_why_not(found):
    (dp, _), _, (gloo, _) = found
    assert dp.energy.idle_power_w.value == pytest.approx(POWER_W, rel=0.02)
    assert dp.energy.idle_window_s.value == pytest.approx(0.4, rel=0.5)
    assert gloo.energy.idle_power_w.value is None
    assert "idle_s is 0" in gloo.energy.idle_power_w.reason


@pytest.mark.mpi
def test_efficiency_follows_from_the_energy(found):
    for summary, _ in found:
        energy, steps = summary.energy, summary.steps
        per_sample = energy.energy_j / (steps.num_timed * 8)
        assert energy.per_sample_j.value == pytest.approx(per_sample)
        assert energy.per_token_j.value == pytest.approx(per_sample / 16)
        assert energy.per_epoch_j.value == pytest.approx(per_sample * steps.samples_per_epoch.value)
        step_s = energy.window_s / steps.num_timed
        assert energy.energy_delay_product_js.value == pytest.approx(energy.per_step_j.value * step_s)
        assert summary.target.num_steps.value == 1  # any loss is below 1000
        assert summary.target.energy_j.value == pytest.approx(energy.per_step_j.value)


@pytest.mark.mpi
def test_utilisation_is_of_the_cores_the_run_had(found):
    facts = describe(entry.build(resolve_workload(Study.model_validate({"name": "t", "workload": LM}).workload), 0))
    (dp, _), (pp, _), (gloo, _) = found
    flops = dp.flops.per_step.value
    assert 2.5 <= flops / (facts.forward_flops_per_sample * 8) <= 3.0
    assert pp.flops.per_step.value == flops
    for summary in (dp, pp):
        step_s = summary.step_time_ms.value / 1e3
        assert summary.flops.mfu.value == pytest.approx(flops / step_s / (2 * PEAK))
        assert summary.flops.mfu.reason == ""
    assert gloo.flops.mfu.value is None
    assert "of site 'local', the run of 'other'" in gloo.flops.mfu.reason


@pytest.mark.mpi
def test_overlap_and_the_ideal_bubble_stand_beside_what_was_measured(found):
    (dp, directory), (pp, _), (gloo, _) = found
    steps = pl.read_parquet(directory / "steps.parquet")
    assert steps["comm_overlapped_ns"].min() >= 0
    assert dp.phases_ms.comm_overlapped.value is not None
    assert gloo.phases_ms.comm_overlapped.value is None
    assert "gloo" in gloo.phases_ms.comm_overlapped.reason
    assert pp.bubble_ideal.value == pytest.approx(1 / 5)
    assert dp.bubble_ideal.value is None
