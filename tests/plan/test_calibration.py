"""Measured passes stand for predicted ones where they are exact, and scale them elsewhere."""

from __future__ import annotations

import hashlib
import json

import pytest

from hpc_accel.errors import ConfigError
from hpc_accel.plan.calibration import (
    Calibration,
    CalibrationFile,
    Linear,
    MeasuredPass,
    Replicated,
    Staged,
    layer_digest,
    load_calibrations,
)
from hpc_accel.plan.cost import StepModel
from hpc_accel.plan.planner import make_plan
from hpc_accel.plan.prediction import predict
from hpc_accel.plan.software import torch_amp
from tests.plan.examples import LAYER, machine, model, run
from tests.plan.test_planner import study

FACTS, MACHINE = model(), machine()
LEVEL = {
    "threads": 1,
    "matmul_flops_per_s": {"fp32": 1e12},
    "memory_bandwidth_bytes_per_s": 1e11,
    "kernel_overhead_s": 1e-5,
}


def measured(tp: int = 1, micro: int = 8, forward_s: float = 0.1, **more) -> MeasuredPass:
    return MeasuredPass(
        layer=layer_digest(LAYER),
        name="block",
        precision="fp32",
        tp=tp,
        micro_batch_size=micro,
        forward_s=forward_s,
        backward_s=2 * forward_s,
        **more,
    )


def calibration(*passes: MeasuredPass, **more) -> Calibration:
    return Calibration(passes=passes, **more)


def step_s(calibrated: Calibration | None, **layout) -> dict[str, float]:
    one = run(**layout)
    steps = StepModel(FACTS, MACHINE, "fp32", torch_amp(one.workload.optimizer, one.recipe), calibration=calibrated)
    return steps.parts_s(one.layout, one.resources)


def test_a_measured_pass_is_the_pass():
    parts = step_s(calibration(measured(), micro_batch_s=0.0))
    assert parts["forward"] == pytest.approx(8 * 0.1)
    assert parts["backward"] == pytest.approx(8 * 0.2)


def test_another_micro_batch_is_scaled_as_the_measured_one():
    plain, same = step_s(None, micro=16), calibration(measured(micro=8, forward_s=2 * step_s(None)["forward"] / 8))
    assert step_s(same, micro=16)["forward"] == pytest.approx(2 * plain["forward"], rel=0.02)


def test_the_nearer_measurement_counts_more():
    plain = {micro: step_s(None, micro=micro)["forward"] / 8 for micro in (4, 64)}
    both = calibration(measured(micro=4, forward_s=plain[4]), measured(micro=64, forward_s=3 * plain[64]))
    ratio = step_s(both, micro=8)["forward"] / step_s(None, micro=8)["forward"]
    assert 1 <= ratio < 1.1


def test_collectives_are_in_the_measured_pass():
    assert step_s(None, tp=2)["communication_exposed"] > 0
    assert step_s(calibration(measured(tp=2)), tp=2)["communication_exposed"] == 0


def test_samples_optimizer_and_the_rest_are_what_was_measured():
    plain = step_s(None)
    known = calibration(samples=Linear(fixed_s=1.0, each_s=0.5), step_s=3.0, optimizer_ratios={"plain": 2.0})
    parts = step_s(known, micro=8)
    assert parts["other"] == pytest.approx(3 + 1 + 8 * 0.5)
    assert parts["optimizer"] == pytest.approx(2 * plain["optimizer"])


def test_what_replicas_took_more_is_charged_for_each_micro_batch_and_step():
    more = Replicated(shard="none", precision="fp32", micro_batch_s=0.5, step_s=0.25)
    plain = step_s(None, dp=2, accumulation=4)
    parts = step_s(calibration(replicated=(more,)), dp=2, accumulation=4)
    assert parts["communication_exposed"] == pytest.approx(plain["communication_exposed"] + 4 * 0.5 + 0.25)
    assert step_s(calibration(replicated=(more,))) == step_s(None), "one replica exchanges nothing"
    staged = step_s(calibration(replicated=(more,)), dp=2, pp=2, accumulation=4, schedule="1f1b")
    apart = step_s(None, dp=2, pp=2, accumulation=4, schedule="1f1b")
    assert staged["communication_exposed"] == pytest.approx(apart["communication_exposed"] + (4 * 0.5 + 0.25) / 2)


def test_what_replicas_took_in_one_precision_is_not_charged_in_another():
    fp32, bf16 = (
        Replicated(shard="none", precision=precision, micro_batch_s=0.0, step_s=step_s)
        for precision, step_s in (("fp32", 0.25), ("bf16", 0.75))
    )
    one = run(dp=2)
    for precision, known, more_s in (("fp32", (bf16, fp32), 0.25), ("bf16", (fp32, bf16), 0.75), ("bf16", (fp32,), 0)):
        software = torch_amp(one.workload.optimizer, one.recipe.model_copy(update={"precision": precision}))
        plain, charged = (
            StepModel(FACTS, MACHINE, precision, software, calibration=calibrated)
            for calibrated in (None, calibration(replicated=known))
        )
        exposed = [each.parts_s(one.layout, one.resources)["communication_exposed"] for each in (plain, charged)]
        assert exposed[1] - exposed[0] == pytest.approx(more_s)


def test_stages_take_what_passes_through_them_were_measured_to_take():
    free = step_s(calibration(staged=Staged(pass_s=0.0)), pp=2, accumulation=4, schedule="gpipe")
    parts = step_s(calibration(staged=Staged(pass_s=0.1)), pp=2, accumulation=4, schedule="gpipe")
    assert sum(parts.values()) == pytest.approx(sum(free.values()) + 2 * 5 * 0.1)


def test_ranks_at_once_tell_measurements_apart():
    alone, crowd = measured(forward_s=0.1, ranks=1), measured(forward_s=0.3, ranks=2)
    kind = {"levels": [{**LEVEL, "ranks": 1}, {**LEVEL, "ranks": 2}]}
    times = {}
    for dp in (1, 2):
        one = run(dp=dp, ranks_per_node=2)
        software = torch_amp(one.workload.optimizer, one.recipe)
        steps = StepModel(FACTS, machine(**kind), "fp32", software, calibration=calibration(alone, crowd))
        times[dp] = steps.parts_s(one.layout, one.resources)["forward"]
    assert times == {1: pytest.approx(8 * 0.1), 2: pytest.approx(8 * 0.3)}


def test_a_disturbed_calibration_predicts_nothing():
    one = run()
    software = torch_amp(one.workload.optimizer, one.recipe)
    steps = StepModel(FACTS, MACHINE, "fp32", software, calibration=calibration(measured(spread=0.4)))
    assert "disturbed" in (steps.uncertain(one.layout, one.resources) or "")
    prediction = predict(one, FACTS, MACHINE, model=steps)
    assert prediction.step_time_ms is None and "quartiles 40% apart" in (prediction.step_time_reason or "")
    other = run(micro=4, accumulation=2)
    assert steps.uncertain(other.layout, other.resources) is None, "it does not rest on that measurement"


def test_the_file_holds_for_the_hardware_beside_it_alone(tmp_path):
    path, hardware = tmp_path / "calibration.json", b"{}"
    assert load_calibrations(path, hardware) is None
    digest = hashlib.sha256(hardware).hexdigest()
    whole = CalibrationFile(hardware_sha256=digest, created_utc="now", workloads={"lm": calibration(measured())})
    path.write_text(whole.model_dump_json())
    assert load_calibrations(path, hardware).workloads["lm"].passes[0].forward_s == 0.1
    assert load_calibrations(path, b"other") is None
    path.write_text(json.dumps({"format": 1, "nonsense": 2}))
    with pytest.raises(ConfigError):
        load_calibrations(path, hardware)


def test_a_file_of_an_earlier_format_is_refused_with_the_remedy(tmp_path):
    path = tmp_path / "calibration.json"
    whole = CalibrationFile(hardware_sha256="", created_utc="now", workloads={}).model_dump(mode="json")
    for earlier in ({**whole, "format": 2}, {"workloads": {}}, []):
        path.write_text(json.dumps(earlier))
        with pytest.raises(ConfigError) as caught:
            load_calibrations(path, b"{}")
        assert "format" in caught.value.value and "delete it and hardware.json" in caught.value.remedy


def test_a_plan_is_made_with_what_its_workload_took():
    plain, measured_first = (
        make_plan(study(), machine(), {"lm": FACTS}, calibrations=known)
        for known in (None, {"lm": calibration(measured(tp=1, micro=4, forward_s=1.0))})
    )
    times = [
        max(each.prediction.step_time_ms for each in plan.candidates if each.prediction)
        for plan in (plain, measured_first)
    ]
    assert times[1] > 10 * times[0]


def test_power_is_of_the_runs_own_ranks():
    """Rates were probed of one rank and of all eight, passes with two as well: two draw what two drew."""
    levels = [{**LEVEL, "ranks": 1}, {**LEVEL, "ranks": 8}]
    hardware = machine(levels=levels)
    known = calibration(measured(ranks=2, power_w=1700.0), measured(ranks=8, power_w=5600.0))
    one = run(dp=2)
    resources = one.resources.model_copy(update={"ranks_per_node": 2})
    software = torch_amp(one.workload.optimizer, one.recipe)
    assert StepModel(FACTS, hardware, "fp32", software, calibration=known).power_w(one.layout, resources) == 1700.0
