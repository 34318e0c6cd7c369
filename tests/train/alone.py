"""Checkpoints of a run of one rank without MPI, for what their files must look like."""

import os

import pytest
import torch

from hpc_accel.parallel.mesh import RankCoordinates
from hpc_accel.study.run import Run
from hpc_accel.train.attempt_log import Measured
from hpc_accel.train.checkpoint import Checkpoints
from hpc_accel.train.tensor_file import Slice
from tests.train.test_layouts import write_runs


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
