"""Memory of closed-form transformers against published formulas, and whether a run has room, with what is missing."""

from __future__ import annotations

import pytest

from hpc_accel.plan.cost import StepModel
from hpc_accel.plan.memory_fit import Room, memory_refusal, room_of
from hpc_accel.plan.shipped import hardware_of
from hpc_accel.plan.software import Software
from hpc_accel.plan.transformer import BlockCosts, TransformerSizes, transformer_facts
from hpc_accel.study.layout import Layout
from hpc_accel.study.run import Resources

SIZES = TransformerSizes(
    layers=8, hidden=1024, heads=16, feed_forward=4096, vocabulary=32000, sequence=1024, dropout=True
)
PROGRAM = Software(
    parameter_bytes=2, gradient_bytes=4, optimizer_state_bytes=12, optimizer_traffic_bytes=34,
    optimizer_operations_per_tensor=4, activation_bytes=2, wire_bytes=2, reduces_in_place=True,
)  # fmt: skip


def steps(recompute="none", **costs) -> StepModel:
    software = Software(**{**vars(PROGRAM), "recompute": recompute})
    facts = transformer_facts(SIZES, BlockCosts(fused_attention=False, **costs))
    return StepModel(facts, hardware_of("a100-sxm-80gb"), "bf16", software)


def layout(**more) -> Layout:
    return Layout(**{"micro_batch_size": 4, "accumulation_steps": 8} | more)


def activations(recompute="none", rank=None, **more) -> float:
    one = steps(recompute)
    return one.peak_memory_bytes(layout(**more), rank) - one.held_bytes(layout(**more), rank)


def test_a_serial_run_keeps_its_blocks_and_six_bytes_a_logit():
    s, b, h, a = 1024, 4, 1024, 16
    blocks = 8 * (34 * s * b * h + 5 * a * s * s * b)
    assert activations() == pytest.approx(blocks + 6 * b * s * 32000, rel=0.01)


def test_the_logits_of_the_last_stage_are_those_of_one_micro_batch():
    last = {rank: activations(rank=rank, pp=4, schedule="1f1b", split=(3, 2, 2, 3)) for rank in (0, 3)}
    s, b, h, a = 1024, 4, 1024, 16
    stage = 2 * (34 * s * b * h + 5 * a * s * s * b)
    assert last[0] == pytest.approx(4 * stage, rel=0.04)
    assert last[3] == pytest.approx(stage + 6 * b * s * 32000, rel=0.04)


def test_recomputing_leaves_the_logits_as_they_are():
    s, b, h, a = 1024, 4, 1024, 16
    one = 34 * s * b * h + 5 * a * s * s * b
    expected = 7 * 2 * s * b * h + one + 6 * b * s * 32000
    assert activations("full") == pytest.approx(expected, rel=0.04)


def test_a_sharded_optimizer_divides_its_twelve_bytes():
    whole, divided = steps().held_bytes(layout(dp=4)), steps().held_bytes(layout(dp=4, shard="optimizer"))
    parameters = steps().facts.num_parameters
    assert whole - divided == pytest.approx(parameters * 12 * 3 / 4)


def room(need: float, limit: float | None = 100e9) -> Room:
    return Room(need_bytes=int(need), limit_bytes=int(limit) if limit else None, what="", more="")


def test_a_run_fits_is_tight_or_too_large_by_so_much():
    assert [room(need).fit for need in (80e9, 90e9, 110e9)] == ["fits", "tight", "too large"]
    assert room(80e9).note is None and room(80e9, None).fit is None
    assert "tight" in (room(90e9).note or "") and "short by 10.0 GB" in (room(110e9).note or "")


def test_a_refusal_says_what_is_missing():
    resources = Resources(ranks_per_node=1, gpus_per_node=1)
    one = steps()
    error = memory_refusal("lm", layout(micro_batch_size=256), resources, one)
    found = room_of(layout(micro_batch_size=256), resources, one)
    assert error is not None and found.limit_bytes is not None
    assert f"{(found.need_bytes - found.limit_bytes) / 1e9:.1f} GB too much" in error.value
    assert memory_refusal("lm", layout(micro_batch_size=1), resources, one) is None
