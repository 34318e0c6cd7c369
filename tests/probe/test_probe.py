"""The probe itself: on real ranks, on one rank, and where it cannot write."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from hpc_accel.errors import ConfigError
from hpc_accel.measure.energy.figure import EnergyFigure
from hpc_accel.plan.prediction import predict
from hpc_accel.probe import compute, probe
from hpc_accel.probe.hardware import load_hardware
from hpc_accel.probe.machine import node_facts, power_facts
from tests.mpirun import check, mpirun
from tests.plan.examples import model, run

SCRIPT = """
import sys
from pathlib import Path
from mpi4py import MPI
from hpc_accel.probe.probe import run
content = run(Path(sys.argv[1]), site="local")
assert bool(content) == (MPI.COMM_WORLD.rank == 0)
"""


@pytest.fixture(scope="module")
def probed(tmp_path_factory) -> Path:
    """hardware.json of two real ranks."""
    directory = tmp_path_factory.mktemp("probe")
    script, out = directory / "probe_script.py", directory / "deep" / "hardware.json"
    script.write_text(SCRIPT)
    check(mpirun(2, [script, out], timeout_s=150))
    return out


@pytest.mark.mpi
@pytest.mark.timeout(200)
def test_two_ranks_measure_the_node_and_its_messages(probed):
    hardware = load_hardware(probed)
    kind = hardware.slowest
    assert (hardware.num_nodes, hardware.ranks_per_node) == (1, 2)
    assert kind.num_cpus == len(os.sched_getaffinity(0)) or kind.num_cpus <= os.cpu_count()
    assert [level.ranks for level in kind.levels] == [1, 2]
    if kind.device == "cpu":
        assert 1e8 < kind.matmul_flops_per_s["fp32"] < 1e13
        assert kind.matmul_flops_per_s["fp16"] is None and kind.matmul_flops_per_s_reason["fp16"]
        assert 1e-7 < kind.kernel_overhead_s < 1e-2
        assert 1e8 < kind.memory_bandwidth_bytes_per_s < 1e13
    link = hardware.network.intra_node
    assert 1e-8 < link.latency_s < 1e-1 and link.bandwidth_bytes_per_s > 1e6
    assert {point.ranks for point in link.allreduce} == {2}
    assert hardware.network.inter_node is None and hardware.network.inter_node_reason == "one node probed"
    assert not hardware.network.on_device and not hardware.network.on_device_reason
    assert kind.power_w is not None or kind.power_w_reason
    assert hardware.mpi["library"] and hardware.mpi["thread_level"]
    assert os.listdir(probed.parent) == ["hardware.json"]


@pytest.mark.mpi
@pytest.mark.timeout(200)
def test_what_the_probe_wrote_is_what_the_planner_needs(probed):
    hardware = load_hardware(probed)
    for layout in ({}, {"dp": 2}, {"tp": 2}, {"pp": 2, "accumulation": 4, "schedule": "1f1b"}):
        prediction = predict(run(ranks_per_node=2, hardware=hardware, **layout), model(), hardware)
        assert prediction.step_time_ms > 0, layout
        assert prediction.peak_memory_bytes > 50e6


def test_one_rank_has_no_network_and_says_so(tmp_path):
    content = probe.run(tmp_path / "hardware.json", site="laptop")
    assert content["site"] == "laptop"
    assert content["network"]["intra_node"] is None
    assert content["network"]["intra_node_reason"] == "one rank per node probed"
    assert json.loads((tmp_path / "hardware.json").read_text()) == content


def test_the_chain_has_as_many_operations_as_are_counted_in_models():
    from hpc_accel.workloads.counting import OperationCounter

    pair, inputs = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU()), torch.randn(4, 4)
    with OperationCounter() as counter:
        pair(inputs)
    assert counter.num_operations == compute.OPERATIONS_PER_PAIR


def test_power_is_known_only_from_a_whole_window():
    window = EnergyFigure(energy_j=600.0, window_s=3.0, scope="whole nodes", method="counter")
    assert power_facts(window, 2) == {"power_w": 100.0, "power_w_reason": None}
    for change in ({"energy_j": None, "reason": "no sensor"}, {"is_partial": True}, {"resolution_warning": True}):
        facts = power_facts(replace(window, **change), 2)
        assert facts["power_w"] is None and facts["power_w_reason"]


def test_gpus_the_study_does_not_use_are_in_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr("hpc_accel.runtime.device.num_gpus_seen", lambda: 2)
    [kind] = probe.run(tmp_path / "hardware.json", site="laptop")["node_kinds"]
    assert kind["device"] == "cpu" and "sees 2 GPU(s)" in kind["device_reason"]


@pytest.mark.parametrize("asked", [{"gpus_per_node": 1}, {"device": "cuda"}])
def test_a_study_on_gpus_is_not_probed_without_them(tmp_path, monkeypatch, asked):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="torch sees no"):
        probe.run(tmp_path / "hardware.json", site="laptop", **asked)


@pytest.mark.parametrize(("visible", "uuids", "expected"), [(1, "ab", 2), (4, "ab", 4), (1, "aa", 1)])
def test_a_nodes_gpus_are_counted_also_where_each_rank_sees_its_own(monkeypatch, visible, uuids, expected):
    """As under CUDA_VISIBLE_DEVICES, with which every rank's GPU is number 0."""

    class Node:
        def allgather(self, mine):
            return [mine, {0, 1}] if isinstance(mine, set) else [mine, (visible, uuids[1])]

    properties = SimpleNamespace(name="H100", uuid=uuids[0], total_memory=80)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: visible)
    facts = node_facts(torch.device("cuda", 0), Node())
    assert (facts["device_name"], facts["device_memory_bytes"], facts["devices_per_node"]) == ("H100", 80, expected)


def test_gpus_are_measured_alone_and_all_at_once():
    assert [probe._counts(size, "cuda") for size in (1, 2, 8)] == [[1], [1, 2], [1, 8]]
    assert probe._counts(6, "cpu") == [1, 2, 4, 6]


COMPONENTS_SCRIPT = """
import sys
from pathlib import Path
from hpc_accel.errors import ConfigError
from hpc_accel.measure.energy.figure import EnergyFigure
from hpc_accel.probe.probe import run
from hpc_accel.study.run import NodeKind
parts = [NodeKind(number=0), NodeKind(number=1, ranks_per_node=2)]
try:
    run(Path(sys.argv[1]), site="local", node_kinds=parts[:2])
except ConfigError as error:
    print(error)
"""


@pytest.mark.mpi
@pytest.mark.timeout(200)
def test_node_kinds_are_kinds_of_their_own(tmp_path):
    """Also on one machine, as a CPU beside a GPU is: in the last round all of them are measured at once."""
    script, out = tmp_path / "probe_script.py", tmp_path / "hardware.json"
    script.write_text(COMPONENTS_SCRIPT)
    check(mpirun(3, [script, out], timeout_s=150))
    hardware = load_hardware(out)
    found = [(kind.number, [level.ranks for level in kind.levels]) for kind in hardware.node_kinds]
    assert found == [(0, [1]), (1, [1, 2])]
    assert all(kind.power_w is None and kind.power_w_reason for kind in hardware.node_kinds)
    assert "2 rank(s) probe node kinds of 3" in check(mpirun(2, [script, out], timeout_s=60))
