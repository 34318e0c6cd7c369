"""`mpirun -n N python too_large.py RUN.json`: train shards where the serial run does not fit into memory."""

import gc
import sys
from pathlib import Path

import torch

from hpc_accel.train import loop, parity
from hpc_accel.train.main import run_training

make_room = parity.make_room


def held_bytes():
    """What trainable tensors take that anything still refers to."""
    found = [each for each in gc.get_objects() if isinstance(each, torch.Tensor) and each.requires_grad]
    own = [each.to_local() if hasattr(each, "to_local") else each for each in found]
    return sum(each.untyped_storage().nbytes() for each in own)


def make_room_and_look(*arguments):
    before = held_bytes()
    make_room(*arguments)
    assert held_bytes() == 0 < before


def full(*_, **__):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee the documentation.")


if __name__ == "__main__":
    loop.make_room = make_room_and_look
    parity.make_stepper = full
    run_training(Path(sys.argv[1]))
