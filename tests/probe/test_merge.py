"""What ranks measured, put together: the slowest of each kind of node, also where one node has two kinds of GPU."""

from __future__ import annotations

from typing import Any

import pytest

from hpc_accel.probe.merge import merge

CPU = {"device": "cpu", "device_name": "x", "devices_per_node": 0, "num_cpus": 2, "device_memory_bytes": None}


def gpu(name: str, memory: int = 80) -> dict[str, Any]:
    return {"device": "cuda", "device_name": name, "devices_per_node": 2, "num_cpus": 8, "device_memory_bytes": memory}


def level(ranks: int, rate: float, fp8: float | None = None) -> dict[str, Any]:
    return {
        "ranks": ranks,
        "threads": 1,
        "matmul_flops_per_s": {"fp32": rate, "fp8": fp8},
        "matmul_by_size": [{"precision": "fp32", "m": 8, "n": 8, "k": 8, "flops_per_s": rate / 2}],
        "memory_bandwidth_bytes_per_s": rate,
        "kernel_overhead_s": 1 / rate,
        "backward_overhead_s": 2 / rate,
        "elementwise_s_per_element": 3 / rate,
    }


def rank(host: str, kind: dict[str, Any], *levels: dict[str, Any], memory: int = 1, **more: Any) -> dict[str, Any]:
    facts = {"number": None, "reasons": {}, "memory": memory, "resident": memory, "slowdown": None, **more}
    return {**facts, "host": host, "kind": kind, "levels": list(levels)}


def test_ranks_of_a_kind_are_merged_to_the_slowest():
    (kind,) = merge(
        [
            rank("b", CPU, level(1, 4.0), memory=4, slowdown=1.5),
            rank("b", CPU, level(1, 3.0), memory=3),
            rank("a", CPU, level(1, 2.0), memory=2, slowdown=1.2),
        ]
    )
    assert (kind["name"], kind["num_nodes"], kind["concurrent_slowdown"]) == ("a", 2, 1.5)
    assert kind["matmul_flops_per_s"] == {"fp32": 2.0, "fp8": None}
    assert kind["levels"][0]["matmul_by_size"][0]["flops_per_s"] == 1.0
    assert kind["levels"][0]["kernel_overhead_s"] == 0.5
    assert (kind["memory_bytes"], kind["process_memory_bytes"], kind["device_memory_bytes"]) == (2, 4, None)


def test_two_kinds_of_gpu_in_a_node_are_one_kind_of_node():
    """Only the first rank computes alone and compares itself with itself; the other GPU may be the slower one."""
    first = rank("a", gpu("fast", 80), level(1, 9.0, fp8=20.0), level(2, 8.0, fp8=19.0), slowdown=1.0)
    second = rank("a", gpu("slow", 40), level(2, 5.0), reasons={"fp8": "the GPU has no fp8 units"})
    (kind,) = merge([first, second])
    assert (kind["name"], kind["num_nodes"], kind["device_name"]) == ("a", 1, "fast + slow")
    assert kind["device_memory_bytes"] == 40
    assert [(each["ranks"], each["matmul_flops_per_s"]["fp32"]) for each in kind["levels"]] == [(1, 9.0), (2, 5.0)]
    assert kind["matmul_flops_per_s"] == {"fp32": 5.0, "fp8": None}  # of the slow one, though measured beside another
    assert kind["matmul_flops_per_s_reason"] == {"fp8": "the GPU has no fp8 units"}
    assert kind["concurrent_slowdown"] == 1.0


def test_slices_of_a_gpu_count_as_the_smallest():
    large, small = gpu("H100 MIG", 40), gpu("H100 MIG", 10)
    (kind,) = merge([rank("a", large, level(1, 9.0), level(2, 9.0), slowdown=1.1), rank("a", small, level(2, 3.0))])
    assert (kind["device_memory_bytes"], kind["matmul_flops_per_s"]["fp32"]) == (10, 3.0)


def test_nodes_with_other_gpus_are_another_kind():
    ranks = [rank(host, gpu(name), level(1, 1.0), slowdown=1.0) for host, name in (("a", "A"), ("b", "B"), ("c", "A"))]
    assert [(kind["device_name"], kind["num_nodes"]) for kind in merge(ranks)] == [("A", 2), ("B", 1)]


def test_a_kind_nobody_compared_with_itself_is_not_slowed():
    (kind,) = merge([rank("a", CPU, level(2, 1.0))])
    assert kind["concurrent_slowdown"] == 1.0 and kind["levels"][0]["ranks"] == 2


@pytest.mark.parametrize("node_kinds", [(0, 1), (None, None)])
def test_node_kinds_on_one_machine_stay_apart(node_kinds):
    ranks = [rank("a", CPU, level(1, 1.0), slowdown=1.0, number=each) for each in node_kinds]
    assert [kind["number"] for kind in merge(ranks)] == sorted(set(node_kinds), key=str)
