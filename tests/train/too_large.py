"""`mpirun -n N python too_large.py RUN.json`: train where the serial run does not fit into memory."""

import sys
from pathlib import Path

import torch

from hpc_accel.train import parity
from hpc_accel.train.main import run_training


def full(*_, **__):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nSee the documentation.")


if __name__ == "__main__":
    parity.make_stepper = full
    run_training(Path(sys.argv[1]))
