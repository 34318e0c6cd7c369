"""A run that was stopped or killed goes on as if nothing had happened, and only from a checkpoint that is whole."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time

import polars as pl
import pytest

from hpc_accel.errors import DataError
from hpc_accel.train.checkpoint_directory import CheckpointDirectory
from tests.measure import trees
from tests.mpirun import ROOT, check, mpirun
from tests.records import summary_in
from tests.train.alone import flip, in_child, loaded_step, save
from tests.train.test_layouts import LM, SCRIPT, write_runs

TESTING = {"HPC_ACCEL_TESTING": "1"}
LONG = {"warmup_steps": 2, "steps": 28, "parity_steps": 1, "metric_samples": 16}


def losses(directory):
    steps = pl.read_parquet(directory / "steps.parquet")
    return steps.select("step", "rank", "loss").sort("step", "rank").rows()


@pytest.mark.mpi
def test_warned_runs_go_on_bit_for_bit(tmp_path):
    """Data parallel with a loss scale and Adam's state, tensor parallel, pipelines; what replicas hold each alone:
    ZeRO-1's state, shards, weights between two averages, PowerSGD's errors.
    """
    adam = {**LM, "optimizer": {"name": "adamw", "learning_rate": 0.001}}
    short = {"measure": {"warmup_steps": 2, "steps": 12, "parity_steps": 1, "metric_samples": 16, "idle_s": 0.1}}
    paths = write_runs(tmp_path, adam, [{"dp": 2, "accumulation_steps": 2}], ("fp16",), **short)
    paths += write_runs(tmp_path, {"name": "digits"}, [{"tp": 2}, {"pp": 2, "accumulation_steps": 4}], **short)
    own = [{"dp": 2, "shard": ["optimizer", "full"], "accumulation_steps": 2}]
    own += [{"pp": 2, "schedule": "zbv_zero_bubble", "split": "measured", "accumulation_steps": 4}]
    paths += write_runs(tmp_path, {**adam, "args": {**LM["args"], "layers": 4}}, own, **short)
    sgd = {"name": "digits", "global_batch_size": 200, "last_batch": "keep"}
    paths += write_runs(tmp_path, sgd, [{"dp": 2}], recipe={"average_every": 3}, **short)
    # Several buckets, which are others in the first step after a restart.
    feedback = {"compression": "powersgd", "bucket_mb": 1}
    wide = {**adam, "args": {**LM["args"], "layers": 4, "hidden": 128}}
    paths += write_runs(tmp_path, wide, [{"dp": 2}], recipe=feedback, **short)
    sensors = {"HPC_ACCEL_SYSFS": str(trees.power_meter(tmp_path / "sys", 200.0))}
    check(mpirun(2, [ROOT / "tests/train/resume.py", *paths], 250, **TESTING, **sensors))
    for path in paths:
        whole, broken = path.parent, path.parent.with_name(path.parent.name + "-broken")
        assert losses(whole) == losses(broken)
        summary = summary_in(broken)
        assert summary.attempt == 2
        stopped = summary.checkpoints.resumed_from_step.value
        assert 7 < stopped <= 14
        warm = pl.read_parquet(broken / "steps.parquet").filter(pl.col("warmup"))["step"].unique().sort().to_list()
        assert warm == [0, 1, stopped, stopped + 1][: 2 + min(2, 14 - 1 - stopped)], "a new process is cold again"
        assert summary.steps.num_timed == 14 - len(warm)
        assert not (broken / "checkpoints").exists(), "a run that is done is not continued"
        energy = summary.energy
        assert energy.num_windows == 2, "one of each attempt"
        # A busy machine may read the meter late; one of the two windows would be half of it.
        assert energy.energy_j == pytest.approx(200 * energy.window_s, rel=0.1)
        phases_j = sum(energy.phases.by_phase_j.values())
        # On a busy machine ranks leave a barrier some milliseconds apart; one of the windows would be a third.
        assert phases_j == pytest.approx(energy.energy_j, rel=0.02, abs=2), "of both attempts"
        assert energy.phases.by_device[0].phases_j == pytest.approx(energy.phases.by_phase_j)


KILLED = {
    "between two steps": ("kill@1:25", False, 20),
    "while its thread writes": ("kill@1:20:save:agree", True, 10),
}
"""The fault, whether saving is asynchronous, and the step of the checkpoint that is left."""


@pytest.mark.mpi
def test_killed_rank_ends_all_and_the_run_goes_on(tmp_path):
    left = {}
    for name, (fault, asynchronous, step) in KILLED.items():
        saving = {"every_steps": 10, "asynchronous": asynchronous}
        [path] = write_runs(tmp_path / name, {"name": "digits"}, [{"dp": 2}], measure=LONG, checkpoint=saving)
        left[path] = step
        done = mpirun(2, [SCRIPT, path], 90, HPC_ACCEL_FAULT=fault, **TESTING)
        assert done.returncode not in (0, 124), done.stdout
        end = time.monotonic() + 10
        while subprocess.run(["pgrep", "-f", str(path)], capture_output=True, check=False).returncode == 0:
            assert time.monotonic() < end, "an orphan"
            time.sleep(0.2)
        assert not (path.parent / "summary.json").exists()
        assert (path.parent / "checkpoints/latest").read_text() == f"step-{step:06d}\n"
    whole = tmp_path / "whole" / "run.json"
    whole.parent.mkdir()
    shutil.copy(path, whole)
    check(mpirun(2, [SCRIPT, *left, whole], 200))
    for path, step in left.items():
        assert summary_in(path.parent).checkpoints.resumed_from_step.value == step
        assert losses(path.parent) == losses(whole.parent)
    told = summary_in(whole.parent).checkpoints
    assert told.num_saved == len(told.written_ms) == 2
    assert min(told.save_ms) > 0
    assert told.interval == "every 10 steps, as the study says"
    assert told.resumed_from_step.value is None


def test_newest_is_loaded_and_old_ones_are_removed(checkpoints):
    assert checkpoints.load() is None
    for step in (5, 10, 999_999, 1_000_000):
        assert save(checkpoints, step) == ""
    assert loaded_step(checkpoints) == 1_000_000
    present = sorted(path.name for path in checkpoints.directory.iterdir())
    assert present == ["latest", "measured-rank-0.jsonl", "step-1000000", "step-999999"]


@pytest.mark.parametrize("point", ["save:write", "save:fsync", "save:agree", "save:rename", "save:latest"])
def test_crash_while_saving_leaves_one_valid_checkpoint(checkpoints, point, monkeypatch):
    save(checkpoints, 5)
    monkeypatch.setenv("HPC_ACCEL_TESTING", "1")
    monkeypatch.setenv("HPC_ACCEL_FAULT", f"exit@0:10:{point}")
    assert in_child(lambda: save(checkpoints, 10)) == 0, "the fault ends the process with 0 before it can return"
    monkeypatch.delenv("HPC_ACCEL_FAULT")
    found = checkpoints.load()
    assert found.step == (10 if point == "save:latest" else 5)
    assert found.notes == ([] if point == "save:latest" else ["step-000010.partial was never completed"])
    assert save(checkpoints, 15) == ""
    assert not list(checkpoints.directory.glob("*.partial"))


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "nearly whole": lambda path: os.truncate(path, path.stat().st_size - 1),
    "flipped bit": flip,
    "missing": lambda path: path.unlink(),
    "extra": lambda path: shutil.copy(path, path.with_name("model-pp1-tp0.safetensors")),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", ["model-pp0-tp0.safetensors", "rank-0.json", "manifest.json"])
def test_damage_is_refused_and_the_one_before_is_used(checkpoints, damage, name):
    save(checkpoints, 5)
    save(checkpoints, 10)
    DAMAGE[damage](checkpoints.directory / "step-000010" / name)
    found = checkpoints.load()
    assert found.step == 5
    assert found.notes[0].startswith("checkpoint step-000010 refused: ")
    DAMAGE[damage](checkpoints.directory / "step-000005" / name)
    with pytest.raises(DataError, match="to start the run from its beginning"):
        checkpoints.load()


def test_another_run_s_checkpoint_is_refused(checkpoints):
    save(checkpoints, 5)
    directory = CheckpointDirectory(checkpoints.directory)
    files = directory.manifest("step-000005")["files"]
    (checkpoints.directory / "step-000005").rename(directory.partial(5))
    facts = {"run_id": "other", "run": checkpoints.run.model_dump(mode="json")}
    directory.publish(5, files, facts, keep=1)
    with pytest.raises(DataError, match="belongs to run other"):
        checkpoints.load()


@pytest.mark.parametrize("content", ["garbage\0", "../../etc", "step-000099", None])
def test_a_bad_pointer_is_told_and_not_followed(checkpoints, content):
    save(checkpoints, 5)
    latest = checkpoints.directory / "latest"
    latest.unlink()
    if content is not None:
        latest.write_text(content)
    found = checkpoints.load()
    assert found.step == 5
    assert "the newest one is used" in found.notes[0]


def test_full_disk_keeps_the_old_one(checkpoints):
    """A limit on the size of files stands for a full disk: writing fails in the middle."""
    save(checkpoints, 5)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8192, hard))
    try:
        reason = save(checkpoints, 10, size=(100, 1000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert reason.startswith("rank 0: ")
    assert loaded_step(checkpoints) == 5
    assert sorted(path.name for path in checkpoints.directory.iterdir()) == [
        "latest",
        "measured-rank-0.jsonl",
        "step-000005",
    ]


def test_a_fault_needs_the_word_testing(checkpoints, monkeypatch):
    monkeypatch.setenv("HPC_ACCEL_FAULT", "exit@0:10:save:write")
    monkeypatch.delenv("HPC_ACCEL_TESTING", raising=False)
    assert in_child(lambda: save(checkpoints, 10)) == 3


def test_nothing_of_torch_is_loaded_before_signals_are_heard():
    """Until the handler stands, a warning would end the process; importing torch takes seconds."""
    code = "import hpc_accel.train.main, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
