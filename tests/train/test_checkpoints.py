"""A run that was stopped or killed goes on as if nothing had happened, and only from a checkpoint that is whole."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time

import polars as pl
import pytest
import torch
from safetensors.torch import load_file

from hpc_accel.errors import DataError
from hpc_accel.parallel.mesh import RankCoordinates
from hpc_accel.study.run import Run
from hpc_accel.train.attempt_log import Measured
from hpc_accel.train.checkpoint import Checkpoints
from hpc_accel.train.checkpoint_directory import CheckpointDirectory, file_facts
from hpc_accel.train.interval import interval
from hpc_accel.train.slices import Slices
from hpc_accel.train.tensor_file import DTYPES, Slice, write_slices
from tests.measure import trees
from tests.mpirun import ROOT, check, mpirun
from tests.records import summary_in
from tests.train.test_layouts import LM, SCRIPT, write_runs

TESTING = {"HPC_ACCEL_TESTING": "1"}
LONG = {"warmup_steps": 2, "steps": 28, "parity_steps": 1, "metric_samples": 16}


def losses(directory):
    steps = pl.read_parquet(directory / "steps.parquet")
    return steps.select("step", "rank", "loss").sort("step", "rank").rows()


@pytest.mark.mpi
def test_warned_runs_go_on_bit_for_bit(tmp_path):
    """Data parallel with a loss scale and Adam's state, tensor parallel, pipelines; what replicas hold each alone."""
    adam = {**LM, "optimizer": {"name": "adamw", "learning_rate": 0.001}}
    short = {"measure": {"warmup_steps": 2, "steps": 12, "parity_steps": 1, "metric_samples": 16, "idle_s": 0.1}}
    paths = write_runs(tmp_path, adam, [{"dp": 2, "accumulation_steps": 2}], ("fp16",), **short)
    paths += write_runs(tmp_path, {"name": "digits"}, [{"tp": 2}, {"pp": 2, "accumulation_steps": 4}], **short)
    own = [{"dp": 2, "shard": ["optimizer", "full"], "accumulation_steps": 2}]
    own += [{"pp": 2, "schedule": "zbv_zero_bubble", "split": "measured", "accumulation_steps": 4}]
    paths += write_runs(tmp_path, {**adam, "args": {**LM["args"], "layers": 4}}, own, **short)
    sgd = {"name": "digits", "global_batch_size": 200, "last_batch": "keep"}
    paths += write_runs(tmp_path, sgd, [{"dp": 2}], recipe={"average_every": 3}, **short)
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
    "while its thread writes": ("kill@1:20:save:fsync", True, 10),
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


class Alone:
    """A communicator of one rank, for what files must look like."""

    def Get_rank(self):
        return 0

    def Get_size(self):
        return 1

    def bcast(self, value):
        return value

    def allgather(self, value):
        return [value]


@pytest.fixture
def checkpoints(tmp_path):
    [path] = write_runs(tmp_path, {"name": "mlp"}, [{"dp": 1}])
    run = Run.model_validate_json(path.read_bytes())
    place = RankCoordinates(layout=run.layout, mesh=None, pp_rank=0, dp_rank=0, tp_rank=0)
    return Checkpoints(run, path.parent, Alone(), place)


class Weights:
    """A state with one tensor."""

    def __init__(self, tensor):
        self.tensor = tensor

    def slices(self, file):
        if file.holds == "optimizer":
            return {}, {"groups": []}
        each = Slice(name="weight", start=(0, 0), shape=tuple(self.tensor.shape), values=self.tensor)
        return {each.key: each}, {}


def save(checkpoints, step, size=(4, 3), *, waits=True):
    """What came of it: why it failed, or ""; None while that is not known."""
    rows = [{"step": number, "loss": number / 7} for number in range(min(step, 20))]
    state = Weights(torch.full(size, float(step)))
    known = checkpoints.begin(step, state, {"note": step}, Measured(rows=rows, windows=[{"step": step}]))
    state.tensor.fill_(-1.0)  # training goes on
    if waits and (last := checkpoints.finish()):
        known.append(last)
    return next((outcome.reason for outcome in known if outcome.step == step), None)


def loaded_step(checkpoints):
    found = checkpoints.load()
    assert torch.equal(found.slices.whole("weight"), torch.full((4, 3), float(found.step)))
    assert found.values["note"] == found.step
    assert [row["step"] for row in found.measured.rows] == list(range(min(found.step, 20)))
    assert len(found.measured.windows) == 1
    return found.step


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


def in_child(action):
    """The exit code of `action` in a forked process; 3 when it comes back."""
    child = os.fork()
    if child == 0:
        action()
        os._exit(3)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


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


def test_a_state_is_saved_as_it_was_while_training_goes_on(checkpoints, monkeypatch):
    """`save` changes the tensor as soon as it is handed over, and the thread waits until then."""
    gate = threading.Event()
    written = checkpoints._write
    monkeypatch.setattr(checkpoints, "_write", lambda *args: (gate.wait(20), written(*args))[1])
    assert save(checkpoints, 5, waits=False) is None
    assert checkpoints.look() is None
    assert checkpoints.load() is None
    gate.set()
    end = time.monotonic() + 20
    while (outcome := checkpoints.look()) is None:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert (outcome.step, outcome.reason) == (5, "")
    assert loaded_step(checkpoints) == 5


def test_the_next_save_waits_for_the_one_before(checkpoints):
    assert save(checkpoints, 5, waits=False) is None
    assert save(checkpoints, 10) == ""
    assert checkpoints.finish() is None
    assert [path.name for path in sorted(checkpoints.directory.glob("step-*"))] == ["step-000005", "step-000010"]


def test_an_error_that_is_no_disk_s_ends_the_run(checkpoints, monkeypatch):
    monkeypatch.setenv("HPC_ACCEL_TESTING", "1")
    monkeypatch.setenv("HPC_ACCEL_FAULT", "raise@0:10:save:fsync")
    save(checkpoints, 5)
    with pytest.raises(RuntimeError, match="injected at save:fsync"):
        save(checkpoints, 10)


def test_a_checkpoint_does_not_grow_with_the_steps_before_it(checkpoints):
    for step in (1_000, 1_001):
        rows = [{"step": number, "loss": number / 7} for number in range(step)]
        checkpoints.begin(step, Weights(torch.zeros(4, 3)), {}, Measured(rows=rows))
        assert checkpoints.finish().reason == ""
    sizes = [sum(path.stat().st_size for path in each.iterdir()) for each in checkpoints.directory.glob("step-*")]
    assert max(sizes) < 4_000
    found = checkpoints.load()
    assert found.measured.rows == rows
    log = checkpoints.directory / "measured-rank-0.jsonl"
    assert len(log.read_text().splitlines()) == 1_001, "each row once"


def test_what_a_fallen_back_run_measured_later_is_cut_off(checkpoints):
    save(checkpoints, 5)
    save(checkpoints, 10)
    flip(checkpoints.directory / "step-000010/model-pp0-tp0.safetensors")
    assert loaded_step(checkpoints) == 5
    assert save(checkpoints, 7) == ""
    assert len((checkpoints.directory / "measured-rank-0.jsonl").read_text().splitlines()) == 8
    flip(checkpoints.directory / "measured-rank-0.jsonl")
    found = checkpoints.load()
    assert found.step == 7, "weights do not depend on what was measured"
    assert found.measured.rows == []
    assert any("not in the record: measured-rank-0.jsonl is not what was written" in note for note in found.notes)


def test_a_file_of_whole_weights_is_what_plain_torch_loads(checkpoints):
    save(checkpoints, 5)
    model = torch.nn.Linear(3, 4, bias=False)
    model.load_state_dict(load_file(checkpoints.directory / "step-000005/model-pp0-tp0.safetensors"))
    assert torch.equal(model.weight.detach(), torch.full((4, 3), 5.0))


def test_slices_are_read_however_they_were_cut(tmp_path):
    whole = torch.arange(60.0).reshape(6, 10)
    boxes = {"a": [(0, 0, 4, 3), (0, 3, 4, 7)], "b": [(4, 0, 2, 10), (0, 0, 4, 3)]}
    for name, cut in boxes.items():
        slices = [
            Slice(name="w", start=(row, col), shape=(6, 10), values=whole[row : row + rows, col : col + cols])
            for row, col, rows, cols in cut
        ]
        write_slices(tmp_path / name, {each.key: each for each in slices}, {}, before_sync=lambda: None)
    read = Slices(tmp_path, boxes)
    assert torch.equal(read.whole("w"), whole)
    assert torch.equal(read.part("w", (3, 2), (3, 5)), whole[3:6, 2:7])
    with pytest.raises(DataError, match="is not there"):
        Slices(tmp_path, ["a"]).whole("w")


def bytes_of(tensor):
    return tensor.shape, tensor.contiguous().reshape(-1).view(torch.uint8).tolist()


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type_comes_back(tmp_path, dtype):
    values = torch.arange(6).reshape(2, 3).to(dtype)
    for each in (values, values[:, :2], values.t(), values[0, 0], values[:0]):
        own = Slice(name="w", start=(0,) * each.dim(), shape=tuple(each.shape), values=each)
        facts = write_slices(tmp_path / "file", {own.key: own}, {}, before_sync=lambda: None)
        assert facts == file_facts(tmp_path / "file")
        found = Slices(tmp_path, ["file"]).whole("w")
        assert found.dtype == dtype
        assert bytes_of(found) == bytes_of(each)


def test_the_interval_follows_young_and_daly():
    known = {"state_bytes_per_node": 2e9, "node_mtbf_h": None}
    first = interval([], **known, num_nodes=1, time_limit_min=100_000)
    assert first.seconds == pytest.approx((2 * 10 * 6000 * 3600) ** 0.5)
    assert "a guess from its bytes" in first.reason
    later = interval([30.0, 20.0, 22.0], **known, num_nodes=100, time_limit_min=100_000)
    assert later.seconds == pytest.approx((2 * 22 * 60 * 3600) ** 0.5)
    bounded = interval([30.0], **known, num_nodes=1, time_limit_min=30)
    assert bounded.seconds is None
    assert "the time limit of 30 min comes first" in bounded.reason


def test_ids_of_runs_that_say_nothing_of_saving_stay(checkpoints):
    run = checkpoints.run.model_dump(exclude={"run_id"})
    told = {"node_mtbf_h": 5.0}
    assert Run.model_validate({**run, "checkpoint": told}).run_id == checkpoints.run.run_id
    assert Run.model_validate({**run, "checkpoint": {"start_from": "x"}}).run_id != checkpoints.run.run_id
