"""A study that serves: batches multiplied out, layouts resolved for forward passes, what cannot be served refused."""

from dataclasses import replace

import pytest

from hpc_accel.errors import ConfigError
from hpc_accel.study.expand import listed_runs
from hpc_accel.study.expand_infer import inference_runs
from hpc_accel.study.rules import refusals
from hpc_accel.study.run import Run
from hpc_accel.study.study_file import ResourcesChoice, Study
from tests.study.test_expand import facts

LOAD = {"arrival_rates_per_s": [10]}


def study(infer, **content):
    base = {"name": "s", "resources": {"ranks_per_node": 8}, "workload": {"name": "digits"}}
    return Study.model_validate({**base, "infer": {**LOAD, **infer} if infer is not None else None, **content})


def runs_of(infer, **content):
    made = study(infer, **content)
    return list(inference_runs(made, made.workloads[0]))


def refused(infer, model=None, limits=None, **content):
    [run] = runs_of(infer, **content)
    allowed = ResourcesChoice(**{"ranks_per_node": 8, **(limits or {})})
    return [str(error) for error in refusals(run, allowed, model or facts())]


def test_layouts_recipes_and_batch_sizes_are_multiplied_out():
    infer = {"batch_sizes": [1, 8], "layouts": [{"dp": [1, 2]}], "recipes": [{"precision": ["fp32", "bf16"]}]}
    runs = runs_of(infer)
    assert len({run.run_id for run in runs}) == len(runs) == 8
    for run in runs:
        assert run.infer is not None
        assert run.workload.global_batch_size == run.layout.dp * run.infer.batch_size
        assert f"-b{run.infer.batch_size}-" in run.run_id
        assert not list(refusals(run, ResourcesChoice(ranks_per_node=8), facts()))


def test_stages_cut_a_batch_into_as_many_parts_as_there_are_stages():
    parts = {}
    for run in runs_of({"batch_sizes": [1, 3, 4], "layouts": [{"pp": 2}, {"pp": 4}]}):
        assert run.layout.schedule == "gpipe"
        parts[run.layout.pp, run.infer.batch_size] = (run.layout.accumulation_steps, run.layout.micro_batch_size)
    assert parts == {(2, 1): (1, 1), (2, 3): (1, 3), (2, 4): (2, 2), (4, 1): (1, 1), (4, 3): (3, 1), (4, 4): (4, 1)}


def test_stages_between_blocks_do_not_serve():
    [run] = runs_of({}, layouts=[{"pp": 2}])
    allowed = ResourcesChoice(ranks_per_node=8)
    assert not list(refusals(run, allowed, facts()))
    [said] = refusals(run, allowed, replace(facts(), in_blocks=True))
    assert "pp 2 in inference, of a model that is cut between its blocks" in str(said)


def test_layouts_and_recipes_come_from_the_nearest_level():
    [run] = runs_of({}, layouts=[{"tp": 2}], recipes=[{"precision": "bf16"}])
    assert (run.layout.tp, run.recipe.precision) == (2, "bf16")
    workload = {"name": "digits", "layouts": [{"dp": 4}], "infer": {**LOAD, "recipes": [{"quantize": "int8"}]}}
    [run] = runs_of({}, layouts=[{"tp": 2}], workload=workload)
    assert (run.layout.dp, run.recipe.quantize, run.measure.parity_tolerance) == (4, "int8", 0.1)


def test_training_runs_are_the_same_with_and_without_infer():
    without = study(None, layouts=[{"dp": 2}])
    beside = study({}, layouts=[{"dp": 2}])
    ids = [[run.run_id for run in listed_runs(each, each.workloads[0], facts())] for each in (without, beside)]
    assert ids[0] == ids[1]
    # As it was before a run could serve: its id is in records, and must not change.
    assert ids[0] == ["digits-dp2-fp32-a1-" + ids[0][0][-8:]]
    run = next(iter(listed_runs(without, without.workloads[0], facts())))
    assert "infer" in run.model_dump()
    assert Run.model_validate(run.model_dump(exclude={"infer", "run_id"})).run_id == run.run_id


def test_what_is_served_under_is_part_of_the_run_id():
    [base] = runs_of({}, layouts=[{}])
    for change in ({"num_requests": 9}, {"deadline_ms": 5}, {"arrivals": "fixed"}, {"train_steps": 3}):
        [other] = runs_of(change, layouts=[{}])
        assert other.run_id != base.run_id, change


@pytest.mark.parametrize(
    ("infer", "content", "expected"),
    [
        ({}, {}, "layouts: auto"),
        ({"layouts": [{"micro_batch_size": 2}]}, {}, "micro_batch_size 2"),
        ({"layouts": [{"pp": 2, "accumulation_steps": 2}], "batch_sizes": [3]}, {}, "equal micro-batches"),
        (None, {"train": False, "layouts": [{}]}, "has no infer"),
    ],
)
def test_what_cannot_be_resolved_is_an_error(infer, content, expected):
    with pytest.raises(ConfigError, match="remedy") as caught:
        runs_of(infer, **content)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("layout", "recipe", "expected"),
    [
        ({}, {"recompute": "full"}, "recompute full in inference"),
        ({"dp": 2}, {"compression": "bf16"}, "compression bf16 in inference"),
        ({"dp": 2}, {"bucket_mb": 4}, "bucket_mb 4 in inference"),
        ({}, {"fused_optimizer": True}, "fused_optimizer True in inference"),
        ({"dp": 2, "shard": "full"}, {}, "shard full in inference"),
        ({"dp": 2, "shares": [1, 1]}, {}, "shares [1, 1] in inference"),
        ({"pp": 2, "schedule": "1f1b", "accumulation_steps": 2}, {}, "schedule 1f1b in inference"),
        ({"accumulation_steps": 2}, {}, "accumulation_steps 2 in inference with pp 1"),
        ({"tp": 2}, {"quantize": "int8"}, "quantize int8 with tp 2"),
        ({}, {"quantize": "int8", "precision": "bf16"}, "quantize int8 with precision bf16"),
        ({}, {"prune_fraction": 0.3}, "prune_fraction 0.3 with prune none"),
        ({}, {"prune": "2:4", "prune_fraction": 0.3}, "prune_fraction 0.3 with prune 2:4"),
    ],
)
def test_what_is_for_training_only_is_refused(layout, recipe, expected):
    found = refused({"layouts": [layout], "recipes": [recipe], "batch_sizes": [2]}, facts(tp_units=8))
    assert any(expected in error for error in found), found
    assert all("rule:" in error and "remedy:" in error for error in found)


@pytest.mark.parametrize(
    ("device", "num_gpus", "allowed"),
    [("auto", 0, True), ("auto", 1, False), ("cpu", 1, True), ("cuda", 0, False), ("cuda", 1, False)],
)
def test_int8_is_for_cpus(device, num_gpus, allowed):
    content = {"resources": {"ranks_per_node": 1, "gpus_per_node": num_gpus}, "device": device}
    [run] = runs_of({"layouts": [{}], "recipes": [{"quantize": "int8"}]}, **content)
    limits = ResourcesChoice(ranks_per_node=1, gpus_per_node=num_gpus)
    assert any("int8 with GPUs" in str(error) for error in refusals(run, limits, facts())) != allowed


@pytest.mark.parametrize(
    ("generate", "layout", "max_tokens", "expected"),
    [
        ({"prompt": 4, "tokens": 4}, {}, None, "without decode"),
        ({"prompt": 4, "tokens": 5}, {}, 8, "at most 8 tokens"),
        ({"prompt": 4, "tokens": 4}, {"pp": 2}, 8, "generate with pp 2"),
        ({"prompt": 4, "tokens": 4, "kv_cache": [True, True]}, {}, 8, "kv_cache"),
        ({"prompt": 4, "tokens": 4, "kv_cache": []}, {}, 8, "kv_cache"),
    ],
)
def test_generation_needs_a_model_that_can(generate, layout, max_tokens, expected):
    found = refused({"generate": generate, "layouts": [layout]}, replace(facts(), max_tokens=max_tokens))
    assert any(expected in error for error in found), found
    ok = {"prompt": 4, "tokens": 4}
    assert refused({"generate": ok, "layouts": [{}]}, replace(facts(), max_tokens=8)) == []


def test_training_still_refuses_what_is_for_inference():
    made = study(None, layouts=[{}], recipes=[{"quantize": "int8"}])
    [run] = listed_runs(made, made.workloads[0], facts())
    found = [str(error) for error in refusals(run, made.resources, facts())]
    assert any("quantize int8 in training" in error and "infer.recipes" in error for error in found)
