"""How a training is started: again and again here, as a chain where there is a queue."""

import os
from dataclasses import replace

import pytest

from hpc_accel.errors import ConfigError
from hpc_accel.jobs.site import Site
from hpc_accel.produce.produce import asked_of, begin, prepare
from hpc_accel.produce.start import run_here, submit_chain


@pytest.fixture
def sbatch(tmp_path, monkeypatch):
    """A stand-in that notes what it is asked, and refuses where a file `refuses` is there."""
    stub = tmp_path / "bin/sbatch"
    stub.parent.mkdir()
    stub.write_text(
        f'#!/bin/bash\n[[ -e {tmp_path}/refuses ]] && {{ echo "Invalid account" >&2; exit 1; }}\n'
        f'echo "$@" >> {tmp_path}/calls\necho "$(wc -l < {tmp_path}/calls);cluster"\n'
    )
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", f"{stub.parent}:{os.environ['PATH']}")
    return tmp_path


@pytest.mark.parametrize(("max_restarts", "wait", "expected"), [(0, False, 4), (2, False, 2), (0, True, 4)])
def test_a_chain_is_the_script_as_often_as_it_needs(study, sbatch, max_restarts, wait, expected):
    written = prepare(study, asked_of(study, {"workload": "mlp", "steps": 5}))
    written = replace(written, site=Site(name="c", max_restarts=max_restarts), num_jobs=3)
    told = []
    assert begin(written, told.append, wait=wait) == 0
    calls = (sbatch / "calls").read_text().splitlines()
    assert len(calls) == expected
    assert all(call.endswith(str(written.script)) for call in calls)
    assert ["--wait" in call for call in calls] == [False] * (expected - 1) + [wait], "the last one is waited for"
    assert f"submits {expected} job(s)" in told[0]
    assert told[1:] == [f"job {number}" for number in range(1, expected + 1)]


def test_a_refused_job_is_told(study, sbatch):
    (sbatch / "refuses").touch()
    with pytest.raises(ConfigError, match="Invalid account"):
        submit_chain(study / "job.sbatch", 2)


def test_without_sbatch(study, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="no sbatch here"):
        submit_chain(study / "job.sbatch", 1)


def test_here_the_script_is_started_until_it_asks_for_no_more(tmp_path):
    script = tmp_path / "job.sbatch"
    begin = """echo '{"event": "begin", "unix_s": 1}' >>"""
    counted = f"{tmp_path}/attempts.jsonl"
    script.write_text(f"{begin} {counted}\n[[ $(wc -l < {counted}) == 3 ]] && exit 7\nexit 75\n")
    told = []
    assert run_here(script, told.append) == 7
    assert len(told) == 2


def test_a_script_that_began_no_attempt_is_not_started_again(tmp_path):
    """Another process is at the training: it says 75, too."""
    script = tmp_path / "job.sbatch"
    script.write_text(f"echo x >> {tmp_path}/starts\nexit 75\n")
    told: list[str] = []
    assert run_here(script, told.append) == 75
    assert not told and (tmp_path / "starts").read_text() == "x\n"
