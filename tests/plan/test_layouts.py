"""The enumeration: nothing twice, nothing missing, every layout computes the study's batch."""

from __future__ import annotations

import pytest

from hpc_accel.plan.layouts import divisors, factors, memory_variants, rank_counts, variants
from hpc_accel.study.layout import SINGLE, SPLIT_BACKWARD, micro_batch_rule
from hpc_accel.study.study_file import ResourcesChoice


@pytest.mark.parametrize("number", [1, 2, 12, 36, 97, 4608])
def test_divisors(number):
    assert list(divisors(number)) == [i for i in range(1, number + 1) if number % i == 0]


def test_ranks_fill_one_node_in_parts_or_nodes_whole():
    assert rank_counts(ResourcesChoice(num_nodes=6, ranks_per_node=4)) == (1, 2, 4, 8, 12, 24)


def test_factors_are_all_ordered_products():
    found = list(factors(ResourcesChoice(num_nodes=1, ranks_per_node=4)))
    assert len(found) == len(set(found)) == 1 + 3 + 6  # of 1, of 2, of 4 ranks
    assert {dp * pp * tp for dp, pp, tp in found} == {1, 2, 4}


def test_variants_compute_the_global_batch_and_1f1b_has_enough_micro_batches():
    found = list(variants(2, 4, 1, 64))
    assert len(found) == len(set(found))
    assert all(layout.dp * layout.micro_batch_size * layout.accumulation_steps == 64 for layout in found)
    assert {layout.accumulation_steps for layout in found if layout.schedule == "1f1b"} == {4, 8, 16, 32}
    assert {layout.accumulation_steps for layout in found if layout.schedule == "gpipe"} == {1, 2, 4, 8, 16, 32}


def test_a_batch_that_does_not_divide_has_no_variants():
    assert list(variants(3, 1, 1, 64)) == []


def test_two_stages_a_rank_are_tried_where_layers_and_micro_batches_suffice():
    found = list(variants(1, 4, 1, 64, num_cuttable_layers=8))
    assert {layout.stages_per_rank for layout in found} == {1, 2}
    steps = {
        schedule: {layout.accumulation_steps for layout in found if layout.schedule == schedule}
        for schedule in ("interleaved_1f1b", "zbv_zero_bubble", "dualpipev", "looped_bfs")
    }
    every = {1, 2, 4, 8, 16, 32, 64}
    assert steps["interleaved_1f1b"] == every and steps["looped_bfs"] == set()  # which only keeps more
    assert steps["zbv_zero_bubble"] == every
    assert steps["dualpipev"] == {8, 16, 32, 64}
    assert {layout.stages_per_rank for layout in variants(1, 4, 1, 64, num_cuttable_layers=7)} == {1}


def test_memory_variants_are_every_way_to_save_memory_the_whole_layout_first():
    first = next(memory_variants(2, 1, 2, 64, sequence_length=64))
    variants = [(layout.shard, layout.sequence_parallel) for layout in first.layouts()]
    assert variants[0] == ("none", False) and len(set(variants)) == len(variants) == first.num_layouts == 6
    assert next(memory_variants(1, 1, 2, 64)).num_layouts == 1
    assert next(memory_variants(1, 1, 2, 64, sequence_length=63)).num_layouts == 1  # two ranks cannot halve it
    for group in memory_variants(2, 2, 2, 64, num_cuttable_layers=8, sequence_length=64):
        every = list(group.layouts())
        assert len(every) == group.num_layouts
        split = group.whole.schedule in SPLIT_BACKWARD
        assert any(layout.shard == "full" for layout in every) != split


@pytest.mark.parametrize(
    ("dp", "tp", "per_node", "group"), [(16, 1, 8, 8), (16, 2, 8, 4), (8, 1, 8, None), (12, 1, 8, None)]
)
def test_groups_of_shards_are_the_replicas_of_a_node(dp, tp, per_node, group):
    one = next(memory_variants(dp, 1, tp, 48, ranks_per_node=per_node))
    every = list(one.layouts())
    assert {layout.shard_ranks for layout in every} == {None, group}
    assert len(every) == one.num_layouts


def test_every_variant_is_one_the_rules_allow():
    for layout in variants(2, 2, 2, 64, num_cuttable_layers=8, sequence_length=64):
        chunks = layout.stages_per_rank
        assert micro_batch_rule(layout.schedule, layout.pp, chunks, layout.accumulation_steps) is None
        assert (chunks == 1) == (layout.schedule in SINGLE)
