"""Serve several run.json one after another on the same ranks.

With `--warn` rank 1 is told to stop after a part; with `--no-room` the serial model does not fit into memory.
"""

import os
import signal
import sys
from pathlib import Path

import torch

from hpc_accel.infer import compare_with_serial
from hpc_accel.infer.main import run_inference


def warn(done, total):
    if done == 1 and os.environ.get("OMPI_COMM_WORLD_RANK", os.environ.get("PMI_RANK")) == "1":
        os.kill(os.getpid(), signal.SIGUSR1)


def no_room(*args, **options):
    raise torch.OutOfMemoryError("CUDA out of memory.")


paths = [Path(each) for each in sys.argv[1:] if not each.startswith("--")]
if "--no-room" in sys.argv:
    compare_with_serial.serial_answers = no_room
for path in paths:
    if "--warn" in sys.argv:
        run_inference(path, warn)
    else:
        run_inference(path)
