"""CUDA_VISIBLE_DEVICES as CUDA reads it."""

from __future__ import annotations

import pytest

from hpc_accel.measure.energy.sensors import visible_gpus


@pytest.mark.parametrize(
    ("value", "chosen", "words"),
    [
        (None, [0, 1, 2], ""),
        ("1", [1], ""),
        ("2,0", [2, 0], ""),
        ("GPU-bb", [1], ""),
        ("", [], "is empty"),
        (" ", [], "is empty"),
        ("MIG-GPU-aa/1/0", [], "MIG slice"),
        ("0,9,1", [0], "'9'"),
        ("-1", [], "'-1'"),
        ("GPU-", [], "'GPU-'"),
    ],
)
def test_visible_devices_as_cuda_reads_them(value, chosen, words):
    found, reason = visible_gpus.select(value, ["GPU-aaaa", "GPU-bbbb", "GPU-cccc"])
    assert found == chosen
    assert (words in reason) if words else (reason == "")
