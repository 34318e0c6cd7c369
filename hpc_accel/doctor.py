"""`hpc-accel doctor`: what this machine has for a study, and what to do about each gap.

Everything that might hang or abort (MPI start-up, the launcher, Slurm's commands) runs in a child process with
a time limit.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

from hpc_accel.errors import HpcAccelError

TIMEOUT_S = 60
ASK_MPI = """
import json
from mpi4py import MPI
import mpi4py
levels = {MPI.THREAD_SINGLE: "single", MPI.THREAD_FUNNELED: "funneled",
          MPI.THREAD_SERIALIZED: "serialized", MPI.THREAD_MULTIPLE: "multiple"}
comm = MPI.COMM_WORLD
if comm.rank == 0:
    library = MPI.Get_library_version().split(chr(10))[0].strip(chr(0))
    print(json.dumps({"size": comm.size, "library": library, "version": mpi4py.__version__,
                      "level": levels[MPI.Query_thread()]}))
"""
ASK_TORCH = """
import json, torch
count = torch.cuda.device_count() if torch.cuda.is_available() else 0
print(json.dumps({"version": torch.__version__, "built_for": torch.version.cuda or torch.version.hip,
                  "devices": [torch.cuda.get_device_name(i) for i in range(count)]}))
"""
ASK_SENSORS = """
import json
from mpi4py import MPI
from hpc_accel.measure.energy.meter import EnergyMeter
print(json.dumps(EnergyMeter(MPI.COMM_SELF).describe()))
"""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One fact. `ok` needs nothing, `gap` limits what can be measured, `broken` stops runs."""

    name: str
    status: Literal["ok", "gap", "broken"]
    value: str
    remedy: str = ""

    def to_json(self) -> dict[str, str]:
        """For `--json`."""
        return asdict(self)


USED_WITH = "; a study computes on them with resources.gpus_per_node"


def examine(site: str | None = None) -> list[Finding]:
    """All findings, in the order a user would mend them."""
    findings = [_python(), *_torch(), *_mpi(), *_sensors(), *_workflow(), *_slurm()]
    if site is not None:
        findings += _site(site)
    return findings


def show(findings: list[Finding]) -> None:
    """Print the findings, one a line, with the remedies of those that are not ok."""
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False)
    marks = {"ok": "[green]ok    [/]", "gap": "[yellow]gap   [/]", "broken": "[red]broken[/]"}
    for finding in findings:
        console.print(f"{marks[finding.status]}  [bold]{finding.name:<12}[/] {escape(finding.value)}")
        if finding.remedy:
            console.print(f"{'':22}[dim]do:[/] {escape(finding.remedy)}")


def _ask(arguments: list[str]) -> tuple[Any, str]:
    """The last line of a child's output as JSON, or None and why not."""
    try:
        done = subprocess.run(
            arguments, capture_output=True, text=True, timeout=TIMEOUT_S, check=False, stdin=subprocess.DEVNULL
        )
    except FileNotFoundError:
        return None, f"{arguments[0]} not found"
    except subprocess.TimeoutExpired:
        return None, f"no answer within {TIMEOUT_S} s"
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        said = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()
        return None, f"exit code {done.returncode}: {said[-1]}"
    try:
        return json.loads(lines[-1]), ""
    except json.JSONDecodeError:
        return None, f"unexpected output: {lines[-1]}"


def _python() -> Finding:
    return Finding(name="python", status="ok", value=f"{sys.version.split()[0]} in {sys.prefix}")


def _torch() -> Iterator[Finding]:
    facts, why = _ask([sys.executable, "-c", ASK_TORCH])
    if facts is None:
        yield Finding(name="torch", status="broken", value=why, remedy="make env")
        return
    yield Finding(name="torch", status="ok", value=f"{facts['version']}, built for {facts['built_for'] or 'CPU'}")
    if facts["devices"]:
        yield Finding(name="devices", status="ok", value=", ".join(facts["devices"]) + USED_WITH)
        return
    cores = len(os.sched_getaffinity(0))
    has_driver = shutil.which("nvidia-smi") is not None
    remedy = "make env ACCEL=cuda installs torch for NVIDIA GPUs" if has_driver else ""
    status: Literal["ok", "gap"] = "gap" if has_driver else "ok"
    value = f"CPU only, {cores} core(s)" + ("; an NVIDIA driver is here, but torch sees no GPU" if has_driver else "")
    yield Finding(name="devices", status=status, value=value, remedy=remedy)


def _mpi() -> Iterator[Finding]:
    facts, why = _ask([sys.executable, "-c", ASK_MPI])
    if facts is None:
        yield Finding(name="mpi", status="broken", value=why, remedy="make env, or load the site's MPI module first")
        return
    value = f"{facts['library']}; mpi4py {facts['version']}; thread level {facts['level']}"
    if facts["level"] == "multiple":
        yield Finding(name="mpi", status="ok", value=value)
    else:
        remedy = "communication cannot overlap computation; use an MPI built with MPI_THREAD_MULTIPLE"
        yield Finding(name="mpi", status="gap", value=value, remedy=remedy)
    yield _launcher()


def _launcher() -> Finding:
    path = shutil.which("mpirun") or shutil.which("mpirun", path=os.path.dirname(sys.executable))  # noqa: PTH120
    if path is None:
        remedy = "put the MPI that mpi4py was built for on PATH (source .venv/bin/activate has one)"
        return Finding(name="launcher", status="broken", value="no mpirun on PATH", remedy=remedy)
    environment = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"} if os.geteuid() == 0 else {}
    environment["PRTE_MCA_rmaps_default_mapping_policy"] = ":oversubscribe"
    arguments = ["env", *(f"{key}={value}" for key, value in environment.items())]
    facts, why = _ask([*arguments, path, "-n", "2", sys.executable, "-c", ASK_MPI])
    if facts is None:
        return Finding(name="launcher", status="broken", value=f"{path}: {why}", remedy="run it by hand to see why")
    if facts["size"] != 2:
        remedy = "launcher and mpi4py belong to different MPI libraries: use the mpirun of the library above"
        return Finding(name="launcher", status="broken", value=f"{path} started 2 ranks of 1 each", remedy=remedy)
    return Finding(name="launcher", status="ok", value=f"{path} started 2 ranks that see each other")


def _sensors() -> Iterator[Finding]:
    found, why = _ask([sys.executable, "-c", ASK_SENSORS])
    if found is None:
        yield Finding(name="energy", status="gap", value=why, remedy="energy stays empty in the report")
        return
    for sensor in found:
        value = f"{sensor['name']}: {sensor['scope'] if sensor['available'] else sensor['reason']}"
        status: Literal["ok", "gap"] = "ok" if sensor["available"] else "gap"
        yield Finding(name="energy", status=status, value=value, remedy="" if status == "ok" else sensor["remedy"])


def _workflow() -> Iterator[Finding]:
    path = shutil.which("snakemake") or shutil.which("snakemake", path=os.path.dirname(sys.executable))  # noqa: PTH120
    if path is None:
        yield Finding(name="snakemake", status="broken", value="not found", remedy="make env")
    else:
        yield Finding(name="snakemake", status="ok", value=path)


def _slurm() -> Iterator[Finding]:
    if shutil.which("sbatch") is None:
        remedy = "fine on a laptop; on a cluster, log in to a submit node"
        yield Finding(name="slurm", status="gap", value="no sbatch on PATH: runs start on this machine", remedy=remedy)
        return
    version = subprocess.run(["sbatch", "--version"], capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    nodes = subprocess.run(
        ["sinfo", "-h", "-o", "%P %D"], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    if nodes.returncode:
        said = nodes.stderr.strip().splitlines()[-1:] or ["no answer"]
        remedy = "runs start on this machine; on a cluster, ask the site's support why sinfo does not answer"
        yield Finding(
            name="slurm", status="gap", value=f"Slurm's commands are here, no cluster: {said[0]}", remedy=remedy
        )
        return
    partitions = ", ".join(line.replace(" ", " x ") for line in nodes.stdout.split("\n") if line)
    yield Finding(name="slurm", status="ok", value=f"{version.stdout.strip()}; partitions x nodes: {partitions}")
    accounting = subprocess.run(["sacct", "-n", "-X"], capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    if accounting.returncode:
        remedy = "job states come from squeue alone, and no energy from accounting"
        yield Finding(name="accounting", status="gap", value="sacct does not answer", remedy=remedy)


def _site(name: str) -> Iterator[Finding]:
    from hpc_accel.jobs.compare_site import compare_site
    from hpc_accel.jobs.site import load_site

    try:
        site = load_site(name)
        differences = compare_site(site)
    except HpcAccelError as error:
        yield Finding(name="site", status="broken", value=error.value, remedy=error.remedy)
        return
    for difference in differences:
        status: Literal["gap", "broken"] = "broken" if difference.fatal else "gap"
        yield Finding(name="site", status=status, value=difference.value, remedy=difference.remedy)
    if not differences:
        yield Finding(name="site", status="ok", value=f"{name} fits what sinfo says")
