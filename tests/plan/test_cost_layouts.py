"""What sharding, mesh order, shares, schedules and recipes change in a prediction, against arithmetic done by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hpc_accel.parallel.powersgd import POWERSGD_RANK
from hpc_accel.plan.cost import StepModel
from hpc_accel.plan.prediction import predict
from hpc_accel.plan.software import torch_amp
from hpc_accel.study.optimizer import Optimizer
from hpc_accel.study.recipe import Recipe
from tests.plan.examples import machine, machine_json, model, run
from tests.plan.test_cost import PLAIN

RATES = {"fp32": 1e12, "tf32": 2e12, "bf16": 2e12, "fp16": None, "fp8": 4e12}
PIPELINES = [
    ("gpipe", 1),
    ("1f1b", 1),
    ("interleaved_1f1b", 2),
    ("looped_bfs", 2),
    ("interleaved_zero_bubble", 2),
    ("zbv_zero_bubble", 2),
    ("dualpipev", 2),
]


def parts(software=PLAIN, hardware=None, facts=None, **layout) -> dict[str, float]:
    prediction = predict(run(**layout, hardware=hardware), facts or model(), hardware or machine(), software=software)
    assert prediction.step_time_ms is not None, prediction.step_time_reason
    assert sum(prediction.parts_ms.values()) == pytest.approx(prediction.step_time_ms)
    return prediction.parts_ms


def test_full_sharding_gathers_every_layer_twice_and_scatters_it_once():
    # A layer is 4 MB: three steps of 1 MB at 10 us and 10 GB/s. Eight of them hide behind 128 ms but for the first,
    # and what hides slows computing by 12.6 %.
    each = 3 * (1e-5 + 1e6 / 1e10) * 1e3
    passes = 2 * (each + 0.126 * 7 * each)
    sharded = parts(dp=4, shard="full")
    assert sharded["communication_exposed"] == pytest.approx(passes + 8 * each)
    assert sharded["optimizer"] == pytest.approx(parts(dp=4)["optimizer"] / 4)
    # Gathers return with every micro-batch, scatters do not.
    twice = parts(dp=4, shard="full", accumulation=2)["communication_exposed"]
    assert twice == pytest.approx(2 * passes + 8 * each)
    crowded = parts(dp=4, shard="full", hardware=machine(device="cpu", num_cpus=4))["communication_exposed"]
    assert crowded == pytest.approx(3 * 8 * each)  # no core left to communicate beside


def test_groups_of_shards_gather_inside_a_node_and_add_up_across():
    nodes = machine(num_nodes=2, ranks_per_node=2)
    # Two ranks of a node exchange 2 MB halves of a layer; each then sums its half with its like, both over one link.
    inside = (1e-5 + 2e6 / 1e10) * 1e3
    across = (2 * (2e-5 + 1e6 / 1e9) + 2e6 / 1e9) * 1e3
    passes = 2 * (inside + 0.126 * 7 * inside)
    grouped = parts(dp=4, shard="full", shard_ranks=2, ranks_per_node=2, hardware=nodes)
    assert grouped["communication_exposed"] == pytest.approx(passes + 8 * (inside + across))
    everywhere = parts(dp=4, shard="full", ranks_per_node=2, hardware=nodes)
    assert grouped["communication_exposed"] < everywhere["communication_exposed"]
    assert grouped["optimizer"] == pytest.approx(2 * everywhere["optimizer"])


def test_full_sharding_costs_the_host_by_layer_and_by_tensor():
    own = replace(PLAIN, sharded_forward_operations=10, sharded_backward_operations=20, sharded_update_operations=30)
    kind = machine(device="cpu", num_cpus=8)
    each_ms = kind.slowest.level(4).kernel_overhead_s * 1e3
    plain, costly = (parts(software, kind, dp=4, shard="full", accumulation=2) for software in (PLAIN, own))
    assert costly["forward"] - plain["forward"] == pytest.approx(2 * 8 * 10 * each_ms)
    assert costly["backward"] - plain["backward"] == pytest.approx(2 * 8 * 20 * each_ms)
    assert costly["optimizer"] - plain["optimizer"] == pytest.approx(32 * 30 * each_ms)
    assert parts(own, kind, dp=4, shard="optimizer") == parts(PLAIN, kind, dp=4, shard="optimizer")


def test_zero_1_sends_updated_parameters_tensor_by_tensor():
    plain, sharded = parts(dp=4), parts(dp=4, shard="optimizer")
    tensor = 3 * (1e-5 + 1e6 / 4 / 1e10) * 1e3  # 32 tensors of 1 MB
    assert sharded["communication_exposed"] - plain["communication_exposed"] == pytest.approx(32 * tensor)
    assert sharded["optimizer"] == pytest.approx(plain["optimizer"] / 4)


def test_compressed_gradients_are_half_as_long_and_moved_twice_more():
    half = parts(replace(PLAIN, gradient_wire_bytes=2), dp=4)["communication_exposed"]
    ring = 2 * 6 * 1e-5 + 6 / 4 * 16e6 / 1e10
    assert half == pytest.approx((ring + 8e6 * 12 / 1e11) * 1e3)


def test_gradients_averaged_after_backward_are_copied_and_never_hidden():
    flat = replace(PLAIN, flattens_gradients=True)
    later = parts(flat, dp=4)["communication_exposed"]
    assert later - parts(dp=4)["communication_exposed"] == pytest.approx(6 * 32e6 / 1e11 * 1e3)
    # A split backward hides none either, even where gradients would otherwise be sent meanwhile.
    hiding = replace(flat, overlaps_gradients=True)
    layout = {"dp": 2, "pp": 2, "accumulation": 4, "stages_per_rank": 2}
    split = parts(hiding, schedule="zbv_zero_bubble", **layout)["communication_exposed"]
    assert split == pytest.approx(parts(flat, schedule="zbv_zero_bubble", **layout)["communication_exposed"])
    assert split > parts(hiding, schedule="interleaved_1f1b", **layout)["communication_exposed"]


def test_batch_norm_of_all_replicas_waits_twice_a_layer_and_micro_batch():
    synced = replace(PLAIN, synchronises_batch_norm=True)
    facts = model(num_batch_norms=2, batch_norm_channels=1000)
    sent = 2 * 8 * 2 * _ring_or_tree(500 * 16) * 1e3  # two micro-batches, eight layers of two
    for layout in ({"dp": 4}, {"dp": 4, "shard": "full"}):
        plain, waiting = (parts(own, facts=facts, accumulation=2, **layout) for own in (PLAIN, synced))
        # Forward, and as much backward.
        assert waiting["communication_exposed"] - plain["communication_exposed"] == pytest.approx(2 * sent)
    assert parts(synced, facts=facts, tp=4) == parts(PLAIN, facts=facts, tp=4)
    # The bound that a search starts from knows it, too, whatever it saw before.
    step = StepModel(facts, machine(), "fp32", synced)
    for dp in (1, 2, 4):
        one = run(dp=dp)
        assert step.bound_s(one.layout, one.resources) <= sum(step.parts_s(one.layout, one.resources).values())


def test_outputs_of_all_replicas_are_gathered_once_a_step():
    gathering = replace(model(), gathers_outputs=True)
    alone, gathered = parts(dp=4), parts(facts=gathering, dp=4)
    samples = run(dp=4).workload.global_batch_size
    num_bytes = gathering.layers[-1].output_elements_per_sample * samples * 4
    difference = gathered["communication_exposed"] - alone["communication_exposed"]
    assert difference == pytest.approx(2 * (3 * 1e-5 + 3 / 4 * num_bytes / 1e10) * 1e3, rel=0.2)
    assert parts(facts=gathering, tp=4) == parts(tp=4)


def test_powersgd_sends_two_thin_matrices():
    thin = parts(replace(PLAIN, powersgd_rank=1), dp=4)["communication_exposed"]
    width = (8e6 / 16) ** 0.5
    sent = 2 * _ring_or_tree(16 * width * 4) + _ring_or_tree(16 * width * 4)
    assert thin == pytest.approx((sent + 8 * 8e6 * 4 / 1e11 + 10 * 16 * 1e-5) * 1e3)
    assert parts(replace(PLAIN, powersgd_rank=8), dp=4)["communication_exposed"] > thin


def _ring_or_tree(num_bytes: float) -> float:
    return min(6 * (1e-5 + num_bytes / 4 / 1e10), 4 * (1e-5 + num_bytes / 1e10))


def test_local_sgd_sends_parameters_now_and_then():
    every = parts(dp=4)["communication_exposed"]
    assert parts(replace(PLAIN, average_every=5), dp=4)["communication_exposed"] == pytest.approx(every / 5)


def test_small_buckets_cost_latency_and_hide_better():
    def exposed(**fields) -> float:
        return parts(replace(PLAIN, gradient_bucket_bytes=4e6, **fields), dp=4)["communication_exposed"]

    assert exposed() > parts(dp=4)["communication_exposed"]  # eight rings instead of two
    assert (
        exposed(overlaps_gradients=True) < parts(replace(PLAIN, overlaps_gradients=True), dp=4)["communication_exposed"]
    )


def test_recomputing_all_is_another_forward_and_all_but_products_a_little():
    none, selective, full = (parts(replace(PLAIN, recompute=how)) for how in ("none", "selective", "full"))
    assert full["backward"] == pytest.approx(none["backward"] + none["forward"])
    assert selective["backward"] == pytest.approx(none["backward"] + 0.0512)  # the traffic of kept elements


def test_the_mesh_order_decides_what_crosses_nodes():
    two = machine(num_nodes=2)
    inside, across = (parts(hardware=two, dp=2, tp=4, order=order) for order in ("pp.dp.tp", "pp.tp.dp"))
    # Tensor-parallel messages within a node, gradients between nodes; or the other way round.
    assert inside["communication_exposed"] != pytest.approx(across["communication_exposed"])
    chatty = model(tp_allreduce_elements_per_sample=200_000)
    slow = parts(hardware=two, facts=chatty, dp=2, tp=4, order="pp.tp.dp")["communication_exposed"]
    assert slow > 3 * parts(hardware=two, facts=chatty, dp=2, tp=4)["communication_exposed"]


def test_a_divided_sequence_divides_norms_and_sends_as_much():
    whole, divided = parts(tp=4), parts(tp=4, sequence_parallel=True)
    assert divided["forward"] == pytest.approx(128 / 4 + 64 * 10_000 / 4 * 4 * 2 / 1e11 * 1e3)
    # As many bytes as all-reduces send, and a copy each way to lay parts of 8 x 1,000 elements side by side.
    copies = 2 * 16 * 4 * 8 * 1_000 * 4 / 1e11 * 1e3
    assert divided["communication_exposed"] == pytest.approx(whole["communication_exposed"] + copies)
    entering = replace(PLAIN, collective_operations=5)
    cpu = machine(device="cpu")
    more = parts(entering, cpu, tp=4, sequence_parallel=True)["communication_exposed"]
    assert more > parts(entering, cpu, tp=4)["communication_exposed"]  # two messages are entered for each


@pytest.mark.parametrize(("schedule", "chunks"), PIPELINES)
@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_every_schedule_is_predicted_from_the_same_work(schedule, chunks, device):
    layout = {"pp": 4, "accumulation": 8, "schedule": schedule, "stages_per_rank": chunks}
    own = parts(hardware=machine(device=device), **layout)
    reference = parts(hardware=machine(device=device), pp=4, accumulation=8, schedule="1f1b")
    assert own["forward"] == pytest.approx(reference["forward"])
    assert own["backward"] == pytest.approx(reference["backward"], rel=0.01)
    assert own["bubble"] > 0


def test_interleaving_pays_with_few_micro_batches_only():
    def times(accumulation: int) -> dict[str, float]:
        layouts = [{"schedule": name, "stages_per_rank": v} for name, v in PIPELINES if name != "dualpipev"]
        return {
            layout["schedule"]: sum(parts(pp=4, micro=1, accumulation=accumulation, **layout).values())
            for layout in layouts
        }

    few, some, many = times(4), times(8), times(64)
    assert few["interleaved_1f1b"] < few["1f1b"]
    assert many["interleaved_1f1b"] > many["1f1b"]
    assert some["zbv_zero_bubble"] < some["interleaved_1f1b"] < some["1f1b"]


def test_the_measured_slowdown_of_a_schedule_is_the_softwares():
    layout = {"pp": 4, "accumulation": 8, "schedule": "interleaved_1f1b", "stages_per_rank": 2}
    ideal = sum(parts(replace(PLAIN, schedule_slowdown={}), **layout).values())
    optimizer = parts(**layout)["optimizer"]
    assert sum(parts(**layout).values()) - optimizer == pytest.approx((ideal - optimizer) * 1.133 / 1.063)


def test_a_measured_split_balances_predicted_times_and_not_flops():
    light = model().layers[0]
    facts = replace(model(), layers=(replace(light, saved_elements_per_sample=150_000_000), *[light] * 4))
    steps = StepModel(facts, machine(), "fp32", PLAIN)
    auto, measured = (run(pp=2, accumulation=4, schedule="1f1b", split=how).layout for how in ("auto", "measured"))
    # The first layer's products take 2 ms a sample as all do, but what it keeps another 12 ms.
    assert steps.stage_times.split(auto) == (2, 3)
    assert steps.stage_times.split(measured) == (1, 4)


@pytest.mark.parametrize(("precision", "rate"), [("fp32", 1), ("tf32", 2), ("fp8", 4)])
def test_products_run_at_the_probed_rate_of_the_recipes_precision(precision, rate):
    hardware = machine(matmul_flops_per_s=RATES)
    assert parts(hardware=hardware, precision=precision)["forward"] == pytest.approx(128 / rate + 0.0512)
    unknown = predict(run(precision="fp8"), model(), machine())
    assert unknown.step_time_ms is None and "fp8" in unknown.step_time_reason


def test_a_fused_optimizer_is_one_operation():
    slow = machine(device="cpu", kernel_overhead_s=1e-3)
    each = replace(PLAIN, optimizer_operations_per_tensor=10)
    fused = replace(each, fused_optimizer=True)
    assert parts(each, slow)["optimizer"] - parts(fused, slow)["optimizer"] == pytest.approx(32 * 10 - 1)


def test_workers_fetch_beside_training_where_they_have_cores():
    fetching = replace(PLAIN, sample_operations=100, data_workers=2)
    cores = machine(device="cpu", num_cpus=64, kernel_overhead_s=1e-5, concurrent_slowdown=1.0)
    few = machine(device="cpu", num_cpus=2, kernel_overhead_s=1e-5)
    threads = 64  # one rank computes with all cores of a node that was probed with it alone
    assert threads == StepModel(model(), cores, "fp32", PLAIN).kind.level(1).threads
    assert parts(fetching, cores, dp=1)["other"] == pytest.approx(8 * 100 * 1e-2)
    assert parts(fetching, few, dp=1)["other"] == pytest.approx(8 * 100 * 1e-2)
    level = {
        "threads": 1,
        "matmul_flops_per_s": {"fp32": 1e12},
        "memory_bandwidth_bytes_per_s": 1e11,
        "kernel_overhead_s": 1e-5,
    }
    spare = machine(device="cpu", levels=[{"ranks": 1, **level}])
    assert parts(fetching, spare)["other"] == 0
    assert parts(replace(fetching, data_workers=0), spare)["other"] == pytest.approx(8)
    # Workers slower than training are waited for.
    assert parts(replace(fetching, sample_operations=1e5), spare)["other"] > 3000


@pytest.mark.parametrize(
    "recipe",
    [
        {"compile": True},
        {"channels_last": True},
        {"static_graph": True},
        {"pin_memory": True},
        {"offload": "activations"},
        {"cpu_bind": "core"},
        {"threads_per_rank": 3},
        {"power_limit_w": 200},
    ],
)
def test_what_no_formula_knows_is_not_guessed(recipe):
    prediction = predict(run(dp=2, recipe=recipe), model(), machine())
    assert prediction.step_time_ms is None and prediction.energy_j is None
    assert next(iter(recipe)) in prediction.step_time_reason
    assert prediction.peak_memory_bytes > 0


def test_as_many_threads_as_were_probed_are_predicted():
    threads = machine().slowest.level(1).threads
    assert predict(run(recipe={"threads_per_rank": threads}), model(), machine()).step_time_ms is not None


def test_unequal_shares_take_the_largest_ones_time_on_equal_nodes_only():
    shared = run(dp=2, micro=8, recipe={}).model_copy(
        update={"layout": run(dp=2, micro=8, shares=(8, 4)).layout, "run_id": ""}
    )
    equal = predict(run(dp=2, micro=8), model(), machine())
    assert predict(shared, model(), machine()).step_time_ms == pytest.approx(equal.step_time_ms)
    content = machine_json(ranks_per_node=2)
    other = {**content["node_kinds"][0], "name": "slow"}
    mixed = predict(
        shared, model(), type(machine()).model_validate({**content, "node_kinds": [*content["node_kinds"], other]})
    )
    assert mixed.step_time_ms is None and "shares" in mixed.step_time_reason


def test_the_recipe_decides_the_software():
    def software(**recipe):
        return torch_amp(Optimizer(name="adamw"), Recipe(**recipe))

    assert software(bucket_mb=4).gradient_bucket_bytes == 4 * 2**20
    assert not software(overlap=False).overlaps_gradients
    assert software(compression="fp16").gradient_wire_bytes == 2
    assert software(compression="powersgd").powersgd_rank == POWERSGD_RANK
    assert (software().gather_bytes, software(precision="bf16").gather_bytes) == (4, 2)
    assert software(average_every=3).average_every == 3
    assert software(recompute="selective").recompute == "selective"
    assert software(offload="activations").offload == "activations"
    assert software(fused_optimizer=True).fused_optimizer
    assert software(data_workers=2).data_workers == 2
    assert (software(precision="tf32").wire_bytes, software(precision="tf32").activation_bytes) == (4, 4)
    assert (software(precision="fp8").wire_bytes, software(precision="fp8").cast_bytes_per_parameter) == (2, 22)
