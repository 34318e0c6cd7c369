"""A study becomes runs: lists multiplied out, numbers resolved, run ids derived from content, rules applied."""

import json
from dataclasses import replace

import pytest

from hpc_accel.errors import ConfigError
from hpc_accel.study.expand import listed_runs, repeats, resolve_workload
from hpc_accel.study.model_facts import LayerFacts, ModelFacts, OptimizerFacts
from hpc_accel.study.rules import refusals
from hpc_accel.study.run import Run
from hpc_accel.study.study_file import ResourcesChoice, Study


def layer(parameters=10, flops=100.0):
    return LayerFacts(
        name="l",
        num_parameters=parameters,
        forward_flops_per_sample=flops,
        output_elements_per_sample=4,
        saved_elements_per_sample=4,
        tp_parameters=0,
        tp_flops_per_sample=0.0,
        tp_allreduce_elements_per_sample=0,
    )


def facts(layers=4, sequential=True, tp_units=4, samples=1000, **more):
    return ModelFacts(
        layers=tuple(layer() for _ in range(layers)),
        num_samples=samples,
        sample_bytes=4,
        sequential=sequential,
        tp_units=tp_units,
        **more,
    )


def study(**content):
    return Study.model_validate({"name": "s", "resources": {"ranks_per_node": 8}, **content})


def runs_of(content, model=None):
    made = study(**content)
    return list(listed_runs(made, made.workloads[0], model or facts()))


def refused(content, model=None, **limits):
    [run] = runs_of(content, model)
    allowed = ResourcesChoice(**{"ranks_per_node": 8, **limits})
    return [str(error) for error in refusals(run, allowed, model or facts())]


def test_lists_are_multiplied_out():
    runs = runs_of(
        {
            "workload": {"name": "digits"},
            "layouts": [{"dp": [1, 2], "accumulation_steps": [1, 4]}, {"pp": 2, "schedule": ["gpipe", "1f1b"]}],
            "recipes": [{"precision": ["fp32", "bf16"]}],
        }
    )
    assert len(runs) == (4 + 2) * 2
    assert len({run.run_id for run in runs}) == len(runs)
    for run in runs:
        layout = run.layout
        assert layout.dp * layout.micro_batch_size * layout.accumulation_steps == 64


def test_micro_batch_or_accumulation_follows_from_the_global_batch():
    [run] = runs_of({"workload": {"name": "digits"}, "layouts": [{"dp": 2, "micro_batch_size": 8}]})
    assert (run.layout.micro_batch_size, run.layout.accumulation_steps) == (8, 4)
    [run] = runs_of({"workload": {"name": "digits"}, "layouts": [{"pp": 2}]})
    assert (run.layout.schedule, run.layout.accumulation_steps) == ("1f1b", 8)


@pytest.mark.parametrize(
    "layout",
    [{"dp": 3}, {"accumulation_steps": 5}, {"micro_batch_size": 7}, {"micro_batch_size": 128}],
)
def test_a_batch_that_does_not_divide_is_an_error(layout):
    with pytest.raises(ConfigError, match="does not divide") as caught:
        runs_of({"workload": {"name": "digits"}, "layouts": [layout]})
    assert "divisors of" in caught.value.remedy or "a divisor of" in caught.value.remedy


def test_epochs_are_counted_in_steps_warm_up_included():
    [run] = runs_of({"workload": {"name": "mlp", "measure": {"epochs": 100}}, "layouts": [{}]}, facts(samples=100))
    assert run.measure.warmup_steps + run.measure.steps == 100
    kept = {"name": "mlp", "global_batch_size": 30, "last_batch": "keep", "measure": {"epochs": 2}}
    [run] = runs_of({"workload": kept, "layouts": [{}]}, facts(samples=100))
    assert run.measure.warmup_steps + run.measure.steps == 2 * 4


def test_run_id_covers_what_is_measured_and_not_how_it_is_queued():
    content = {"workload": {"name": "digits"}, "layouts": [{"dp": 2}]}
    [base] = runs_of(content)
    assert base.run_id.startswith("digits-dp2-fp32-a1-")

    def changed(**change):
        return runs_of({**content, **change})[0].run_id != base.run_id

    assert changed(seed=1)
    assert changed(site="generic-slurm")
    assert changed(recipes=[{"precision": "bf16"}])
    assert changed(backend="gloo")
    assert changed(measure={"steps": 31})
    assert not changed(resources={"ranks_per_node": 8, "time_limit_min": 99, "memory_mb": 1, "partition": "p"})
    queued = {"mail-type": "END", "reservation": "r", "begin": "16:00", "account": "a"}
    assert not changed(resources={"ranks_per_node": 8, "memory_mb": None, "sbatch_options": queued})
    assert changed(resources={"ranks_per_node": 8, "sbatch_options": {"hint": "nomultithread"}})


def test_run_json_round_trips_and_refuses_edits():
    [run] = runs_of({"workload": {"name": "digits"}, "layouts": [{"dp": 2}]})
    assert Run.model_validate_json(run.model_dump_json()) == run
    edited = json.loads(run.model_dump_json())
    edited["seed"] = 5
    with pytest.raises(ValueError, match="edited"):
        Run.model_validate(edited)


@pytest.mark.parametrize(
    ("layout", "model", "limits", "expected"),
    [
        ({"dp": 16}, facts(), {}, "16 ranks"),
        ({"pp": 8}, facts(layers=4), {}, "pp 8 on 4 layer(s)"),
        ({"pp": 4, "accumulation_steps": 2, "schedule": "1f1b"}, facts(), {}, "2 micro-batch(es) on 4 stages"),
        ({"pp": 2, "split": (1, 1)}, facts(), {}, "the model has 4"),
        ({"pp": 2, "split": (4,)}, facts(), {}, "split names"),
        ({"pp": 2}, facts(sequential=False, layers=1), {}, "run once each, in order"),
        ({"tp": 2}, facts(tp_units=None), {}, "tensor plan"),
        ({"tp": 2}, facts(tp_units=5), {}, "5 equal shares"),
        ({"schedule": "gpipe"}, facts(), {}, "needs stages"),
        ({"dp": 4}, facts(), {"ranks_per_node": 4, "gpus_per_node": 2}, "on 2 GPU(s)"),
        ({}, facts(samples=10), {}, "of 10 samples"),
        ({"pp": 2, "split": (2, 2)}, facts(sequential=False, tied_layers=((0, 3),)), {}, "share a parameter"),
        ({"pp": 2}, facts(sequential=False, tied_layers=((0, 1),)), {}, "share a parameter"),
        ({"tp": 2}, facts(half_divided=("head",)), {}, "with head, which shares"),
        ({"shares": (64,)}, facts(), {}, "with dp 1"),
    ],
)
def test_impossible_layouts_are_refused_with_the_rule(layout, model, limits, expected):
    messages = refused({"workload": {"name": "digits"}, "layouts": [layout]}, model, **limits)
    assert any(expected in message for message in messages), messages
    assert all("rule:" in message and "remedy:" in message for message in messages)


@pytest.mark.parametrize(
    ("layout", "recipe", "expected"),
    [
        ({"dp": 2}, {"compression": "powersgd", "precision": "fp16"}, "powersgd with fp16"),
        ({"dp": 2, "shard": "full"}, {"channels_last": True}, "channels_last with shard full"),
        ({"dp": 2, "shard": "full"}, {"fused_optimizer": True}, "fused_optimizer of sgd"),
        ({"pp": 2, "schedule": "zbv_zero_bubble"}, {"recompute": "selective"}, "recompute selective"),
        ({"dp": 2}, {"average_every": 2, "overlap": False}, "overlap off"),
        ({"dp": 2}, {"average_every": 31}, "with 30 timed steps"),
        ({}, {"prune_fraction": 0.3}, "prune_fraction 0.3 in training"),
    ],
)
def test_impossible_recipes_are_refused_with_the_rule(layout, recipe, expected):
    [message] = refused({"workload": {"name": "digits"}, "layouts": [layout], "recipes": [recipe]})
    assert expected in message
    assert "remedy:" in message


def test_channels_last_wants_convolutions():
    content = {"workload": {"name": "mlp"}, "layouts": [{}], "recipes": [{"channels_last": True}]}
    assert refused(content) == []
    [message] = refused(content, facts(has_channels=False))
    assert "without convolutions" in message


@pytest.mark.parametrize(
    ("layout", "recipe", "model", "expected"),
    [
        ({}, {}, {}, "sync_batch_norm with dp 1"),
        ({"dp": 2}, {"average_every": 2}, {}, "average_every 2"),
        ({"dp": 2}, {}, {"layers": 1, "has_norms": False}, "without BatchNorm"),
        ({"dp": 2}, {}, {"other_batch_norms": ("stem.norm",)}, "stem.norm, whose class has a forward of its own"),
        ({"dp": 2, "pp": 2}, {}, {"sequential": False}, "a tracer cuts"),
        ({"dp": 2, "pp": 2, "schedule": "zbv_zero_bubble"}, {}, {}, "goes through it twice"),
    ],
)
def test_where_batch_norm_of_all_replicas_cannot_be(layout, recipe, model, expected):
    content = {"workload": {"name": "digits"}, "layouts": [layout], "recipes": [{"sync_batch_norm": True, **recipe}]}
    [message] = refused(content, normalising(**model))
    assert expected in message
    assert "remedy:" in message


def normalising(*, has_norms=True, **model):
    """Facts of a model with BatchNorm in each layer."""
    found = facts(**model)
    layers = [replace(each, num_batch_norms=int(has_norms), batch_norm_channels=8) for each in found.layers]
    return replace(found, layers=tuple(layers))


@pytest.mark.parametrize(
    ("layout", "workload", "recipe", "expected"),
    [
        ({"accumulation_steps": 4}, {}, {}, "would compare 1/4 of the batch with itself"),
        ({"dp": 2, "pp": 2}, {}, {}, "accumulation_steps 8"),
        ({"dp": 2}, {"last_batch": "keep"}, {}, "last_batch keep"),
        ({"dp": 2}, {}, {"average_every": 2}, "average_every 2"),
    ],
)
def test_a_loss_of_all_outputs_wants_the_whole_batch_at_once(layout, workload, recipe, expected):
    content = {"workload": {"name": "digits", **workload}, "layouts": [layout], "recipes": [recipe]}
    [message] = refused(content, facts(gathers_outputs=True))
    assert expected in message
    assert refused({**content, "layouts": [{"dp": 2}], "recipes": [{}]}, facts()) == []


def test_tied_layers_of_one_stage_and_idle_parameters_are_not_refused():
    content = {"workload": {"name": "digits"}}
    assert refused({**content, "layouts": [{"pp": 2, "split": (2, 2)}]}, facts(tied_layers=((0, 1),))) == []
    idle = facts(unused_parameters=("spare.weight",), varies=True)
    for kind in ("none", "optimizer", "full"):
        assert refused({**content, "layouts": [{"dp": 2, "shard": kind}]}, idle) == []


OWN_GROUPS = OptimizerFacts(state_bytes_per_parameter=8.0, operations_per_tensor=9.0, keeps_groups=False)


@pytest.mark.parametrize(
    ("model", "recipe", "optimizer", "expected"),
    [
        ({"varies": True}, {"static_graph": True}, {}, "static_graph where the parameters in use vary"),
        ({"complex_parameters": ("w",)}, {"compression": "bf16"}, {}, "complex parameters, first w"),
        ({"autocast_problem": "types differ"}, {"precision": "bf16"}, {}, "precision bf16: types differ"),
        ({"sparse_gradients": ("w",)}, {"compression": "bf16"}, {}, "compression bf16 with sparse gradients of w"),
        ({"sparse_gradients": ("w",)}, {"fused_optimizer": True}, {}, "fused_optimizer with sparse gradients of w"),
        ({}, {"fused_optimizer": True}, {"name": "rmsprop"}, "fused_optimizer with optimizer rmsprop"),
        ({"optimizer": OWN_GROUPS}, {}, {"name": "tests.train.optimizers:by_name"}, "by_name with shard optimizer"),
    ],
)
def test_what_a_model_rules_out_is_refused(model, recipe, optimizer, expected):
    workload = {"name": "digits", "optimizer": {"name": "sgd", "learning_rate": 0.1, **optimizer}}
    shard = "optimizer" if "optimizer" in model else "none"
    layouts = [{"dp": 2, "shard": shard}]
    [message] = refused({"workload": workload, "layouts": layouts, "recipes": [recipe]}, facts(**model))
    assert expected in message
    assert "remedy:" in message


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"layouts": [{"dp": []}]}, "dp lists nothing"),
        ({"layouts": []}, "at least 1 item"),
        ({"recipes": []}, "at least 1 item"),
        ({"measure": {"steps": 3, "epochs": 2}}, "give one of them"),
        ({"workload": {"name": "lm", "optimizer": {"name": "adamw", "momentum": 0.9}}}, "adamw has its own"),
    ],
)
def test_keys_that_would_do_nothing_are_refused(content, expected):
    with pytest.raises(ValueError, match=expected):
        study(**{"workload": {"name": "digits"}, **content})


def test_orders_that_place_ranks_alike_are_one_run():
    orders = ["pp.dp.tp", "pp.tp.dp", "dp.pp.tp", "dp.tp.pp", "tp.pp.dp", "tp.dp.pp"]
    for sizes, count in [({"dp": 2}, 1), ({"dp": 2, "tp": 2}, 2), ({"dp": 2, "pp": 2, "tp": 2}, 6)]:
        runs = runs_of({"workload": {"name": "digits"}, "layouts": [{**sizes, "order": orders}]})
        assert len({run.run_id for run in runs}) == count
        assert runs[0].layout.order == "pp.dp.tp"


@pytest.mark.parametrize("layout", [{}, {"dp": 8}, {"pp": 4}, {"tp": 4}, {"dp": 2, "pp": 2, "tp": 2}])
def test_possible_layouts_are_not_refused(layout):
    assert refused({"workload": {"name": "digits"}, "layouts": [layout]}) == []


def test_stages_without_parameters_are_refused():
    model = ModelFacts(
        layers=(layer(), layer(parameters=0), layer()), num_samples=99, sample_bytes=4, sequential=True, tp_units=None
    )
    content = {"workload": {"name": "digits", "global_batch_size": 8}}
    messages = refused({**content, "layouts": [{"pp": 3, "split": (1, 1, 1)}]}, model)
    assert any("stage 1 has no parameters" in message for message in messages)
    assert any("pp 3 on 2" in message for message in refused({**content, "layouts": [{"pp": 3}]}, model))


def test_layouts_over_nodes():
    content = {"workload": {"name": "digits"}, "layouts": [{"dp": 8}]}
    made = study(**{**content, "resources": {"num_nodes": 2, "ranks_per_node": 4}})
    [run] = listed_runs(made, made.workloads[0], facts())
    assert (run.resources.num_nodes, run.resources.ranks_per_node) == (2, 4)


def test_workloads_need_a_name_or_an_entry():
    for choice, expected in [
        ({"name": "nope"}, "built-in workloads are "),
        ({"entry": "json:loads"}, "global_batch_size"),
    ]:
        with pytest.raises(ConfigError) as caught:
            resolve_workload(study(workload=choice).workloads[0])
        assert expected in str(caught.value)


def test_a_key_that_came_later_leaves_the_ids_of_older_runs(tmp_path):
    [run] = runs_of({"workload": {"name": "digits"}, "layouts": [{"dp": 2}]})
    content = json.loads(run.model_dump_json())
    del content["repeat"], content["measure"]["idle_s"], content["recipe"]["power_limit_w"]
    assert Run.model_validate(content).run_id == run.run_id
    for part, key, value in [("measure", "idle_s", 0), ("recipe", "power_limit_w", 300), ("measure", "max_steps", 90)]:
        changed = json.loads(run.model_dump_json(exclude={"run_id"}))
        changed[part][key] = value
        assert Run.model_validate(changed).run_id != run.run_id, key


def test_repeats_are_the_same_configuration_under_ids_of_their_own():
    made = study(workload={"name": "digits"}, layouts=[{"dp": 2}], measure={"repeats": 3})
    [run] = listed_runs(made, made.workloads[0], facts())
    same = repeats(made, made.workloads[0], run)
    assert [each.repeat for each in same] == [1, 2, 3]
    assert same[0] == run
    assert len({each.run_id for each in same}) == 3
    assert "-r2-" in same[1].run_id
    assert same[1].model_copy(update={"repeat": 1, "run_id": run.run_id}) == run


def test_more_steps_than_allowed_are_refused():
    [why] = refused(
        {"workload": {"name": "digits"}, "layouts": [{}], "measure": {"steps": 50, "max_steps": 20}},
    )
    assert "max_steps 20 with 50 steps" in why


def test_gpu_clocks_without_gpus_are_refused():
    content = {"workload": {"name": "digits"}, "layouts": [{}], "recipes": [{"gpu_freq_mhz": 900}]}
    [why] = refused(content)
    assert "gpu_freq_mhz 900 without GPUs" in why


def test_arguments_may_be_nested():
    args = {"overrides": {"hidden_size": 64}, "sizes": [1, 2], "text": None}
    choice = study(workload={"name": "hf", "args": args}).workloads[0]
    assert resolve_workload(choice).args == args


def test_a_learning_rate_alone_keeps_the_built_ins_optimizer():
    made = resolve_workload(study(workload={"name": "lm", "optimizer": {"learning_rate": 0.1}}).workloads[0])
    assert (made.optimizer.name, made.optimizer.learning_rate) == ("adamw", 0.1)
    other = resolve_workload(study(workload={"name": "lm", "optimizer": {"name": "sgd"}}).workloads[0])
    assert (other.optimizer.name, other.optimizer.learning_rate) == ("sgd", 0.01)


@pytest.mark.parametrize(
    ("layout", "sequential", "told"),
    [
        ({"pp": 2}, False, "pp 2 of a model with meta: true"),
        ({"pp": 2, "split": "measured"}, True, "split: measured with meta: true"),
    ],
)
def test_what_needs_all_values_is_refused_of_a_model_without(layout, sequential, told):
    content = {"workload": {"name": "mlp", "meta": True}, "layouts": [layout]}
    assert any(told in each for each in refused(content, facts(sequential=sequential)))
    content["workload"]["meta"] = False
    assert not any(told in each for each in refused(content, facts(sequential=sequential)))
