"""A part of PyTorch's own distributed suite; `python -m tests.mpi.conformance` runs all of it beside gloo."""

from __future__ import annotations

import functools
import time

import pytest

from tests.mpi import conformance

# Every collective, the object collectives, groups, DDP; none of those the suite skips without GPUs.
SUBSET = (
    "test_all_gather",
    "test_all_gather_coalesced_complex",
    "test_all_gather_full_group",
    "test_all_reduce_coalesced_sum",
    "test_all_reduce_complex_unsupported_ops",
    "test_all_reduce_full_group_sum",
    "test_all_reduce_sum_async",
    "test_DistributedDataParallelCPU",
    "test_DistributedDataParallelCPU_grad_is_view",
    "test_all_gather_object_subgroup",
    "test_batch_isend_irecv_gloo_tags",
    "test_ddp_logging_data_cpu",
    "test_destroy_full_group",
    "test_gather_checks",
    "test_grads_same_across_ranks_with_no_sync",
    "test_static_graph_api_cpu",
    "test_all_to_all_complex",
    "test_all_to_all_single_equal_split",
    "test_all_to_all_single_unequal_split_complex",
    "test_barrier_full_group",
    "test_broadcast_full_group",
    "test_ddp_create_graph",
    "test_gather_full_group",
    "test_gather_object",
    "test_get_future",
    "test_get_rank_size_full_group",
    "test_irecv",
    "test_isend_autograd_profiler",
    "test_reduce_full_group_sum",
    "test_reduce_sum_twice",
    "test_scatter_complex",
    "test_scatter_object_list",
    "test_send_recv_any_source",
    "test_send_recv_with_tag",
    "test_sparse_all_reduce_sum",
)


@functools.lru_cache(maxsize=1)
def outcomes() -> conformance.Outcomes:
    return conformance.run(2, "mpi4py", list(SUBSET), deadline=time.monotonic() + 200)


@pytest.mark.mpi
@pytest.mark.parametrize("name", SUBSET)
def test_suite(name: str) -> None:
    outcome, reason = outcomes().get(name, ("failed", "not reached within the time"))
    assert outcome == "passed", reason


def test_exclusions_have_reasons() -> None:
    excluded = conformance.excluded()
    assert excluded
    assert all(name.startswith("test_") and len(reason) > 10 for name, reason in excluded.items())
    assert not set(excluded) & set(SUBSET)
