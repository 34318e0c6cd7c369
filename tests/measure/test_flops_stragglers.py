"""Counted arithmetic against hand-counted, torch's groups by name, and the rank that computes longest."""

from __future__ import annotations

import json

import pytest

from hpc_accel.measure.flops import count_flops, utilisation
from hpc_accel.measure.trace import torch_groups
from tests.mpirun import check, mpirun

STRAGGLERS = """
import json
from mpi4py import MPI
from hpc_accel.measure.stragglers import slowest
comm = MPI.COMM_WORLD
found = slowest(comm, [10.0, 25.0, 10.0][comm.rank])
assert all(other == found for other in comm.allgather(found))
if comm.rank == 0:
    print(json.dumps(found | {"alone": slowest(MPI.COMM_SELF, 5.0)}))
"""


def test_a_linear_layer_counts_its_three_products():
    import torch

    layer = torch.nn.Linear(32, 16, bias=False)
    batch = torch.randn(8, 32, requires_grad=True)
    assert count_flops(lambda: layer(batch).sum().backward()) == 3 * 2 * 8 * 32 * 16
    assert count_flops(lambda: torch.ones(3) + 1) is None


def test_utilisation_needs_all_its_parts():
    assert utilisation(1e12, 0.5, 1e13, 2) == pytest.approx(0.1)
    assert utilisation(None, 0.5, 1e13, 2) is None
    assert utilisation(1e12, 0.0, 1e13, 2) is None
    assert utilisation(1e12, 0.5, None, 2) is None


def test_torchs_groups_by_name():
    import torch.distributed as dist

    assert torch_groups() == {}
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        assert list(torch_groups().values()) == [[0]]
    finally:
        dist.destroy_process_group()


@pytest.mark.mpi
def test_the_rank_that_computes_longest():
    found = json.loads(check(mpirun(3, ["-c", STRAGGLERS], timeout_s=40)).strip().splitlines()[-1])
    assert found["rank"] == 1
    assert found["busy_ms"] == 25.0
    assert found["mean_of_others_ms"] == pytest.approx(10.0)
    assert found["excess"] == pytest.approx(1.5)
    assert found["host"]
    assert found["alone"]["excess"] is None
