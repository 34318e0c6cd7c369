"""Start real MPI ranks from a test: `mpirun(2, "tests/mpi/cases.py")`, under a hard timeout, leaving nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# Containers run as root and have fewer cores than ranks; neither is an error in a test.
ENVIRONMENT = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "OMPI_MCA_btl": "self,sm",  # one host; looking for fabrics costs a second of every start
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT),
}


def mpirun(
    n: int, script_or_args: str | Path | Sequence[str | Path], timeout_s: float, *, guard: bool = True, **env: str
) -> subprocess.CompletedProcess[str]:
    """Run a script (or `-m module ...`, `-c code`) on `n` ranks and return its output; never raises for its exit code.

    `guard` starts Python with `-m mpi4py`, by which one failing rank ends the job. At `timeout_s` the whole process
    group is killed and the return code is 124.
    """
    args = [script_or_args] if isinstance(script_or_args, str | Path) else list(script_or_args)
    launcher = Path(sys.executable).with_name("mpirun")
    python = [sys.executable, "-m", "mpi4py"] if guard else [sys.executable]
    command = [str(launcher), "-n", str(n), *python, *map(str, args)]
    environment = {**os.environ, **ENVIRONMENT, **env}
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=timeout_s)
        code = process.returncode
    except subprocess.TimeoutExpired:
        # mpirun ends its ranks when it is asked to; what does not end is killed.
        process.terminate()
        try:
            output, _ = process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
        output += f"\n[tests/mpirun.py: killed after {timeout_s} s]"
        code = 124
    return subprocess.CompletedProcess(command, code, output, "")


def check(result: subprocess.CompletedProcess[str]) -> str:
    """The output of a run that must have succeeded."""
    assert result.returncode == 0, f"exit {result.returncode} of {' '.join(result.args)}\n{result.stdout[-6000:]}"
    return result.stdout
