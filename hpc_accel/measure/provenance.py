"""Where a figure comes from: versions, host, processor, GPUs (gpu_facts.py), commit, MPI library, container.

Nothing heavy is imported to find a version out: package metadata are read, and MPI library and torch are asked only
when they are already loaded (asking would otherwise initialise MPI).
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from hpc_accel.measure import gpu_facts

PACKAGES = {"hpc_accel": "hpc-accel"} | {
    name: name for name in ("torch", "mpi4py", "numpy", "zeus", "triton", "transformers", "torchvision", "monai")
}
ENVIRONMENT = (
    "OMP_NUM_THREADS",
    "CUDA_VISIBLE_DEVICES",
    "CUDA_DEVICE_ORDER",
    "CUDA_LAUNCH_BLOCKING",
    "NVIDIA_TF32_OVERRIDE",
    "PYTORCH_CUDA_ALLOC_CONF",
    "SLURM_JOB_ID",
    "SLURM_JOB_PARTITION",
    "SLURM_CLUSTER_NAME",
    "SLURM_CPU_FREQ_REQ",
)
"""Environment variables that change a measurement and give nothing private away."""
PREFIXES = ("NCCL_", "UCX_")
"""Their libraries have some hundred settings each, which all change how data travel."""
PRIVATE = ("AUTH", "CREDENTIAL", "KEY", "PASS", "SECRET", "TOKEN")
"""Words in the names of variables whose values belong in no record."""
_GIT_TIMEOUT_S = 5


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def cpu_model() -> str:
    """Processor name as the kernel gives it; the architecture where it gives none (Arm)."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def git_commit(directory: Path | None = None) -> str | None:
    """Commit of the source tree, with `+changes` when tracked files differ; None for an installed wheel."""
    where = directory or Path(__file__).resolve().parents[2]
    if not (where / ".git").exists():
        return None
    try:
        commit = _git(where, "rev-parse", "HEAD")
        changed = _git(where, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+changes" if changed else "")


def _git(where: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(where), *arguments],
        capture_output=True,
        text=True,
        timeout=_GIT_TIMEOUT_S,
        check=True,
    )
    return done.stdout.strip()


def mpi_library() -> str | None:
    """First line of the MPI library's own description; None while MPI is not loaded."""
    mpi = sys.modules.get("mpi4py.MPI")
    if mpi is None:
        return None
    text = str(mpi.Get_library_version())
    return text.partition("\n")[0].partition(",")[0].strip("\x00 ")


def container() -> str | None:
    """Name of the container runtime, where it leaves a trace; None on bare metal and in a plain VM."""
    for variable, name in (("APPTAINER_CONTAINER", "apptainer"), ("SINGULARITY_CONTAINER", "singularity")):
        if os.environ.get(variable):
            return name
    if Path("/run/.containerenv").exists():
        return "podman"
    if Path("/.dockerenv").exists():
        return "docker"
    return None


def collect() -> dict[str, Any]:
    """Facts of this process and host, ready for JSON; what is unknown is None."""
    facts: dict[str, Any] = {name: _version(package) for name, package in PACKAGES.items()}
    facts.update(
        python=platform.python_version(),
        mpi_library=mpi_library(),
        cpu=cpu_model(),
        num_cpus=os.cpu_count(),
        host=platform.node(),
        kernel=platform.release(),
        container=container(),
        git=git_commit(),
        environment=environment(),
        **gpu_facts.collect(),
    )
    return facts


def environment() -> dict[str, str]:
    """Those variables that are set, never one whose name says that it is private."""
    names = [*ENVIRONMENT, *sorted(name for name in os.environ if name.startswith(PREFIXES))]
    return {name: os.environ[name] for name in names if name in os.environ and not any(w in name for w in PRIVATE)}


def hosts(comm: Any) -> list[str]:
    """Host names of all nodes in the order of their first rank; all ranks take part, only node leaders are asked."""
    from mpi4py import MPI

    node = comm.Split_type(MPI.COMM_TYPE_SHARED, comm.Get_rank())
    leaders = comm.Split(0 if node.Get_rank() == 0 else MPI.UNDEFINED, comm.Get_rank())
    names: list[str] | None = None
    if leaders != MPI.COMM_NULL:
        names = leaders.gather(platform.node(), root=0)
        leaders.Free()
    node.Free()
    return list(comm.bcast(names, root=0))
