"""Saving beside training: what is written, when it counts, how large it is, how often; and what a file holds."""

import threading
import time

import pytest
import torch
from safetensors.torch import load_file

from hpc_accel.errors import DataError
from hpc_accel.train.attempt_log import Measured
from hpc_accel.train.checkpoint_directory import file_facts
from hpc_accel.train.interval import interval
from hpc_accel.train.slices import Slices
from hpc_accel.train.tensor_file import DTYPES, Slice, write_slices
from tests.train.alone import Weights, flip, loaded_step, save


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
    assert list(found.measured.rows) == rows
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
    assert list(found.measured.rows) == []
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
