"""The enumeration: nothing twice, nothing missing, every layout computes the study's batch."""

from __future__ import annotations

import pytest

from hpc_accel.plan.layouts import divisors, factors, rank_counts, variants
from hpc_accel.study.study import ResourcesChoice


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
