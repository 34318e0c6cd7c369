"""Time of messages and collectives from probed points, for any size, number of ranks and placement.

Ranks lie node after node. A group of `size` ranks `stride` apart spans nodes when its ends do; then the groups that
cross at once share the node's link, which is why eight consecutive ranks can be 7 to 18 times faster than eight
strided ones.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from hpc_accel.probe.hardware import AllreducePoint, Link, Network
from hpc_accel.study.layout import Layout


@dataclass(frozen=True, kw_only=True)
class Group:
    """Ranks that communicate: how many, how far apart, on nodes of how many ranks."""

    size: int
    stride: int
    ranks_per_node: int

    @cached_property
    def per_node(self) -> int:
        """Members on one node."""
        return max(1, min(self.size, self.ranks_per_node // self.stride))

    @property
    def spans_nodes(self) -> bool:
        """Whether some members are on different nodes."""
        return self.per_node < self.size

    @property
    def sharing(self) -> int:
        """Groups that cross the same node's link at once."""
        return max(1, self.ranks_per_node // self.per_node) if self.spans_nodes else 1


def group_of(layout: Layout, dimension: str, ranks_per_node: int) -> Group:
    """The ranks that differ only in `dimension`, as far apart as the dimensions inside it in `order` are large.

    Of dp also its two parts: the "shards" that a model is divided into, and the "replicas" of each of them.
    """
    if dimension in ("shards", "replicas"):
        whole, size = group_of(layout, "dp", ranks_per_node), layout.shard_group
        if dimension == "shards":
            return Group(size=size, stride=whole.stride, ranks_per_node=ranks_per_node)
        return Group(size=whole.size // size, stride=whole.stride * size, ranks_per_node=ranks_per_node)
    return _group(layout.order, layout.dp, layout.pp, layout.tp, dimension, ranks_per_node)


@lru_cache(maxsize=8192)
def _group(order: str, dp: int, pp: int, tp: int, dimension: str, ranks_per_node: int) -> Group:
    sizes = {"dp": dp, "pp": pp, "tp": tp}
    stride = math.prod(sizes[name] for name in order.partition(dimension)[2].split(".") if name)
    return Group(size=sizes[dimension], stride=stride, ranks_per_node=ranks_per_node)


def link_of(network: Network, group: Group) -> Link | None:
    """The link that limits `group`; None if it was not probed."""
    return network.inter_node if group.spans_nodes else network.intra_node


def send_s(network: Network, group: Group, num_bytes: float) -> float | None:
    """One-way time of a message between neighbours of `group`; None if that link was not probed."""
    link = link_of(network, group)
    if link is None:
        return None
    alone = _message_s(link, num_bytes)
    crowd = max(0.0, group.sharing / (link.lanes or 1) - 1) if group.spans_nodes else 0.0
    return alone + crowd * num_bytes / link.bandwidth_bytes_per_s


def allreduce_s(network: Network, group: Group, num_bytes: float) -> float | None:
    """Time of an all-reduce of `num_bytes` per rank over `group`; None if that link was not probed."""
    if group.size == 1 or num_bytes <= 0:
        return 0.0
    link = link_of(network, group)
    if link is None:
        return None
    if group.spans_nodes and link.lanes is not None:
        return _hierarchical_s(network, link, link.lanes, group, num_bytes)
    alone = _allreduce_alone_s(link, group.size, num_bytes)
    crossing = 2 * (group.size - 1) / group.size * num_bytes
    return alone + (group.sharing - 1) * crossing / link.bandwidth_bytes_per_s


def gather_s(network: Network, group: Group, num_bytes: float) -> float | None:
    """Time of an all-gather or a reduce-scatter of `num_bytes` in all; None if that link was not probed.

    Either is one half of an all-reduce, whether it is done in a ring or in a tree. NCCL has only rings for them, so
    that over nodes each step costs the latency of their link.
    """
    link = link_of(network, group)
    if link is not None and link.lanes is not None and group.spans_nodes and num_bytes > 0:
        inside, crossing = _pipelined_s(network, link, link.lanes, group, num_bytes)
        return (group.size - 1) * link.latency_s + max(inside, crossing) / 2
    whole = allreduce_s(network, group, num_bytes)
    return None if whole is None else whole / 2


def _hierarchical_s(network: Network, link: Link, lanes: int, group: Group, num_bytes: float) -> float:
    """NCCL over nodes: each node's members reduce to one another while every adapter exchanges its part.

    The two stages are pipelined, so the slower one decides; a tree over the nodes bounds the number of latencies.
    """
    inside, crossing = _pipelined_s(network, link, lanes, group, num_bytes)
    latency = 2 * math.ceil(math.log2(math.ceil(group.size / group.per_node))) * link.latency_s
    if group.per_node > 1 and network.intra_node is not None:
        latency += _allreduce_alone_s(network.intra_node, group.per_node, 1)
    return latency + max(inside, crossing)


def _pipelined_s(network: Network, link: Link, lanes: int, group: Group, num_bytes: float) -> tuple[float, float]:
    """Of an all-reduce: the part inside nodes, and the part across them without latency."""
    nodes = math.ceil(group.size / group.per_node)
    used = min(group.per_node, lanes / group.sharing)
    crossing = 2 * (nodes - 1) / nodes * num_bytes / (used * link.bandwidth_bytes_per_s)
    if group.per_node == 1 or network.intra_node is None:
        return 0.0, crossing
    return _allreduce_alone_s(network.intra_node, group.per_node, num_bytes), crossing


def ring_allreduce_s(link: Link, ranks: int, num_bytes: float) -> float:
    """What two-sided messages make of an all-reduce: a ring for long messages, a tree up and down for short ones."""
    ring = 2 * (ranks - 1) * _message_s(link, num_bytes / ranks)
    tree = 2 * math.ceil(math.log2(ranks)) * _message_s(link, num_bytes)
    return min(ring, tree)


def _allreduce_alone_s(link: Link, ranks: int, num_bytes: float) -> float:
    """Measured at this number of ranks, or measured at the nearest and carried over by the model's ratio."""
    measured = sorted({point.ranks for point in link.allreduce}, key=lambda n: abs(math.log(n / ranks)))
    if not measured:
        return ring_allreduce_s(link, ranks, num_bytes)
    points = [point for point in link.allreduce if point.ranks == measured[0]]
    time = interpolate(*_curve(points), num_bytes, link.bandwidth_bytes_per_s)
    if measured[0] == ranks:
        return time
    return time * ring_allreduce_s(link, ranks, num_bytes) / ring_allreduce_s(link, measured[0], num_bytes)


def _message_s(link: Link, num_bytes: float) -> float:
    if not link.points:
        return link.latency_s + num_bytes / link.bandwidth_bytes_per_s
    points = sorted(link.points, key=lambda point: point.bytes)
    sizes, times = [float(max(point.bytes, 1)) for point in points], [point.time_s for point in points]
    return interpolate(sizes, times, num_bytes, link.bandwidth_bytes_per_s)


def _curve(points: Sequence[AllreducePoint]) -> tuple[list[float], list[float]]:
    ordered = sorted(points, key=lambda point: point.bytes)
    return [float(point.bytes) for point in ordered], [point.time_s for point in ordered]


def interpolate(sizes: Sequence[float], times: Sequence[float], size: float, bandwidth: float) -> float:
    """Linear between logarithms; below the first point its time, above the last at that point's rate.

    A single point cannot tell latency from bandwidth, so beyond it `bandwidth` decides.
    """
    if size <= sizes[0]:
        return times[0]
    if size >= sizes[-1]:
        rate = sizes[-1] / times[-1] if len(sizes) > 1 else bandwidth
        return times[-1] + (size - sizes[-1]) / rate
    right = bisect.bisect_left(sizes, size)
    left = right - 1
    share = math.log(size / sizes[left]) / math.log(sizes[right] / sizes[left])
    return math.exp((1 - share) * math.log(times[left]) + share * math.log(times[right]))
