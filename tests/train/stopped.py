"""`mpirun -n N python stopped.py RUN.json ...`: train each until a warning at step 7, after which it is saved."""

import os
import sys
from pathlib import Path

from hpc_accel.runtime import stop
from hpc_accel.train.main import run_training

stop.CHECK_EVERY_S = 0.0  # after every step, however quick it is here
os.environ["HPC_ACCEL_FAULT"] = "usr1@0:7"

for path in map(Path, sys.argv[1:]):
    try:
        run_training(path)
        raise AssertionError("not stopped")
    except SystemExit as left:
        assert left.code == 75
