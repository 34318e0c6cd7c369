"""A study's calibration on real ranks: measured through the engine, kept, and no workload's failure is another's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hpc_accel.commands import plan_study
from hpc_accel.plan.calibration import read_calibrations
from tests.measure.trees import power_meter
from tests.mpirun import check, mpirun

MACHINE = Path(__file__).parent.parent / "cli" / "hardware.json"
GOOD = """
workload:
  - {name: good, entry: "tests.calibrate.mine:build", global_batch_size: 16}
"""
BROKEN = """\
  - {name: broken, entry: "tests.calibrate.mine:build", args: {broken: true}, global_batch_size: 16}
"""
REST = """\
layouts: [{}, {dp: 2}, {pp: 2, accumulation_steps: 4}]
resources: {ranks_per_node: 2}
measure: {steps: 4}
"""
SCRIPT = """
import sys
from pathlib import Path
from mpi4py import MPI
from hpc_accel.calibrate.run import calibrate
from hpc_accel.study.study_file import load_study
seen = []
calibrate(load_study(Path(sys.argv[1])), Path(sys.argv[2]), lambda done, total: seen.append((done, total)))
if MPI.COMM_WORLD.rank == 0:
    print("MEASURED", seen[-1][1] if seen else 0)
"""


def calibrated(directory: Path, study: str) -> str:
    """The output of two ranks, whose last line says how many measurements there were."""
    (directory / "mine.yaml").write_text(study)
    hardware = directory / "hardware.json"
    if not hardware.exists():
        content = json.loads(MACHINE.read_text())
        content["node_kinds"][0] |= {"device": "cpu", "num_cpus": 2}
        hardware.write_text(json.dumps(content))
    script = directory / "script.py"
    script.write_text(SCRIPT)
    sensors = directory / "sys"
    if not sensors.exists():
        power_meter(sensors, 90.0)
    sees = {"HPC_ACCEL_TESTING": "1", "HPC_ACCEL_SYSFS": str(sensors)}
    return check(mpirun(2, [script, directory / "mine.yaml", hardware], timeout_s=150, **sees))


@pytest.mark.mpi
@pytest.mark.timeout(400)
def test_a_study_is_calibrated_once_and_what_fails_is_told(tmp_path, monkeypatch):
    first = calibrated(tmp_path, GOOD + BROKEN + REST)
    found = read_calibrations(tmp_path / "calibration.json")
    assert found is not None
    good = found.workloads["good"]
    keys = {(each.micro_batch_size, each.ranks) for each in good.passes}
    assert keys == {(16, 1), (8, 2), (4, 2)}
    assert all(each.forward_s > 0 and each.backward_s > 0 for each in good.passes)
    assert [each.power_w for each in good.passes] == [pytest.approx(90.0, rel=0.05)] * len(good.passes)
    assert good.samples is not None and good.step_s is not None and good.optimizer_ratios["plain"] > 0
    assert [each.shard for each in good.replicated] == ["none"] and good.staged is not None
    assert "two samples" in found.unmeasured["broken"] and not found.workloads["broken"].passes
    assert int(first.rpartition("MEASURED ")[2]) > 5
    plan = plan_study(tmp_path / "mine.yaml", tmp_path / "hardware.json", tmp_path / "plan.json")
    assert any("broken: not calibrated" in note for note in plan["notes"])
    by_name = [each for each in plan["candidates"] if each["workload"] == "broken" and each["chosen"]]
    assert by_name, "it is measured all the same"
    again = calibrated(tmp_path, GOOD + REST)
    assert again.rstrip().endswith("MEASURED 0")
    assert read_calibrations(tmp_path / "calibration.json").workloads["good"] == good
