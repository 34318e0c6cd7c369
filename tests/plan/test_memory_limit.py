"""What of a GPU a rank's tensors may take, and what of its memory is easily forgotten: never less than what happens."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from hpc_accel.plan.cost import StepModel
from hpc_accel.plan.memory import CONTEXT_BYTES, USABLE_SHARE, device_limit_bytes, peak_memory_bytes, rank_sizes
from hpc_accel.plan.memory_fit import memory_refusal
from hpc_accel.plan.software import torch_amp
from hpc_accel.study.layout import Layout
from hpc_accel.study.optimizer import Optimizer
from hpc_accel.study.recipe import Recipe
from hpc_accel.study.run import Resources
from tests.plan.examples import machine, model
from tests.plan.test_memory import layout, peak

ADAMW = Optimizer(name="adamw")
HALF = torch_amp(ADAMW, Recipe(precision="bf16"))
SERIAL = Resources(ranks_per_node=1, gpus_per_node=1)


def refused(device_memory_bytes: int, resources: Resources = SERIAL):
    hardware = machine(device_memory_bytes=device_memory_bytes)
    steps = StepModel(model(), hardware, "fp32", torch_amp(ADAMW, Recipe()))
    return steps.peak_memory_bytes(layout()), memory_refusal("lm", layout(), resources, steps)


def test_a_card_is_not_filled_to_the_last_byte():
    """Eight layers of a million parameters need some 160 MB, which a card of that and a context does not have free."""
    need, error = refused(10**9)
    assert error is None
    just = int((need + CONTEXT_BYTES) / USABLE_SHARE)
    assert refused(just + 2)[1] is None
    _, error = refused(just - 2 * 10**6)
    assert error is not None and "90%" in error.rule and "less 0.6 GB for the CUDA context" in error.rule
    assert "resources.memory_mb" not in error.remedy and "shard: full" in error.remedy


def test_ranks_that_share_a_card_share_its_memory():
    kind = machine(ranks_per_node=2, devices_per_node=2, device_memory_bytes=10**10).slowest
    own = device_limit_bytes(kind, Resources(ranks_per_node=4, gpus_per_node=4))
    shared = device_limit_bytes(kind, Resources(ranks_per_node=4))
    assert own == 9 * 10**9 - CONTEXT_BYTES
    assert shared == 4.5 * 10**9 - CONTEXT_BYTES
    _, error = refused(4 * 10**9, Resources(ranks_per_node=20))  # on the four GPUs of the example
    assert error is not None and "divided by the 5 ranks that share it" in error.rule


def test_a_gpu_nobody_measured_limits_nothing():
    assert refused(None)[1] is None  # type: ignore[arg-type]


def on_gpu(layout: Layout, software) -> int:
    sizes = rank_sizes(model(), (8,), layout, software.recompute)
    return peak_memory_bytes(sizes, layout, software, sample_bytes=0, on_gpu=True)


def test_an_update_of_all_tensors_at_once_has_its_temporaries():
    plain = torch_amp(ADAMW, Recipe())
    # 16 bytes a parameter and the roots of the second moments; 1.3 MB of activations are gone by then.
    assert on_gpu(layout(), plain) == 8_000_000 * (16 + 4)
    assert on_gpu(layout(), torch_amp(ADAMW, Recipe(fused_optimizer=True))) < 8_000_000 * 17
    assert on_gpu(layout(dp=4, shard="optimizer"), plain) == 8_000_000 * (8 + (8 + 4) / 4) + 25 * 2**20
    # Activations larger than that count instead.
    assert on_gpu(layout(micro=1000), plain) == 8_000_000 * 16 + 4 * 1000 * 82_000
    decayed, momentum = (
        torch_amp(Optimizer(name="sgd", weight_decay=decay, momentum=0.9), Recipe()) for decay in (0.1, 0.0)
    )
    assert on_gpu(layout(), decayed) == 8_000_000 * (12 + 4)
    assert on_gpu(layout(), momentum) < 8_000_000 * 12.5


@pytest.mark.parametrize(
    ("sizes", "copies"),
    [
        ({}, 0),  # in the room of gradients that backward has yet to make
        ({"accumulation": 4}, 1),
        ({"dp": 2}, 1),  # replicas keep their buckets of gradients
        ({"dp": 2, "shard": "full"}, 0),
    ],
)
def test_cast_weights_are_kept_for_each_micro_batch_in_flight(sizes, copies):
    without = replace(HALF, cast_weight_bytes=0)
    assert peak(layout(**sizes), software=HALF) - peak(layout(**sizes), software=without) == copies * 2 * 8_000_000


@pytest.mark.parametrize(("schedule", "held"), [("gpipe", 8), ("1f1b", 2)])
def test_a_pipelines_first_rank_holds_most_casts(schedule, held):
    staged, without = layout(pp=2, accumulation=8, schedule=schedule), replace(HALF, cast_weight_bytes=0)
    more = peak(staged, (4, 4), software=HALF) - peak(staged, (4, 4), software=without)
    assert more == held * 2 * 4_000_000
    again, none = (replace(each, recompute="full") for each in (HALF, without))
    assert peak(staged, (4, 4), software=again) - peak(staged, (4, 4), software=none) == 2 * 1_000_000


def test_torch_keeps_what_it_cast_for_each_forward():
    """What the above counts, seen: three forward passes before a backward hold three casts of the second weight."""
    block = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    block.forward = torch.autocast("cpu", dtype=torch.bfloat16)(block.forward)
    kept = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.shape == (8, 8) and tensor.dtype == torch.bfloat16:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        held = [block(torch.randn(4, 8)) for _ in range(3)]
    assert len(held) == len(kept) == 3
