"""Peak memory against values computed by hand from the published formulas."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hpc_accel.plan.memory import peak_memory_bytes, rank_sizes
from hpc_accel.plan.software import torch_amp
from hpc_accel.study.layout import Layout
from hpc_accel.study.optimizer import Optimizer
from hpc_accel.study.recipe import Recipe
from tests.plan.examples import model

ADAM = torch_amp(Optimizer(name="adamw"), Recipe())


def peak(layout: Layout, split=(8,), software=ADAM, **changes) -> int:
    sizes = rank_sizes(model(**changes), split, layout, software.recompute)
    return peak_memory_bytes(sizes, layout, software, sample_bytes=1_000)


def layout(dp=1, pp=1, tp=1, micro=4, accumulation=1, **more) -> Layout:
    return Layout(dp=dp, pp=pp, tp=tp, micro_batch_size=micro, accumulation_steps=accumulation, **more)


def test_a_serial_run_holds_sixteen_bytes_per_parameter_and_its_activations():
    # 8 layers: 8e6 parameters x 16; 4 samples x 8 x 10,000 kept and 2 x 1,000 working, 4 bytes each; 4 samples in.
    assert peak(layout()) == 8_000_000 * 16 + 4 * 4 * (80_000 + 2_000) + 4 * 1_000


def test_momentum_and_plain_sgd_hold_less():
    sgd = torch_amp(Optimizer(name="sgd"), Recipe())
    momentum = torch_amp(Optimizer(name="sgd", momentum=0.9), Recipe())
    assert peak(layout(), software=ADAM) - peak(layout(), software=momentum) == 4 * 8_000_000
    assert peak(layout(), software=momentum) - peak(layout(), software=sgd) == 4 * 8_000_000


def test_accumulation_keeps_one_micro_batch_but_gpipe_keeps_all():
    serial = peak(layout(accumulation=8)) - peak(layout())
    assert serial == 7 * 4 * 1_000  # only the inputs
    gpipe = peak(layout(pp=2, accumulation=8, schedule="gpipe"), (4, 4))
    one_f = peak(layout(pp=2, accumulation=8, schedule="1f1b"), (4, 4))
    # the first stage keeps 8 or 2 micro-batches of 4 samples x 4 layers x 10,000 elements
    assert gpipe - one_f == 6 * 4 * 4 * 10_000 * 4


def test_tensor_parallelism_divides_parameters_but_not_what_enters_a_layer():
    assert peak(layout(tp=4)) == 2_000_000 * 16 + 4 * 4 * (8 * (5_000 + 1_250) + 2_000) + 4_000


def test_data_parallelism_adds_a_bucket_in_transit():
    assert peak(layout(dp=2)) - peak(layout()) == pytest.approx(25 * 2**20)


def test_the_fullest_stage_counts():
    assert peak(layout(pp=2, schedule="gpipe"), (1, 7)) > peak(layout(pp=2, schedule="gpipe"), (4, 4))


def test_zero_1_divides_the_optimizers_state():
    whole, divided = peak(layout(dp=4)), peak(layout(dp=4, shard="optimizer"))
    assert whole - divided == 8_000_000 * 8 * 3 / 4


def test_full_sharding_divides_all_but_the_layers_at_work():
    # 16 bytes a parameter over four ranks; two layers of 1e6 whole, and the gradients of one.
    activations = 4 * 4 * (80_000 + 2_000) + 4 * 1_000
    assert peak(layout(dp=4, shard="full")) == 8e6 * 16 / 4 + 2 * 1e6 * 4 + 1e6 * 4 + activations
    # Gradients wait whole for the last micro-batch.
    assert peak(layout(dp=4, shard="full", shard_ranks=2)) == 8e6 * 16 / 2 + 2 * 1e6 * 4 + 1e6 * 4 + activations
    more = peak(layout(dp=4, shard="full", accumulation=2)) - peak(layout(dp=4, shard="full"))
    assert more == 7e6 * 4 + 4 * 1_000
    # A stage is gathered at once.
    staged = layout(dp=4, pp=2, schedule="gpipe", shard="full")
    assert peak(staged, (4, 4)) == 4e6 * 16 / 4 + 4e6 * 4 + 1e6 * 4 + 4 * 4 * (40_000 + 2_000) + 4 * 1_000


def test_recomputing_keeps_inputs_and_one_layer_at_a_time():
    full = peak(layout(), software=replace(ADAM, recompute="full"))
    # Eight inputs of 1,000 elements, and the other 9,000 of one layer while it is computed again.
    assert full == 8_000_000 * 16 + 4 * 4 * (8_000 + 9_000 + 2_000) + 4_000
    # Two products a layer of 1e6 weights: rows x sqrt(5e5) twice, far more than is kept here.
    assert peak(layout(), software=replace(ADAM, recompute="selective")) == peak(layout())


def test_selective_recomputation_keeps_what_leaves_the_products():
    # One row a sample (2 FLOPs a weight): two products of about 707 columns, and 1,000 elements that enter.
    small = {"forward_flops_per_sample": 2e6, "tp_flops_per_sample": 2e6}
    kept = 1_000 + 2 * (1_000_000 / 2) ** 0.5
    selective = peak(layout(), software=replace(ADAM, recompute="selective"), **small)
    assert selective == pytest.approx(8_000_000 * 16 + 16 * (8 * kept + (10_000 - kept) + 2_000) + 4_000, abs=2)
    assert peak(layout(), software=replace(ADAM, recompute="full"), **small) < selective < peak(layout(), **small)


@pytest.mark.parametrize(
    ("schedule", "held"),
    [
        ("interleaved_1f1b", 11),
        ("looped_bfs", 16),
        ("interleaved_zero_bubble", 8),
        ("zbv_zero_bubble", 8),
        ("dualpipev", 9),
    ],
)
def test_what_a_schedule_holds_in_flight_counts(schedule, held):
    staged = layout(pp=4, accumulation=8, schedule=schedule, stages_per_rank=2)
    # Eight stages of one layer: so many times 10,000 elements of 4 samples.
    state = 2_000_000 * 16
    assert peak(staged, (1,) * 8) == state + 4 * 4 * (held * 10_000 + 2_000) + 8 * 4 * 1_000


def test_a_divided_sequence_keeps_whole_only_what_is_gathered():
    divided = peak(layout(tp=4, sequence_parallel=True))
    # Two gathers of 1,000 elements a layer stay whole, the other 8,000 are divided.
    assert divided == 2_000_000 * 16 + 4 * 4 * (8 * (2_000 + 2_000) + 2_000) + 4_000
    assert divided < peak(layout(tp=4))


def test_the_largest_share_counts():
    assert peak(layout(dp=2, shares=(4, 2))) == peak(layout(dp=2))


def test_offloading_leaves_the_device_what_is_at_work():
    activations = peak(layout(), software=replace(ADAM, offload="activations"))
    assert activations == 8_000_000 * 16 + 4 * 4 * (2 * 10_000 + 2_000) + 4_000
    sharded = layout(dp=4, shard="full")
    on_device = peak(sharded, software=replace(ADAM, offload="parameters"))
    assert peak(sharded) - on_device == 8e6 * 16 / 4


def test_powersgd_keeps_its_error():
    assert peak(layout(dp=2), software=replace(ADAM, powersgd_rank=1)) - peak(layout(dp=2)) == 8_000_000 * 4
