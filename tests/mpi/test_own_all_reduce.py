"""Our own all-reduce on ranks of one node, and on ranks that count as several nodes: even, uneven, one rank each."""

from __future__ import annotations

from pathlib import Path

import pytest

from hpc_accel.mpi.between_nodes import SWITCH
from hpc_accel.mpi.node_memory import PRETENDED
from tests.mpi import between_nodes_cases, own_all_reduce_cases
from tests.mpi.cases import Launch, cases_of
from tests.mpirun import mpirun

SCRIPT = Path(own_all_reduce_cases.__file__)
ONE_NODE = Launch(SCRIPT, timeout_s=150)
FIXED = {SWITCH: "500"}
"""Bytes of a message: small tensors take many steps, and our way is taken at every size."""
CHOICE = Launch(Path(between_nodes_cases.__file__), timeout_s=120, **{PRETENDED: "1"})
NODES = {per_node: Launch(SCRIPT, timeout_s=150, **FIXED, **{PRETENDED: str(per_node)}) for per_node in (1, 2, 3)}
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
@pytest.mark.parametrize("name", cases_of(own_all_reduce_cases))
def test_one_node(name: str, n: int) -> None:
    ONE_NODE.check(n, name)


# Two of two; two, three and four of one; two and one; three and one.
@pytest.mark.mpi
@pytest.mark.parametrize(("n", "per_node"), [(4, 2), (2, 1), (3, 1), (4, 1), (3, 2), (4, 3)])
@pytest.mark.parametrize("name", cases_of(own_all_reduce_cases))
def test_several_nodes(name: str, n: int, per_node: int) -> None:
    NODES[per_node].check(n, name)


@pytest.mark.mpi
@pytest.mark.parametrize("n", [2, 4])
@pytest.mark.parametrize("name", cases_of(between_nodes_cases))
def test_the_choice_between_nodes(name: str, n: int) -> None:
    CHOICE.check(n, name)


@pytest.mark.mpi
def test_a_wrong_switch_is_refused() -> None:
    result = mpirun(2, ["-c", "import hpc_accel.mpi; hpc_accel.mpi.init()"], 90, **{SWITCH: "256 kilobytes"})
    assert result.returncode not in {0, 124}, result.stdout
    assert "write for example 256k" in result.stdout


@pytest.mark.mpi
def test_the_death_of_a_peer_ends_the_job() -> None:
    result = mpirun(2, ["-c", DEATH], 90, guard=False)
    assert result.returncode not in {0, 124}, result.stdout
    assert "rank 1 has had enough" in result.stdout
