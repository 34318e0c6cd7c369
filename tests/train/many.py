"""Train several run.json one after another on the same ranks: `mpirun -n N python many.py RUN.json ...`."""

import sys
from pathlib import Path

from hpc_accel.train.main import run_training

if __name__ == "__main__":  # processes that load data import this file again
    for path in sys.argv[1:]:
        run_training(Path(path))
