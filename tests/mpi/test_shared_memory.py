"""The node's shared memory on two and four ranks of one node, and on four that count as two nodes of two."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpc_accel.mpi.node_memory import PRETENDED
from tests.mpi import shared_cases
from tests.mpi.cases import Launch, cases_of
from tests.mpirun import mpirun

SCRIPT = Path(shared_cases.__file__)
ONE_NODE = Launch(SCRIPT, timeout_s=150)
TWO_NODES = Launch(SCRIPT, timeout_s=150, **{PRETENDED: "2"})
DEATH = """
import torch, torch.distributed as dist, hpc_accel.mpi
place = hpc_accel.mpi.init()
large = torch.ones(2**20)
dist.all_reduce(large)
assert dist.group.WORLD.executor.reducer.shared is not None
if place.rank == 1:
    raise ValueError("rank 1 has had enough")
dist.all_reduce(large)
"""


@pytest.mark.mpi
@pytest.mark.parametrize("n", [2, 4])
@pytest.mark.parametrize("name", cases_of(shared_cases))
def test_one_node(name: str, n: int) -> None:
    ONE_NODE.check(n, name)


@pytest.mark.mpi
@pytest.mark.parametrize("name", cases_of(shared_cases))
def test_two_nodes(name: str) -> None:
    TWO_NODES.check(4, name)


@pytest.mark.mpi
def test_the_death_of_a_peer_ends_the_job() -> None:
    result = mpirun(2, ["-c", DEATH], 90, guard=False)
    assert result.returncode not in {0, 124}, result.stdout
    assert "rank 1 has had enough" in result.stdout
