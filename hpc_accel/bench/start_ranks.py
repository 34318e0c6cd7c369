"""Ranks for a benchmark: those that a launcher has started, or new ones on this host."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from hpc_accel.errors import ConfigError
from hpc_accel.mpi.launch import SIZE_VARIABLES


def launched() -> bool:
    """Whether this process is one of several that a launcher started (or the only one that mpirun did)."""
    sizes = [(name, os.environ.get(name, "")) for name, _ in SIZE_VARIABLES]
    # A shell inside an allocation may be a Slurm step of one.
    return any(value.isdigit() and (int(value) > 1 or not name.startswith("SLURM")) for name, value in sizes)


def start_ranks(num_ranks: int, module: str, arguments: list[str]) -> int:
    """Run a module on so many ranks of this host; its exit code."""
    launcher = shutil.which("mpirun", path=str(Path(sys.executable).parent)) or shutil.which("mpirun")
    if launcher is None:
        raise ConfigError(
            "no mpirun beside this Python or on PATH", "the ranks are started by MPI's launcher",
            "load the site's MPI, or start this command under its launcher, for example with `srun -n 2`",
        )  # fmt: skip
    environment = dict(os.environ)
    version = subprocess.run([launcher, "--version"], capture_output=True, text=True, check=False).stdout
    place: list[str] = []
    if "Open MPI" in version or "OpenRTE" in version:
        place = ["--map-by", ":OVERSUBSCRIBE", "--bind-to", "none"]
        environment.setdefault("OMPI_MCA_btl", "self,sm")
        if os.geteuid() == 0:
            environment |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    command = [launcher, "-n", str(num_ranks), *place, sys.executable, "-m", "mpi4py", "-m", module, *arguments]
    return subprocess.run(command, env=environment, check=False).returncode
