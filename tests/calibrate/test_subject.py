"""A calibration serves what it was measured of alone, in plan and probe; one that did not end is tried once more."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from hpc_accel.calibrate.run import MOST_TIMES, NAME, Owner
from hpc_accel.commands import plan_study
from hpc_accel.plan.calibration import Calibration, CalibrationFile, read_calibrations, subject_of
from hpc_accel.probe.hardware import load_hardware
from hpc_accel.study.expand import resolve_workloads
from hpc_accel.study.study_file import load_study
from hpc_accel.workloads.facts_without_weights import facts_of

MACHINE = Path(__file__).parent.parent / "cli" / "hardware.json"
ARGS = "args: {broken: true}, "
OPTIMIZER = "optimizer: {name: adam}, "
STUDY = """
workload: {name: good, entry: "tests.calibrate.mine:build", %sglobal_batch_size: 16}
layouts: [{}, {dp: 2}]
resources: {ranks_per_node: 2, cpus_per_rank: %d}
backend: %s
measure: {steps: 4}
"""
TAKES_S = 77.0
"""Of a step beside all else, so that a predicted time tells whether the calibration counts."""


def written(directory: Path, more: str = "", cpus: int = 1, backend: str = "mpi4py") -> Path:
    """A study file beside the hardware.json of a machine with two cores."""
    content = json.loads(MACHINE.read_text())
    content["node_kinds"][0] |= {"device": "cpu", "num_cpus": 2}
    (directory / "hardware.json").write_text(json.dumps(content))
    (directory / "mine.yaml").write_text(STUDY % (more, cpus, backend))
    return directory / "mine.yaml"


def planned(study: Path) -> tuple[bool, str]:
    """Whether the predictions rest on the calibration, and the plan's notes."""
    plan = plan_study(study, study.parent / "hardware.json", study.parent / "plan.json")
    times = [each["prediction"]["step_time_ms"] for each in plan["candidates"]]
    assert len(times) == 2
    return min(times) > 1000 * TAKES_S, "\n".join(plan["notes"])


@pytest.fixture
def calibrated(tmp_path: Path) -> Path:
    path = written(tmp_path)
    study, hardware = load_study(path), tmp_path / "hardware.json"
    (workload,) = resolve_workloads(study)
    subject = subject_of(workload, facts_of(workload, study.seed), study, load_hardware(hardware))
    known = CalibrationFile(
        hardware_sha256=hashlib.sha256(hardware.read_bytes()).hexdigest(),
        created_utc="now",
        workloads={"good": Calibration(of=subject, step_s=TAKES_S)},
        unmeasured={"good": "stages did not fit"},
    )
    (tmp_path / NAME).write_text(known.model_dump_json())
    return tmp_path


def test_a_plan_rests_on_the_calibration_of_its_own_workload(calibrated):
    rests, notes = planned(written(calibrated))
    assert rests and "its calibration is of" not in notes and "good: not calibrated: stages did not fit" in notes


@pytest.mark.parametrize(
    ("edit", "other"),
    [
        ({"more": ARGS}, "another model, optimizer or data"),
        ({"more": OPTIMIZER}, "another model, optimizer or data"),
        ({"backend": "gloo"}, "backend mpi4py, not gloo"),
        ({"cpus": 8}, "1 CPU(s) per rank, not 8"),
    ],
)
def test_a_calibration_of_anything_else_is_left_out_and_the_plan_says_so(calibrated, edit, other):
    rests, notes = planned(written(calibrated, **edit))
    assert not rests
    assert f"good: its calibration is of {other}: predicted without it" in notes
    assert f"delete {calibrated / 'hardware.json'} to measure anew" in notes
    assert "stages did not fit" not in notes, "that was of the other as well"


def test_a_calibration_with_other_threads_does_not_hold(calibrated):
    of = read_calibrations(calibrated / NAME).workloads["good"].of
    assert of.difference(of) is None
    assert of.difference(of.model_copy(update={"threads": 8})) == f"{of.threads} thread(s) per rank, not 8"


def owner(study: Path) -> Owner:
    return Owner(load_study(study), study.parent / "hardware.json", 2)


def test_a_calibration_that_did_not_end_is_tried_once_more_and_again_when_the_model_is_mended(tmp_path):
    study = written(tmp_path)
    for times in range(1, MOST_TIMES + 1):
        killed = owner(study)
        assert list(killed.todo()) == ["good"], f"killed {times - 1} time(s)"
        killed.begin("good")
        rests, notes = planned(study)
        assert not rests and "good: not calibrated: it began" in notes
    assert owner(study).todo() == {}, "it may take every other attempt with it"
    assert f"began {MOST_TIMES} times and never ended" in read_calibrations(tmp_path / NAME).unmeasured["good"]
    mended = owner(written(tmp_path, OPTIMIZER))
    assert list(mended.todo()) == ["good"], "another model has not ended anything yet"
    assert read_calibrations(tmp_path / NAME).unmeasured == {}
    mended.begin("good")
    mended.finish("good", [], "")
    left = read_calibrations(tmp_path / NAME)
    assert left.unmeasured == {} and left.unfinished == {}, "one that ends is not counted"


def test_a_workload_that_did_not_end_is_measured_last(tmp_path):
    study = written(tmp_path)
    other = '  - {name: other, entry: "tests.calibrate.mine:build", global_batch_size: 16}\n'
    first = study.read_text().replace("workload: {", "workload:\n  - {").replace("16}\n", "16}\n" + other, 1)
    study.write_text(first)
    killed = owner(study)
    assert list(killed.todo()) == ["good", "other"]
    killed.begin("good")
    assert list(owner(study).todo()) == ["other", "good"]
