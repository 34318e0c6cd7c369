"""Train runs in one launch, each with a fault planted or none: `mpirun -n N python many.py FAULT=RUN.json ...`."""

import os
import sys
from pathlib import Path

from hpc_accel.parallel import planted
from hpc_accel.train.main import run_training

if __name__ == "__main__":  # processes that load data import this file again
    for argument in sys.argv[1:]:
        fault, _, path = argument.partition("=")
        os.environ[planted.VARIABLE] = fault
        run_training(Path(path))
