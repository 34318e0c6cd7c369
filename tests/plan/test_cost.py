"""Predictions against arithmetic done by hand, and against what must never be otherwise."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hpc_accel.plan.cost import StepModel
from hpc_accel.plan.prediction import Prices, predict
from hpc_accel.plan.software import Software, torch_amp
from hpc_accel.study.optimizer import Optimizer
from hpc_accel.study.recipe import Recipe
from hpc_accel.study.stage_partition import automatic_split
from tests.plan.examples import LAYER, machine, model, run

PLAIN = Software(
    optimizer_state_bytes=8,
    optimizer_traffic_bytes=28,
    optimizer_operations_per_tensor=0,
    activation_bytes=4,
    wire_bytes=4,
    overlaps_gradients=False,
    flattens_gradients=False,
    tensor_parallel_operations=0,
    pipeline_operations=0,
    collective_operations=0,
    step_operations=0,
    data_parallel_operations=0,
    sharded_forward_operations=0,
    sharded_backward_operations=0,
    sharded_update_operations=0,
    micro_batch_operations=0,
    sample_operations=0,
)
"""Software without overheads of its own, so that only the model's arithmetic remains."""


def step_ms(facts=None, hardware=None, **layout) -> float:
    prediction = predict(run(**layout, hardware=hardware), facts or model(), hardware or machine(), software=PLAIN)
    assert prediction.step_time_ms is not None
    return prediction.step_time_ms


def test_a_serial_step_is_work_over_rate():
    parts = predict(run(micro=8), model(), machine(), software=PLAIN).parts_ms
    # 8 layers x 8 samples x 2 GFLOP at 1 TFLOP/s, and 8 x 8 x 10,000 elements x 4 bytes written and read at 100 GB/s.
    assert parts["forward"] == pytest.approx(128 + 0.0512)
    assert parts["backward"] == pytest.approx(2 * (128 + 0.0512))
    assert parts["optimizer"] == pytest.approx(8e6 * 28 / 1e11 * 1e3)
    assert parts["communication_exposed"] == parts["bubble"] == 0


def test_a_small_model_is_all_overhead():
    tiny = model(forward_flops_per_sample=1.0, tp_flops_per_sample=1.0, saved_elements_per_sample=1)
    parts = predict(run(), tiny, machine(), software=PLAIN).parts_ms
    # On a GPU the host's 8 x 10 operations of 10 us hide the device's work; on a CPU both would add up.
    assert parts["forward"] == pytest.approx(0.8)
    assert parts["backward"] == pytest.approx(1.6)


def test_a_cpu_adds_what_a_gpu_overlaps():
    cpu = step_ms(hardware=machine(device="cpu"))
    assert cpu == pytest.approx(step_ms() + 0.8 + 1.6)


def test_parts_add_up_to_the_step():
    for layout in ({}, {"dp": 2}, {"tp": 2}, {"pp": 4, "accumulation": 8, "schedule": "1f1b"}):
        prediction = predict(run(**layout), model(), machine())
        assert sum(prediction.parts_ms.values()) == pytest.approx(prediction.step_time_ms)


def test_data_parallelism_adds_a_ring_of_the_gradients():
    parts = predict(run(dp=4), model(), machine(), software=PLAIN).parts_ms
    # 32 MB of gradients: a bucket of 25 MiB and the rest, each a ring of 6 steps.
    assert parts["communication_exposed"] == pytest.approx((2 * 6 * 1e-5 + 6 / 4 * 32e6 / 1e10) * 1e3)


def test_overlap_hides_all_but_the_last_bucket():
    hidden = predict(run(dp=4), model(), machine()).parts_ms["communication_exposed"]
    shown = predict(run(dp=4), model(), machine(), software=PLAIN).parts_ms["communication_exposed"]
    assert 0 < hidden < shown


def test_tensor_parallelism_divides_work_and_pays_messages():
    parts = predict(run(tp=4), model(), machine(), software=PLAIN).parts_ms
    # kept: 5 x 1,000 elements whole, the other 5,000 divided by four
    assert parts["forward"] == pytest.approx(128 / 4 + 64 * (5000 + 1250) * 4 * 2 / 1e11 * 1e3)
    # forward and backward: 8 layers x 2 all-reduces of 8 x 1,000 fp32; six steps of 8,000 bytes, or four of 32,000
    once = min(6 * (1e-5 + 8e3 / 1e10), 4 * (1e-5 + 32e3 / 1e10))
    assert parts["communication_exposed"] == pytest.approx(2 * 8 * 2 * once * 1e3)


def test_a_pipeline_idles_the_published_fraction():
    free = machine()
    quick = free.model_copy(
        update={
            "network": free.network.model_copy(
                update={"intra_node": free.network.intra_node.model_copy(update={"latency_s": 1e-12})}
            )
        }
    )
    parts = predict(run(pp=4, accumulation=8, schedule="1f1b"), model(), quick, software=PLAIN).parts_ms
    share = parts["bubble"] / (parts["forward"] + parts["backward"] + parts["bubble"])
    assert share == pytest.approx(3 / 11, rel=0.01)


@pytest.mark.parametrize("layout", [{}, {"dp": 2}, {"tp": 2}, {"pp": 2, "accumulation": 4, "schedule": "gpipe"}])
def test_slower_machines_are_never_faster(layout):
    base = step_ms(**layout)
    assert step_ms(hardware=machine(matmul_flops_per_s={"fp32": 5e11, "bf16": 1e12, "fp16": None}), **layout) > base
    assert step_ms(hardware=machine(memory_bandwidth_bytes_per_s=1e10), **layout) > base
    slow = machine()
    slow_link = slow.network.intra_node.model_copy(update={"bandwidth_bytes_per_s": 1e8, "latency_s": 1e-3})
    slow = slow.model_copy(update={"network": slow.network.model_copy(update={"intra_node": slow_link})})
    slower = step_ms(hardware=slow, **layout)
    assert slower > base if layout else slower == base


@pytest.mark.parametrize("layout", [{"dp": 4}, {"pp": 4, "accumulation": 8, "schedule": "1f1b"}])
def test_of_more_ranks_than_cores_nothing_is_predicted(layout):
    small = machine(device="cpu", num_cpus=2)
    prediction = predict(run(**layout, hardware=small), model(), small, software=PLAIN)
    assert prediction.step_time_ms is None and prediction.peak_memory_bytes > 0
    assert prediction.step_time_reason == "4 ranks share 2 core(s) of a node: equal runs differ by up to twice"
    assert prediction.energy_reason == f"no time predicted: {prediction.step_time_reason}"
    assert prediction.cost_reason == "the site gives no price", "which the user can mend"


def test_measured_levels_decide_when_ranks_compute_at_once():
    level = {
        "threads": 1,
        "matmul_flops_per_s": {"fp32": 1e12, "bf16": None, "fp16": None},
        "memory_bandwidth_bytes_per_s": 1e11,
        "kernel_overhead_s": 1e-5,
    }
    slow = {**level, "matmul_flops_per_s": {"fp32": 2.5e11, "bf16": None, "fp16": None}}
    probed = machine(device="cpu", num_cpus=2, levels=[{"ranks": 1, **level}, {"ranks": 2, **slow}])
    alone, both = step_ms(hardware=probed), step_ms(hardware=probed, dp=2)
    assert both > 3.5 * alone


def test_small_products_run_at_their_own_rate():
    sizes = [
        {"precision": "fp32", "m": m, "n": w, "k": w, "flops_per_s": rate}
        for m, w, rate in ((8, 64, 1e9), (1024, 64, 1e10), (8, 4096, 1e10), (1024, 4096, 1e12))
    ]
    assert step_ms(hardware=machine(matmul_by_size=sizes)) > 1.5 * step_ms()


def test_what_cannot_be_predicted_says_why():
    prediction = predict(run(precision="fp16"), model(), machine())
    assert prediction.step_time_ms is None
    assert "not tried" in prediction.step_time_reason
    assert prediction.peak_memory_bytes > 0
    two_nodes = predict(run(dp=8), model(), machine())
    assert two_nodes.step_time_ms is None
    assert "one node probed" in two_nodes.step_time_reason


def test_energy_and_cost_only_where_power_and_price_are_known():
    unknown = predict(run(), model(), machine())
    assert unknown.energy_j is None and unknown.energy_reason
    assert unknown.cost is None and unknown.cost_reason
    known = predict(run(steps=100), model(), machine(power_w=500.0), prices=Prices(per_node_hour=36.0, unit="EUR"))
    window_s = known.step_time_ms / 1e3 * 100
    assert known.energy_j == pytest.approx(500.0 * window_s)
    assert known.cost == pytest.approx(0.01 * window_s)
    assert known.energy_reason is None and known.cost_reason is None


def test_queued_collectives_hide_behind_a_host_that_launches_slowly():
    tiny = model(forward_flops_per_sample=1e3, tp_flops_per_sample=1e3, tp_allreduce_elements_per_sample=2)
    queued, awaited = (
        predict(run(tp=2), tiny, machine(), software=replace(PLAIN, queues_collectives=queues)).parts_ms
        for queues in (True, False)
    )
    # Eight layers' 16 messages of at least 20 us are less than 80 operations of 10 us.
    assert queued["communication_exposed"] == 0 < awaited["communication_exposed"]
    busy = predict(run(tp=2), model(), machine(), software=replace(PLAIN, queues_collectives=True)).parts_ms
    assert busy["communication_exposed"] > 0


def test_norms_slower_than_their_traffic_take_their_own_time():
    slow = predict(run(), model(), machine(elementwise_s_per_element=1e-9), software=PLAIN).parts_ms["forward"]
    assert slow == pytest.approx(128 + 64 * 10_000 * 1e-9 * 1e3)
    # Where traffic takes longer than the function, traffic decides.
    assert predict(run(), model(), machine(elementwise_s_per_element=1e-12), software=PLAIN).parts_ms[
        "forward"
    ] == pytest.approx(128 + 0.0512)


@pytest.mark.parametrize(
    ("change", "added_ms", "part"),
    [
        ({"data_parallel_operations": 2, "overlaps_gradients": True}, 2 * 32 * 3, "backward"),
        ({"micro_batch_operations": 7}, 7 * 3, "backward"),
        ({"sample_operations": 4}, 4 * 24, "other"),
        ({"step_operations": 5}, 5, "other"),
        ({"optimizer_operations_per_tensor": 6}, 6 * 32, "optimizer"),
    ],
)
def test_each_overhead_of_the_software_is_charged_as_often_as_it_occurs(change, added_ms, part):
    # Two ranks, three micro-batches of 8 samples, 8 layers of 4 tensors; an operation takes 1 ms.
    cpu = machine(device="cpu", kernel_overhead_s=1e-3)
    layout = {"dp": 2, "accumulation": 3}
    plain = predict(run(**layout, hardware=cpu), model(), cpu, software=PLAIN).parts_ms
    with_it = predict(run(**layout, hardware=cpu), model(), cpu, software=replace(PLAIN, **change)).parts_ms
    assert with_it[part] - plain[part] == pytest.approx(added_ms)
    assert {name for name in plain if with_it[name] != pytest.approx(plain[name])} == {part}


def test_tensor_parallel_dispatch_and_the_schedule_are_charged_per_micro_batch():
    cpu = machine(device="cpu", kernel_overhead_s=1e-3)
    plain = step_ms(hardware=cpu, tp=2, accumulation=3)
    divided = replace(PLAIN, tensor_parallel_operations=5)
    # 8 layers x 2 products x 5 operations, forward once and backward twice that.
    with_it = predict(run(tp=2, accumulation=3, hardware=cpu), model(), cpu, software=divided).step_time_ms
    assert with_it - plain == pytest.approx(3 * 8 * 2 * 5 * 3)


def test_stages_are_cut_where_training_cuts_them():
    layers = tuple(
        replace(LAYER, forward_flops_per_sample=flops, num_parameters=n)
        for flops, n in ((1e9, 10), (0.0, 0), (3e9, 10), (1e9, 10), (0.0, 0), (2e9, 10))
    )
    facts = replace(model(), layers=layers)
    hardware = machine()
    layout = run(pp=3, accumulation=4, schedule="1f1b").layout
    steps = StepModel(facts, hardware, "fp32", PLAIN)
    assert steps.stage_times.split(layout) == automatic_split(facts, 3)


def test_what_the_run_says_decides_the_software():
    adamw, momentum, sgd = (
        torch_amp(Optimizer(name=name, momentum=value), Recipe())
        for name, value in (("adamw", 0.0), ("sgd", 0.9), ("sgd", 0.0))
    )
    assert (adamw.optimizer_state_bytes, momentum.optimizer_state_bytes, sgd.optimizer_state_bytes) == (8, 4, 0)
    half = torch_amp(Optimizer(), Recipe(precision="bf16"), "nccl")
    assert (half.wire_bytes, half.queues_collectives, half.cast_bytes_per_parameter) == (2, True, 12)
    assert not torch_amp(Optimizer(), Recipe(), "mpi4py").queues_collectives


def test_a_gpu_is_not_predicted_above_what_it_keeps_up():
    point = {"precision": "fp32", "m": 8000, "n": 700, "k": 700, "flops_per_s": 1.2e12}
    hot = machine(matmul_flops_per_s={"fp32": 1e12}, matmul_by_size=[point])
    cool = machine(matmul_flops_per_s={"fp32": 1.2e12}, matmul_by_size=[point])
    assert step_ms(hardware=hot, micro=8) > step_ms(hardware=cool, micro=8)
    assert step_ms(hardware=hot, micro=8) == step_ms(hardware=machine(matmul_flops_per_s={"fp32": 1e12}), micro=8)
