"""A job's energy by Slurm's accounting: nothing counted twice, and nothing that may be others'."""

from __future__ import annotations

import subprocess
import sys

import pytest

from hpc_accel.jobs.energy_accounting import job_energy

FIELDS = ("JobIDRaw", "ConsumedEnergyRaw", "ElapsedRaw", "NNodes")


def rows(*lines: str) -> list[dict[str, str]]:
    return [dict(zip(FIELDS, line.split("|"), strict=True)) for line in lines]


STEPS = rows("77|5000|130|2", "77.batch|2600|128|1", "77.extern|5200|130|2", "77.0|4800|120|2", "77.1|100|2|2")


def test_concurrent_steps_are_not_added():
    energy = job_energy(STEPS, is_exclusive=True)
    assert (energy.energy_j, energy.window_s, energy.window) == (5200.0, 130.0, "77.extern")
    assert (energy.method, energy.scope, energy.reason) == ("slurm-accounting", "whole nodes", "")


@pytest.mark.parametrize(("is_exclusive", "words"), [(False, "shares its nodes"), (None, "not known")])
def test_a_shared_nodes_energy_is_not_the_jobs(is_exclusive, words):
    energy = job_energy(STEPS, is_exclusive=is_exclusive)
    assert energy.energy_j is None
    assert words in energy.reason


@pytest.mark.parametrize("value", ["", "0", "4294967294", "18446744073709551614", "-"])
def test_an_accounting_without_energy_is_unknown(value):
    energy = job_energy(rows(f"77|{value}|9|1", f"77.0|{value}|9|1"), is_exclusive=True, num_runs=2)
    assert energy.energy_j is None
    assert "AcctGatherEnergyType" in energy.remedy


def test_runs_that_took_turns_have_no_energy_each():
    energy = job_energy(STEPS, is_exclusive=True, num_runs=3)
    assert energy.energy_j is None
    assert "3 runs took turns in job 77" in energy.reason


def test_a_heterogeneous_jobs_components_are_not_added():
    energy = job_energy([*STEPS, *rows("78|900|130|1", "78.0|900|120|1")], is_exclusive=True)
    assert energy.energy_j is None
    assert "heterogeneous" in energy.reason


def test_accounting_loads_no_sensors():
    code = "import sys; import hpc_accel.jobs.accounting; print([name for name in sys.modules if 'sensors' in name])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
