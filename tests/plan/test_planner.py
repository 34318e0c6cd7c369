"""Plans: what is chosen and why, what is refused and why, and that the search is exact and small."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest

from hpc_accel.errors import ConfigError
from hpc_accel.plan.cost import StepModel
from hpc_accel.plan.layouts import factors, memory_variants
from hpc_accel.plan.memory_fit import memory_refusal
from hpc_accel.plan.planner import NUM_SHOWN, make_plan
from hpc_accel.plan.schedules import SCHEDULES
from hpc_accel.plan.software import torch_amp
from hpc_accel.study.expand import place
from hpc_accel.study.layout import SPLIT_BACKWARD
from hpc_accel.study.optimizer import Optimizer
from hpc_accel.study.recipe import Recipe
from hpc_accel.study.study_file import Study
from tests.plan.examples import machine, machine_json, model


def study(layouts="auto", *, batch: int = 64, ranks: int = 4, nodes: int = 1, **fields) -> Study:
    gpus = fields.pop("gpus", ranks)
    return Study.model_validate(
        {
            "name": "example",
            "workload": {"name": "lm", "global_batch_size": batch},
            "layouts": layouts,
            "resources": {
                "num_nodes": nodes,
                "ranks_per_node": ranks,
                "gpus_per_node": gpus,
                "memory_mb": fields.pop("memory_mb", 64_000),
            },
            **fields,
        }
    )


def test_listed_layouts_are_exactly_what_runs():
    plan = make_plan(study([{"dp": [1, 2]}, {"dp": 2}, {"pp": 2}]), machine_json(), {"lm": model()})
    assert [run.layout.label for run in plan.chosen_runs()] == ["serial", "dp2", "pp2.1f1b"]
    assert all(candidate.why == "listed in the study" for candidate in plan.candidates)
    assert all(candidate.prediction.step_time_ms > 0 for candidate in plan.candidates)


def test_combinations_that_cannot_work_are_left_out_and_named():
    """dp 1 has nothing to shard, 5 does not divide the batch: of six combinations three are measured."""
    listed = [{"dp": [1, 2, 5], "shard": ["none", "full"]}]
    plan = make_plan(study(listed, batch=48), machine_json(), {"lm": model()})
    assert [run.layout.label for run in plan.chosen_runs()] == ["serial", "dp2", "dp2.fsdp"]
    left_out = [each for each in plan.to_json()["candidates"] if each["refused"]]
    assert [(each["layout"]["dp"], each["layout"]["shard"]) for each in left_out] == [
        (1, "full"),
        (5, "none"),
        (5, "full"),
    ]
    assert all(not each["chosen"] and all(each["refused"].values()) for each in left_out)


def test_a_study_with_nothing_left_is_refused_and_counts_the_reasons():
    impossible = [{"tp": 3}, {"pp": 16, "accumulation_steps": 16}, {"dp": 5}, {"dp": 16}]
    with pytest.raises(ConfigError, match="and 3 more") as caught:
        make_plan(study(impossible, batch=48), machine_json(), {"lm": model()})
    assert caught.value.exit_code == 78
    assert "tp 3" in caught.value.value
    assert caught.value.rule and caught.value.remedy


def test_auto_keeps_the_best_and_the_serial_baseline():
    plan = make_plan(study(search={"keep": 3}), machine_json(), {"lm": model()})
    chosen = [candidate for candidate in plan.candidates if candidate.chosen]
    assert [c.why for c in chosen[:3]] == [
        f"predicted rank {i} of {plan.searches[0].num_feasible} for time" for i in (1, 2, 3)
    ]
    serial = [c for c in chosen if c.run.layout.num_ranks == 1]
    assert len(chosen) == 4 and len(serial) == 1 and serial[0].why.startswith("baseline")


@pytest.mark.parametrize("recipe", [{}, {"recompute": "full"}, {"compression": "bf16"}, {"overlap": False}])
@pytest.mark.parametrize(
    "machine_fields",
    [{}, {"device": "cpu", "num_cpus": 4}, {"kernel_overhead_s": 1e-2}, {"device_memory_bytes": 778 * 10**6}],
)
def test_the_kept_layouts_are_those_of_an_exhaustive_search(machine_fields, recipe):
    gpus = 0 if machine_fields.get("device") == "cpu" else 4
    wanted, facts = study(search={"keep": 25}, recipes=[recipe], gpus=gpus), model()
    hardware, own = machine(**machine_fields), Recipe(**recipe)
    optimizer = Optimizer(name="adamw", learning_rate=3e-4)
    steps = StepModel(facts, hardware, "fp32", torch_amp(optimizer, own))
    every, num_layouts = [], 0
    for dp, pp, tp in factors(wanted.resources):
        if dp == 1 and own.options and own.recompute == "none":
            continue  # options of data parallelism
        for group in memory_variants(dp, pp, tp, 64, num_cuttable_layers=8, sequence_length=64):
            for layout in group.layouts():
                num_layouts += 1
                resources = place(layout, wanted.resources, "auto")
                exact = sum(steps.parts_s(layout, resources).values())
                bound = steps.bound_s(layout, resources)
                assert steps.quick_bound_s(group, resources) <= bound * (1 + 1e-9) <= exact * (1 + 2e-9), layout
                broken = own.overlap is False and layout.shard == "full"
                if not broken and memory_refusal("lm", layout, resources, steps) is None:
                    every.append(exact * 1e3)
    plan = make_plan(wanted, hardware, {"lm": facts})
    kept = [c.prediction.step_time_ms for c in plan.candidates if c.chosen][:25]
    assert kept == pytest.approx(sorted(every)[: len(kept)])
    assert len(kept) == min(25, len(every))
    if not own.options:
        assert plan.searches[0].num_enumerated == num_layouts


def test_refusals_stay_in_the_plan_with_their_number():
    uncut = replace(model(), tp_units=None)
    plan = make_plan(study(), machine_json(), {"lm": uncut})
    refused = [candidate.to_json() for candidate in plan.candidates if candidate.refused]
    assert [entry["refused"]["rule"] for entry in refused] == [plan.searches[0].refused[0]["rule"]]
    assert "tensor parallel" in refused[0]["refused"]["rule"]
    assert plan.searches[0].refused[0]["count"] == 4  # tp 2 alone, with dp 2, with pp 2; tp 4


def test_what_would_not_fit_is_refused_before_it_runs():
    big = model(num_layers=8, num_parameters=200_000_000, tp_parameters=200_000_000)
    plan = make_plan(study(), machine_json(), {"lm": big})
    assert all(c.prediction.peak_memory_bytes <= 16e9 for c in plan.candidates if c.chosen)
    assert not [c for c in plan.candidates if c.chosen and c.run.layout.num_ranks == 1]
    assert any("peak memory" in c.refused.rule for c in plan.candidates if c.refused)


def test_nothing_that_fits_is_an_error_with_the_commonest_rule():
    with pytest.raises(ConfigError, match="none of") as caught:
        make_plan(study(), machine_json(), {"lm": model(num_parameters=10**10)})
    assert "peak memory" in caught.value.rule


def test_energy_and_cost_order_by_node_seconds():
    # Twice the nodes for less than twice the speed costs more: one node wins although two are faster.
    facts, hardware = model(), machine_json(num_nodes=2)
    fastest = make_plan(study(nodes=2, search={"keep": 1}), hardware, {"lm": facts}).chosen_runs()[0]
    cheapest = make_plan(study(nodes=2, search={"keep": 1}, objective="cost"), hardware, {"lm": facts}).chosen_runs()[0]
    assert (fastest.resources.num_nodes, cheapest.resources.num_nodes) == (2, 1)


def test_the_plan_is_json_with_the_contracts_keys():
    content = make_plan(study([{"dp": 2}]), machine_json(), {"lm": model()}).to_json()
    content = json.loads(json.dumps(content))
    assert content["format"] == 1 and len(content["hardware_sha256"]) == 64
    entry = content["candidates"][0]
    assert set(entry) >= {
        "run_id",
        "workload",
        "layout",
        "recipe",
        "resources",
        "chosen",
        "why",
        "refused",
        "prediction",
    }
    assert set(entry["prediction"]["parts_ms"]) == {
        "forward",
        "backward",
        "communication_exposed",
        "bubble",
        "optimizer",
        "other",
    }
    assert entry["prediction"]["cost"] is None and entry["prediction"]["cost_reason"]


def test_4608_gpus_are_searched_with_few_simulations():
    deep = model(num_layers=96, num_parameters=150_000_000, tp_parameters=150_000_000)
    deep = replace(deep, tp_units=96, sequence_length=1536)
    hardware = machine_json(num_nodes=2, ranks_per_node=8, device_memory_bytes=80 * 10**9)
    start = time.process_time()
    plan = make_plan(study(batch=4608, ranks=8, nodes=576), hardware, {"lm": deep})
    elapsed_s = time.process_time() - start
    search = plan.searches[0]
    assert 500_000 < search.num_enumerated < 1_000_000
    assert search.num_simulated < 10 * NUM_SHOWN
    assert plan.chosen_runs()[0].layout.num_ranks > 1000
    assert elapsed_s < 60  # some seconds on an idle core; wide, because tests run beside each other


@pytest.mark.parametrize("layouts", [[{}, {"dp": 2}], "auto"])
def test_repeats_are_taken_in_turn(layouts):
    plan = make_plan(study(layouts, ranks=2, measure={"repeats": 3}), machine(), {"lm": model()})
    runs = plan.chosen_runs()
    configurations = [run.model_copy(update={"repeat": 1, "run_id": ""}) for run in runs]
    once = configurations[: len(runs) // 3]
    assert len(once) >= 2
    assert configurations == once * 3  # A B A B A B
    assert [run.repeat for run in runs] == sorted(run.repeat for run in runs)
    assert len({run.run_id for run in runs}) == len(runs)


def test_clocks_that_were_not_probed_leave_the_prediction_empty():
    plan = make_plan(study([{}], recipes=[{"power_limit_w": [200, 300]}]), machine(), {"lm": model()})
    assert [candidate.run.recipe.power_limit_w for candidate in plan.candidates] == [200, 300]
    for candidate in plan.candidates:
        assert candidate.prediction.step_time_ms is None
        assert "without power_limit_w" in candidate.prediction.step_time_reason


def test_what_cannot_be_predicted_is_ranked_as_if_without_it_and_says_so():
    plan = make_plan(study(recipes=[{"compile": True}], search={"keep": 3}), machine(), {"lm": model()})
    chosen = [candidate for candidate in plan.candidates if candidate.chosen]
    assert len(chosen) >= 3 and all(candidate.prediction.step_time_ms is None for candidate in chosen)
    assert "as if without what was not probed" in chosen[0].why
    # torch compiles neither tensor shards nor a split backward: those layouts are not proposed.
    layouts = [candidate.run.layout for candidate in chosen]
    assert all(layout.tp == 1 and layout.schedule not in SPLIT_BACKWARD for layout in layouts)


def test_options_of_data_parallelism_do_not_hide_other_recipes_layouts():
    recipes = [{"compression": "bf16"}, {}]
    plan = make_plan(study(recipes=recipes, search={"keep": 40}), machine(), {"lm": model()})
    by_recipe = {}
    for candidate in plan.candidates:
        if candidate.chosen:
            by_recipe.setdefault(candidate.run.recipe.compression, []).append(candidate.run.layout)
    assert all(layout.dp > 1 for layout in by_recipe["bf16"])
    assert any(layout.dp == 1 and layout.num_ranks > 1 for layout in by_recipe["none"])


def test_sharding_is_proposed_where_whole_replicas_do_not_fit():
    # One layer of 1.2e9 parameters, which neither stages nor tensor parallelism cut: 19.2 GB, on GPUs of 16 GB.
    uncut = replace(model(num_layers=1, num_parameters=1_200_000_000), tp_units=None)
    plan = make_plan(study(search={"keep": 2}), machine(), {"lm": uncut})
    assert {candidate.run.layout.shard for candidate in plan.candidates if candidate.chosen} <= {"optimizer", "full"}


def test_a_model_without_a_sequence_is_offered_none_to_divide():
    flat = replace(model(), sequence_length=None)
    plan = make_plan(study(search={"keep": 200}), machine(), {"lm": flat})
    assert not any(candidate.run.layout.sequence_parallel for candidate in plan.candidates)
    with_rows = make_plan(study(search={"keep": 200}), machine(), {"lm": model()})
    assert any(candidate.run.layout.sequence_parallel for candidate in with_rows.candidates)


def test_every_listed_layout_and_recipe_gets_a_prediction_or_a_reason():
    listed = [
        {"pp": 2, "accumulation_steps": 8, "schedule": list(SCHEDULES)},
        {"dp": 2, "shard": ["none", "optimizer", "full"]},
        {"tp": 2, "sequence_parallel": True},
        {"dp": 2, "tp": 2, "order": ["tp.dp.pp", "dp.tp.pp"]},
        {"dp": 2, "shares": (40, 24)},
        {"pp": 2, "split": "measured"},
    ]
    plan = make_plan(study(listed), machine(), {"lm": model()})
    assert len(plan.candidates) == 15
    assert all(candidate.prediction.step_time_ms > 0 for candidate in plan.candidates)
    recipes = [
        {"precision": ["tf32", "fp8"]},
        {"recompute": ["selective", "full"]},
        {"compression": ["bf16", "fp16", "powersgd"]},
        {"compile": True},
        {"offload": "activations"},
        {"bucket_mb": 5},
        {"overlap": False},
        {"average_every": 4},
    ]
    plan = make_plan(study([{"dp": 2}], recipes=recipes), machine(), {"lm": model()})
    assert len(plan.candidates) == 12
    for candidate in plan.candidates:
        prediction = candidate.prediction
        assert (prediction.step_time_ms is None) == bool(prediction.step_time_reason), candidate.run.label
