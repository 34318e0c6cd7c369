"""The record: a figure has a value or a reason, whatever is broken says so, and real records are whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from pydantic import ValidationError

from hpc_accel import record
from hpc_accel.jobs.failure import Failure, summary_of_failure
from hpc_accel.measure.energy.figure import EnergyFigure
from hpc_accel.record import Broken, Figure, Summary
from hpc_accel.record.energy import Energy
from hpc_accel.record.figure import NOT_FINITE, Bytes, Milliseconds
from hpc_accel.record.measured import NO_SENSOR, energy_of
from hpc_accel.record.parts import Parity
from tests.record.make_golden import RUNS, golden
from tests.records import figures

FACTS = {"launched_unix_s": 0.0, "ended_unix_s": 5.0, "attempt": 2, "job_id": "7"}


@pytest.mark.parametrize(("value", "reason"), [(None, ""), (1.0, "why")])
def test_a_figure_has_a_value_or_a_reason(value, reason):
    with pytest.raises(ValidationError, match="a value or a reason"):
        Figure(value=value, unit="ms", reason=reason)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_a_figure(value):
    assert Milliseconds.of(value).reason == NOT_FINITE
    with pytest.raises(ValidationError):
        Milliseconds(value=value)


def test_the_class_is_the_unit():
    assert (Bytes.of(4).unit, Bytes.missing("why", "do this").remedy) == ("B", "do this")
    with pytest.raises(ValidationError, match="unit"):
        Bytes(value=4, unit="GiB")


@pytest.mark.parametrize("mode", ["train", "infer"])
def test_a_real_record_is_whole_and_comes_back_as_it_was_written(mode, tmp_path):
    summary = golden(mode)
    assert (summary.status, summary.mode) == ("completed", mode)
    for path, figure in figures(summary).items():
        assert (figure.value is None) == bool(figure.reason), path
    record.write(tmp_path / "summary.json", summary)
    assert record.read(tmp_path / "summary.json", summary.run_id) == summary
    content = json.loads((tmp_path / "summary.json").read_text())
    assert summary == Summary.model_validate(content)


def test_keys_that_programs_read_are_plain(tmp_path):
    record.write(tmp_path / "summary.json", golden("train"))
    content = json.loads((tmp_path / "summary.json").read_text())
    assert (content["status"], content["error"], content["format"]) == ("completed", None, 5)
    energy = content["energy"]
    assert energy["energy_j"] is None or isinstance(energy["energy_j"], float)
    assert isinstance(energy["window_s"], float)
    assert {"scope", "method", "sensors", "reason"} <= set(energy)
    parity = content["parity"]
    assert [type(parity[key]) for key in ("max_rel_err", "tolerance", "passed")] == [float, float, bool]
    assert all(isinstance(loss, float) for loss in content["losses"]["first"])
    assert isinstance(content["metric"]["value"], float)


@pytest.mark.parametrize("mode", ["train", "infer"])
def test_an_attempt_without_a_result_has_every_figure_missing_for_one_reason(mode):
    failure = Failure(status="failed", kind="killed", message="a rank was killed", remedy="more memory", exit_code=137)
    summary = summary_of_failure(RUNS[mode], failure, FACTS)
    assert (summary.mode, summary.status, summary.attempt, summary.job_id) == (mode, "failed", 2, "7")
    assert summary.error.message == "a rank was killed"
    found = figures(summary)
    assert len(found) > 40
    assert {(figure.value, figure.reason) for figure in found.values()} == {(None, "no result: a rank was killed")}
    assert (summary.energy.energy_j, summary.energy.reason) == (None, "no result: a rank was killed")


def test_a_result_needs_steps_and_a_failure_needs_an_error():
    whole = golden("train")
    with pytest.raises(ValidationError, match="step_time_ms"):
        whole.changed(step_time_ms=whole.step_time_ms.missing("why"))
    with pytest.raises(ValidationError, match="has an error"):
        whole.changed(status="failed")
    with pytest.raises(ValidationError, match="`inference`"):
        golden("infer").changed(inference=None)


def test_energy_and_parity_without_a_value_have_a_reason():
    with pytest.raises(ValidationError, match="has a reason"):
        Energy.missing("no sensor").changed(reason="")
    with pytest.raises(ValidationError, match="has a reason"):
        Parity(max_rel_err=None, tolerance=1e-5, steps=0, reference="serial", passed=False)


def written(tmp_path, **changes):
    path = tmp_path / "summary.json"
    record.write(path, golden("train"))
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return path


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not valid JSON"),
        (b'{"format": 4, "sta', "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b"[1, 2]", "holds no JSON object"),
        (b"{}", "has format None"),
        (b'{"format": 5}', "is not a record: run_id: Field required (and "),
        (b'{"format": "\\ud800"}', "has format "),
    ],
)
def test_a_file_that_is_no_record_is_broken_and_says_how(tmp_path, content, reason):
    path = tmp_path / "summary.json"
    path.write_bytes(content)
    found = record.read(path)
    assert isinstance(found, Broken)
    assert reason in found.reason
    assert found.remedy
    assert not found.is_absent


def test_a_missing_file_an_older_format_and_another_runs_record_are_told_apart(tmp_path):
    assert record.read(tmp_path / "summary.json").is_absent
    assert "has format 1, this version reads format 5" in record.read(written(tmp_path, format=1)).reason
    assert "belongs to run" in record.read(written(tmp_path), "another").reason


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_may_not_be_read_says_so(tmp_path):
    path = written(tmp_path)
    path.chmod(0)
    assert "cannot be read" in record.read(path).reason


def test_reading_records_needs_no_torch():
    code = "import sys, hpc_accel.record, hpc_accel.record.measured; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "False"


def test_energy_without_a_word_still_leaves_a_record():
    silent = EnergyFigure(energy_j=None, window_s=2.0, scope=None, method="none")
    found = energy_of(silent, golden("train").steps)
    assert (found.energy_j, found.window_s, found.reason) == (None, 2.0, NO_SENSOR)
    assert {figure.value for figure in figures(found).values()} == {None}
