"""The scheduler's own figure: nothing counted twice."""

from __future__ import annotations

import subprocess

import pytest

from hpc_accel.measure.energy import slurm

SACCT = """77|5000|130|2|COMPLETED
77.batch|2600|128|1|COMPLETED
77.extern|5200|130|2|COMPLETED
77.0|4800|120|2|COMPLETED
77.1|100|2|2|COMPLETED
"""


def test_concurrent_steps_are_not_added():
    energy = slurm.job_energy("77", is_exclusive=True, sacct=lambda _job: SACCT)
    assert (energy["energy_j"], energy["window_s"], energy["method"]) == (5200.0, 130.0, "slurm-accounting")
    assert energy["scope"] == "whole nodes"


@pytest.mark.parametrize(("is_exclusive", "words"), [(False, "shares its nodes"), (None, "not known")])
def test_a_shared_nodes_energy_is_not_the_jobs(is_exclusive, words):
    energy = slurm.job_energy("77", is_exclusive=is_exclusive, sacct=lambda _job: SACCT)
    assert energy["energy_j"] is None
    assert words in energy["reason"]


@pytest.mark.parametrize("value", ["", "0", "4294967294", "18446744073709551614", "-"])
def test_an_accounting_without_energy_is_unknown(value):
    energy = slurm.job_energy(
        "77", is_exclusive=True, sacct=lambda _job: f"77|{value}|9|1|COMPLETED\n77.0|{value}|9|1|COMPLETED"
    )
    assert energy["energy_j"] is None
    assert "AcctGatherEnergyType" in energy["remedy"]


def test_a_failing_sacct_is_a_reason():
    def broken(_job: str) -> str:
        raise subprocess.TimeoutExpired("sacct", 20)

    energy = slurm.job_energy("77", is_exclusive=True, sacct=broken)
    assert energy["energy_j"] is None
    assert "sacct" in energy["reason"]
