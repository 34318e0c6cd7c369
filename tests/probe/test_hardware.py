"""hardware.json: read back whole, refused with the key that is wrong, and its levels used as measured."""

from __future__ import annotations

import json

import pytest

from hpc_accel.errors import ConfigError
from hpc_accel.probe.hardware import load_hardware
from tests.plan.examples import machine, machine_json


def test_a_file_is_read_back(tmp_path):
    path = tmp_path / "hardware.json"
    path.write_text(json.dumps(machine_json()))
    assert load_hardware(path) == machine()


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"num_cpus": 0}, "num_cpus"),
        ({"kernel_overhead_s": 0}, "kernel_overhead_s"),
        ({"kernel_overhead_ms": 1.0}, "kernel_overhead_ms"),
        ({"matmul_flops_per_s": {"fp4": 1.0}}, "matmul_flops_per_s"),
    ],
)
def test_a_wrong_key_is_named(tmp_path, change, key):
    path = tmp_path / "hardware.json"
    path.write_text(json.dumps(machine_json(**change)))
    with pytest.raises(ConfigError, match=key) as caught:
        load_hardware(path)
    assert caught.value.exit_code == 78
    assert str(path) in caught.value.value


@pytest.mark.parametrize("text", [None, "{", "[]"])
def test_no_file_and_no_json_are_refused(tmp_path, text):
    path = tmp_path / "hardware.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match="probe"):
        load_hardware(path)


def test_a_level_between_two_measured_ones_is_the_next_above():
    level = {
        "threads": 1,
        "matmul_flops_per_s": {"fp32": 1e12, "bf16": None, "fp16": None},
        "memory_bandwidth_bytes_per_s": 1e11,
        "kernel_overhead_s": 1e-5,
    }
    kind = machine(device="cpu", num_cpus=8, levels=[{"ranks": count, **level} for count in (1, 2, 8)]).slowest
    assert [kind.level(ranks).ranks for ranks in (1, 2, 3, 8)] == [1, 2, 8, 8]
    # Beyond what was measured, ranks on a CPU share what there is.
    assert kind.level(16).kernel_overhead_s == pytest.approx(2e-5)


def test_the_slowest_kind_of_node_counts():
    content = machine_json()
    slow = {**content["node_kinds"][0], "name": "old", "matmul_flops_per_s": {"fp32": 1e11}}
    content["node_kinds"].append(slow)
    from hpc_accel.probe.hardware import checked_hardware

    assert checked_hardware(content).slowest.name == "old"
