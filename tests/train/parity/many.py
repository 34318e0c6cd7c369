"""Train runs in one launch, each with a fault planted or none: `mpirun -n N python many.py FAULT=RUN.json ...`."""

import os
import subprocess
import sys
from pathlib import Path

from hpc_accel.parallel import planted
from hpc_accel.train.main import run_training

TIMEOUT_S = 200


def compute_references(paths):
    """Those of all runs in one process, which takes less time than one for each."""
    command = [sys.executable, "-c", "from hpc_accel.cli import main; main()", "reference", *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr


if __name__ == "__main__":  # processes that load data import this file again
    for argument in sys.argv[1:]:
        fault, _, path = argument.partition("=")
        os.environ[planted.VARIABLE] = fault
        run_training(Path(path))
