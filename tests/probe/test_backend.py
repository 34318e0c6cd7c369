"""Messages through the backend a study uses: timed on real ranks, with tensors on the CPU in place of a GPU's."""

from __future__ import annotations

import json

import pytest
import torch

from hpc_accel.probe.backend import backend_links, untimed
from hpc_accel.probe.hardware import Network
from hpc_accel.probe.machine import Place
from hpc_accel.probe.network import ALLREDUCE_BYTES, LARGE_BYTES, MESSAGE_BYTES, Effort
from tests.mpirun import check, mpirun

SCRIPT = """
import json, sys
import torch
import torch.distributed as dist
from mpi4py import MPI
from hpc_accel.probe.backend import backend_links
from hpc_accel.probe.machine import Place
from hpc_accel.probe.network import Effort
world = MPI.COMM_WORLD
place = Place(device=torch.device("cpu"), uuids=[str(i) for i in range(world.size)], resident_bytes=1)
nodes = json.loads(sys.argv[1])
found = backend_links(world, nodes, place, "mpi4py", Effort(window_s=0.002, large=False))
assert not dist.is_initialized()
if world.rank == 0:
    print(json.dumps(found))
"""


def place(*uuids: str) -> Place:
    return Place(device=torch.device("cpu"), uuids=list(uuids), resident_bytes=1)


@pytest.mark.mpi
@pytest.mark.timeout(200)
@pytest.mark.parametrize("nodes", [[[0, 1]], [[0, 1], [2]]], ids=["one node", "two nodes"])
def test_ranks_time_the_backend_as_they_time_mpi(tmp_path, nodes):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    ranks = sum(map(len, nodes))
    said = check(mpirun(ranks, [script, json.dumps(nodes)], timeout_s=120))
    found = json.loads([line for line in said.splitlines() if line.startswith("{")][-1])
    network = Network.model_validate({"intra_node_reason": "host", "inter_node_reason": "host", **found})
    links = network.on_device["mpi4py"]
    for link in [links.intra_node] + ([links.inter_node] if len(nodes) > 1 else []):
        assert [point.bytes for point in link.points] == [*MESSAGE_BYTES, LARGE_BYTES]
        assert [point.bytes for point in link.allreduce] == [*ALLREDUCE_BYTES, LARGE_BYTES]
        assert {point.ranks for point in link.allreduce} == {2}
        assert 1e-7 < link.latency_s < 1e-1 and link.bandwidth_bytes_per_s > 1e6
        assert link.points[-1].time_s > link.points[0].time_s
    assert (links.inter_node is None) == (len(nodes) == 1)


@pytest.mark.parametrize(
    ("ranks", "uuids", "backend", "why"),
    [
        (1, ["a"], "nccl", "one rank"),
        (2, ["a"], "mpi4py", "CPUs beside GPUs"),
        (2, ["a", "b"], "gloo", "gloo sends no messages"),
        (2, ["a", "a"], "nccl", "a GPU for each rank"),
        (2, ["a", "a"], "mpi4py", None),
        (2, ["a", "b"], "nccl", None),
    ],
)
def test_what_is_not_timed_says_why(ranks, uuids, backend, why):
    found = untimed(ranks, place(*uuids), backend)
    assert (found is None) if why is None else why in found


def test_a_backend_that_is_not_timed_is_not_started():
    class World:
        size = 2

    found = backend_links(World(), [[0, 1]], place("a", "b"), "gloo", Effort(window_s=0.01, large=False))
    assert found == {"on_device_reason": {"gloo": "gloo sends no messages between GPUs"}}
    assert not torch.distributed.is_initialized()
