"""Peak memory against values computed by hand from the published formulas."""

from __future__ import annotations

import pytest

from hpc_accel.plan.memory import peak_memory_bytes, rank_sizes
from hpc_accel.plan.software import torch_amp
from hpc_accel.study.layout import Layout
from hpc_accel.study.recipe import Recipe
from hpc_accel.study.schema import Optimizer
from tests.plan.examples import model

ADAM = torch_amp(Optimizer(name="adamw"), Recipe())


def peak(layout: Layout, split=(8,), software=ADAM, **changes) -> int:
    sizes = rank_sizes(model(**changes), split, layout, software.recompute)
    return peak_memory_bytes(sizes, layout, software, sample_bytes=1_000)


def layout(dp=1, pp=1, tp=1, micro=4, accumulation=1, schedule=None) -> Layout:
    return Layout(dp=dp, pp=pp, tp=tp, micro_batch_size=micro, accumulation_steps=accumulation, schedule=schedule)


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
