"""Which measurements a study asks for, and what becomes of measured steps, on round numbers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hpc_accel.calibrate.fit import fit, line, model_of
from hpc_accel.calibrate.measure import Steps
from hpc_accel.calibrate.shorten import MOST_EQUAL, facts_of_kept, layers_to_keep
from hpc_accel.calibrate.wanted import PASSES, REPLICAS, STAGES, Wanted, missing, wanted
from hpc_accel.plan.calibration import Calibration
from hpc_accel.plan.planner import make_plan
from hpc_accel.probe.hardware import Hardware
from tests.plan.examples import LAYER, machine, machine_json, model
from tests.plan.test_planner import study

LAYOUTS = [{"accumulation_steps": [1, 4]}, {"dp": 2}, {"tp": 2}, {"pp": 2, "accumulation_steps": 4}, {"dp": 4}]
FACTS = model(num_layers=3)


def cpu(num_cpus: int = 2) -> Hardware:
    return machine(device="cpu", num_cpus=num_cpus)


def asked(num_cpus: int = 2, layouts: object = LAYOUTS, **fields) -> list[Wanted]:
    hardware = cpu(num_cpus)
    plan = make_plan(study(layouts, gpus=0, device="cpu", **fields), hardware, {"lm": FACTS})
    return wanted(plan, hardware, 4).get("lm", [])


def steps(step_s: float, forward_s: float, backward_s: float, data_s: float = 0.0, **more) -> Steps:
    phases = {"data": data_s, "forward": forward_s, "backward": backward_s, "optimizer": more.pop("optimizer_s", 0.0)}
    return Steps(step_s=step_s, phases_s=phases, spread=0.0, layers=None, **more)


def test_equal_shapes_are_wanted_once_and_layouts_beyond_the_cores_not_at_all():
    found = [(each.what, each.run.layout.label, each.at_once) for each in asked()]
    assert len({each.key for each in asked() if each.what == PASSES}) == len(asked()) - 2
    assert ("passes", "serial", 1) in found and ("passes", "tp2", 2) in found
    assert ("replicas", "dp2", 2) in found and ("stages", "pp2.1f1b", 2) in found
    assert all(at_once <= 2 for *_, at_once in found), "four ranks share two cores: nothing is predicted of them"
    assert {each.at_once for each in asked(num_cpus=4)} == {1, 2, 4}


def test_what_a_recipe_changes_unpredictably_is_not_measured():
    assert asked(recipes=[{"static_graph": True}]) == []
    passes = [each for each in asked(recipes=[{"recompute": ["none", "full"]}]) if each.what == PASSES]
    assert {each.run.recipe.recompute for each in passes} == {"none", "full"}


def test_what_is_known_is_not_measured_again():
    every, hardware = asked(), cpu()
    known = fit([(each, steps(1.0, 0.4, 0.5)) for each in every], FACTS, hardware, Calibration())
    assert missing(every, known) == []
    more = asked(layouts=[*LAYOUTS, {"dp": 2, "accumulation_steps": 8}])
    assert [(each.what, each.run.layout.micro_batch_size) for each in missing(more, known)] == [(PASSES, 4)]


def test_compiled_passes_are_measured_and_predicted_by_themselves():
    hardware, layouts, recipes = cpu(), [{}], [{"compile": [False, True]}]
    content = study(layouts, gpus=0, device="cpu", recipes=recipes)
    every = wanted(make_plan(content, hardware, {"lm": FACTS}), hardware, 1)["lm"]
    assert [each.run.recipe.compile for each in every] == [False, True]
    took = [(every[0], steps(1.9, 0.8, 1.0, power_w=100.0)), (every[1], steps(1.0, 0.4, 0.5, power_w=130.0))]

    def predicted(*measured: tuple[Wanted, Steps]) -> dict[bool, tuple[float | None, float | None]]:
        known = fit(measured, FACTS, hardware, Calibration())
        plan = make_plan(content, hardware, {"lm": FACTS}, calibrations={"lm": known})
        return {
            each.run.recipe.compile: (each.prediction.step_time_ms, each.prediction.energy_j)
            for each in plan.candidates
        }

    both, num_steps = predicted(*took), every[0].run.measure.steps
    assert both[False][0] == pytest.approx(1900, rel=0.02) and both[True][0] == pytest.approx(1000, rel=0.02)
    assert both[True][1] == pytest.approx(130.0 * both[True][0] / 1e3 * num_steps)
    assert predicted(took[0])[True] == (None, None), "nothing is known of compiled passes"


def test_replicas_of_each_precision_are_measured_and_kept_apart():
    every = asked(layouts=[{"dp": 2}], recipes=[{"precision": ["fp32", "bf16"]}])
    replicas = [each for each in every if each.what == REPLICAS]
    assert {each.run.recipe.precision for each in replicas} == {"fp32", "bf16"}
    of = {
        precision: [each for each in every if each.run.recipe.precision == precision] for precision in ("fp32", "bf16")
    }
    known = fit([(each, steps(1.0, 0.4, 0.5)) for each in of["fp32"]], FACTS, cpu(), Calibration())
    assert [each.precision for each in known.replicated] == ["fp32"]
    assert missing(every, known) == of["bf16"]
    known = fit([(each, steps(2.0, 0.4, 0.5)) for each in of["bf16"]], FACTS, cpu(), known)
    fp32, bf16 = (known.replicas("none", precision) for precision in ("fp32", "bf16"))
    assert bf16.step_s > fp32.step_s


def test_samples_are_measured_without_workers():
    with_workers = asked(recipes=[{"data_workers": [4, 0]}])
    assert {each.run.recipe.data_workers for each in with_workers} == {0}
    assert [each.key for each in with_workers] == [each.key for each in asked()], "once, not once for each number"


def test_passes_add_up_to_the_phases_that_were_timed():
    (serial, *_) = [each for each in asked() if each.run.layout.accumulation_steps == 2]
    known = fit([(serial, steps(2.0, 0.8, 1.0, 0.1))], FACTS, cpu(), Calibration())
    (one,) = known.passes  # three equal layers
    assert (one.forward_s, one.backward_s) == (pytest.approx(0.8 / 2 / 3), pytest.approx(1.0 / 2 / 3))
    parts = model_of(serial, FACTS, cpu(), known).parts_s(serial.run.layout, serial.run.resources)
    assert parts["forward"] == pytest.approx(0.8) and parts["backward"] == pytest.approx(1.0)
    assert sum(parts.values()) == pytest.approx(2.0, rel=0.01)


def test_layers_run_alone_say_what_share_each_has():
    facts = replace(FACTS, layers=(LAYER, replace(LAYER, forward_flops_per_sample=4e9)))
    (serial, *_) = [each for each in asked() if each.run.layout.accumulation_steps == 1]
    shares = replace(steps(1.0, 0.4, 0.5), layers=[(3.0, 1.0), (1.0, 1.0)])
    first, second = fit([(serial, shares)], facts, cpu(), Calibration()).passes
    assert (first.forward_s, second.forward_s) == (pytest.approx(0.3), pytest.approx(0.1))
    assert (first.backward_s, second.backward_s) == (pytest.approx(0.25), pytest.approx(0.25))


def test_replicas_and_stages_take_what_was_measured_of_them():
    hardware, every = cpu(), asked(layouts=[{"dp": 2, "accumulation_steps": 4}, {"pp": 2, "accumulation_steps": 4}])
    took = []
    for each in every:
        accumulation = each.run.layout.accumulation_steps
        plain = accumulation * 0.3 * each.run.layout.micro_batch_size
        extra = {PASSES: 0.0, REPLICAS: 0.5 + accumulation * 0.25, STAGES: plain}[each.what]
        took.append((each, steps(plain + extra, plain / 3, plain * 2 / 3)))
    known = fit(took, FACTS, hardware, Calibration())
    for each, seen in took:
        parts = model_of(each, FACTS, hardware, known).parts_s(each.run.layout, each.run.resources)
        assert sum(parts.values()) == pytest.approx(seen.step_s, rel=0.01), each.what
    (replicated,) = known.replicated
    assert replicated.micro_batch_s == pytest.approx(0.25, abs=0.02)
    assert known.staged is not None and known.staged.pass_s > 0


def test_samples_lie_on_a_line_whatever_one_of_them_does():
    found = line([(2, 1.2), (4, 1.4), (8, 1.8), (12, 2.2), (16, 2.6), (32, 42.0)])
    assert (found.fixed_s, found.each_s) == (pytest.approx(1.0, abs=0.1), pytest.approx(0.1, abs=0.01))
    assert line([(8, 4.0)])(16) == pytest.approx(8.0)


def test_a_deep_model_is_shortened_to_neighbours_of_each_kind():
    head = replace(LAYER, forward_flops_per_sample=1e9)
    deep = replace(model(num_layers=96), layers=(head, *[LAYER] * 96, head))
    kept = layers_to_keep(deep)
    assert kept == (0, *range(1, 1 + MOST_EQUAL), 97)
    assert [layer.forward_flops_per_sample for layer in facts_of_kept(deep, kept).layers] == [1e9, 2e9, 2e9, 1e9]
    assert layers_to_keep(model(num_layers=2)) is None
    assert layers_to_keep(replace(deep, sequential=False)) is None


def test_a_plan_for_gpus_asks_for_as_many_ranks_as_a_node_has():
    plan = make_plan(study([{"dp": 8}], nodes=2), machine_json(num_nodes=2), {"lm": FACTS})
    found = wanted(plan, machine(num_nodes=2), 4)["lm"]
    assert {(each.what, each.run.layout.dp, each.at_once) for each in found} == {(PASSES, 1, 4), (REPLICAS, 4, 4)}
