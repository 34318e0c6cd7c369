"""`mpirun -n 2 python resume.py RUN.json ...`: train each whole, then a copy of it with a warning at step 7."""

import os
import shutil
import sys
from pathlib import Path

from mpi4py import MPI

from hpc_accel.runtime import stop
from hpc_accel.train.main import run_training

stop.CHECK_EVERY_S = 0.0  # after every step, however quick it is here

for path in map(Path, sys.argv[1:]):
    os.environ.pop("HPC_ACCEL_FAULT", None)
    run_training(path)
    broken = path.parent.with_name(path.parent.name + "-broken") / "run.json"
    if MPI.COMM_WORLD.rank == 0:
        broken.parent.mkdir()
        shutil.copy(path, broken)
    MPI.COMM_WORLD.Barrier()
    # Rank 1 alone gets the signal: both have to save the same step.
    os.environ["HPC_ACCEL_FAULT"] = "usr1@1:7"
    try:
        run_training(broken)
        raise AssertionError("not stopped")
    except SystemExit as left:
        assert left.code == 75
    del os.environ["HPC_ACCEL_FAULT"]
    run_training(broken)
