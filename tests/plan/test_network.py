"""Messages and collectives: hand-computed times, placement, interpolation of measured points."""

from __future__ import annotations

import pytest

from hpc_accel.plan.network import Group, allreduce_s, gather_s, interpolate, ring_allreduce_s, send_s
from hpc_accel.probe.hardware import Link, Network

FAST = Link(latency_s=1e-6, bandwidth_bytes_per_s=1e10)
SLOW = Link(latency_s=1e-5, bandwidth_bytes_per_s=1e9)
BOTH = Network(intra_node=FAST, inter_node=SLOW)


def group(size: int, stride: int = 1, ranks_per_node: int = 8) -> Group:
    return Group(size=size, stride=stride, ranks_per_node=ranks_per_node)


def test_a_long_all_reduce_is_a_ring():
    # 8 ranks, 80 MB: 14 steps of 10 MB.
    assert ring_allreduce_s(FAST, 8, 80e6) == pytest.approx(14 * (1e-6 + 1e-3))


def test_a_short_all_reduce_is_a_tree():
    assert ring_allreduce_s(SLOW, 8, 8) == pytest.approx(6 * (1e-5 + 8e-9))


@pytest.mark.parametrize(
    ("size", "stride", "spans", "per_node", "sharing"),
    [(8, 1, False, 8, 1), (16, 1, True, 8, 1), (8, 2, True, 4, 2), (2, 8, True, 1, 8), (4, 2, False, 4, 1)],
)
def test_a_groups_place_decides_its_link_and_who_shares_it(size, stride, spans, per_node, sharing):
    placed = group(size, stride)
    assert (placed.spans_nodes, placed.per_node, placed.sharing) == (spans, per_node, sharing)


def test_strided_groups_are_slower_than_consecutive_ones_of_equal_size():
    together = allreduce_s(BOTH, group(8), 1e8)
    apart = allreduce_s(BOTH, group(8, stride=8), 1e8)
    consecutive = allreduce_s(BOTH, group(16), 1e8)
    assert together < consecutive < apart


def test_a_link_that_was_not_probed_gives_no_time():
    alone = Network(intra_node=FAST, inter_node_reason="one node probed")
    assert send_s(alone, group(2, stride=8), 100) is None
    assert allreduce_s(alone, group(16), 100) is None
    assert allreduce_s(alone, group(1), 100) == 0.0


def test_measured_points_win_over_the_model():
    points = ({"ranks": 4, "bytes": 1000, "time_s": 1e-3}, {"ranks": 4, "bytes": 100_000, "time_s": 4e-3})
    measured = Network(
        intra_node=Link(latency_s=1e-6, bandwidth_bytes_per_s=1e10, allreduce=points), inter_node_reason="one node"
    )
    assert allreduce_s(measured, group(4), 1000) == pytest.approx(1e-3)
    assert allreduce_s(measured, group(4), 10_000) == pytest.approx(2e-3)
    assert allreduce_s(measured, group(8), 10_000) > 2e-3


def test_interpolation_keeps_the_ends_and_the_last_rate():
    sizes, times = [10.0, 1000.0], [1.0, 10.0]
    assert interpolate(sizes, times, 1, 1.0) == 1.0
    assert interpolate(sizes, times, 100, 1.0) == pytest.approx(10**0.5)
    assert interpolate(sizes, times, 2000, 1.0) == pytest.approx(20.0)


def test_a_link_without_points_and_reason_is_refused():
    with pytest.raises(ValueError, match="inter_node_reason"):
        Network(intra_node=FAST)


LANES = Network(intra_node=FAST, inter_node=Link(latency_s=1e-5, bandwidth_bytes_per_s=1e9, lanes=8))


def test_with_an_adapter_a_rank_strided_groups_do_not_share_a_link():
    # 8 groups of one rank a node: each has an adapter. 2 (k - 1) / k bytes at 1 GB/s, two hops to the root.
    strided = allreduce_s(LANES, group(4, stride=8), 1e8)
    assert strided == pytest.approx(1.5 * 1e8 / 1e9 + 4 * 1e-5)
    shared = Network(intra_node=FAST, inter_node=SLOW)
    assert allreduce_s(shared, group(4, stride=8), 1e8) > 4 * strided


def test_over_nodes_a_whole_group_uses_all_adapters_and_reduces_inside_first():
    whole = allreduce_s(LANES, group(16), 1e8)
    crossing, inside = 1e8 / (8 * 1e9), ring_allreduce_s(FAST, 8, 1e8)
    latency = 2 * 1e-5 + ring_allreduce_s(FAST, 8, 1)
    assert whole == pytest.approx(max(crossing, inside) + latency)


def test_a_gather_over_nodes_is_a_ring_of_as_many_steps_as_ranks():
    assert gather_s(LANES, group(16), 8) == pytest.approx(15 * 1e-5, rel=0.5)
