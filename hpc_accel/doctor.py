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
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from hpc_accel.errors import HpcAccelError

TIMEOUT_S = 60
THROWAWAY = Path(".cluster/env")
"""What `make cluster` leaves in the checkout: the one line that makes a shell know its Slurm."""
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
    who: Literal["you", "an administrator", "nobody", ""] = ""
    """Who can close it."""

    def to_json(self) -> dict[str, str]:
        """For `--json`."""
        return asdict(self)


USED_WITH = "; a study computes on them with resources.gpus_per_node"


def examine(site: str | None = None) -> list[Finding]:
    """All findings, in the order a user would mend them. What starts processes is asked at the same time."""
    parts = [_torch, _mpi, _launcher, _sensors, _workflow, _slurm]
    with ThreadPoolExecutor(len(parts)) as pool:
        answers = list(pool.map(lambda part: list(part()), parts))
    findings = [_python(), *(finding for answer in answers for finding in answer)]
    if site is not None:
        findings += _site(site)
    return findings


def verdict(findings: list[Finding]) -> str:
    """One line: whether a study can start here, and what its report will lack."""
    broken = [finding.name for finding in findings if finding.status == "broken"]
    if broken:
        return f"not ready: {', '.join(dict.fromkeys(broken))} must work before a study can start"
    slurm = next((finding.status for finding in findings if finding.name == "slurm"), "gap")
    where = "on this cluster" if slurm == "ok" else "on this machine"
    lacks = [] if any(each.name == "energy" and each.status == "ok" for each in findings) else ["energy"]
    return f"ready: a study can start {where}" + (f"; its report will have no {', '.join(lacks)}" if lacks else "")


def show(findings: list[Finding]) -> None:
    """Print the findings, one a line, with what to do about those that are not ok, and the verdict last."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    marks = {"ok": "[green]ok[/]", "gap": "[yellow]gap[/]", "broken": "[red]broken[/]"}
    table = Table.grid(padding=(0, 2))
    for finding in findings:
        text = escape(finding.value)
        if finding.remedy:
            who = f" ({finding.who})" if finding.who else ""
            text += f"\n[dim]do{who}: {escape(finding.remedy)}[/]"
        table.add_row(marks[finding.status], f"[bold]{finding.name}[/]", text)
    console = Console(highlight=False)
    console.print(table)
    console.print(f"\n[bold]{escape(verdict(findings))}[/]")


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
        yield Finding(name="torch", status="broken", value=why, remedy="make env", who="you")
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
    yield Finding(name="devices", status=status, value=value, remedy=remedy, who="you" if remedy else "")


def _mpi() -> Iterator[Finding]:
    facts, why = _ask([sys.executable, "-c", ASK_MPI])
    if facts is None:
        remedy = "make env, or load the site's MPI module first"
        yield Finding(name="mpi", status="broken", value=why, remedy=remedy, who="you")
        return
    value = f"{facts['library']}; mpi4py {facts['version']}; thread level {facts['level']}"
    if facts["level"] == "multiple":
        yield Finding(name="mpi", status="ok", value=value)
    else:
        remedy = "communication cannot overlap computation; use an MPI built with MPI_THREAD_MULTIPLE"
        yield Finding(name="mpi", status="gap", value=value, remedy=remedy, who="an administrator")


def _launcher() -> Iterator[Finding]:
    path = shutil.which("mpirun") or shutil.which("mpirun", path=os.path.dirname(sys.executable))  # noqa: PTH120
    if path is None:
        remedy = "put the MPI that mpi4py was built for on PATH (source .venv/bin/activate has one)"
        yield Finding(name="launcher", status="broken", value="no mpirun on PATH", remedy=remedy, who="you")
        return
    environment = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"} if os.geteuid() == 0 else {}
    environment["PRTE_MCA_rmaps_default_mapping_policy"] = ":oversubscribe"
    arguments = ["env", *(f"{key}={value}" for key, value in environment.items())]
    facts, why = _ask([*arguments, path, "-n", "2", sys.executable, "-c", ASK_MPI])
    if facts is None:
        remedy = "run it by hand to see why"
        yield Finding(name="launcher", status="broken", value=f"{path}: {why}", remedy=remedy, who="you")
        return
    if facts["size"] != 2:
        remedy = "launcher and mpi4py belong to different MPI libraries: use the mpirun of the library above"
        value = f"{path} started 2 ranks of 1 each"
        yield Finding(name="launcher", status="broken", value=value, remedy=remedy, who="you")
        return
    yield Finding(name="launcher", status="ok", value=f"{path} started 2 ranks that see each other")


def _sensors() -> Iterator[Finding]:
    """Each sensor that is there; one finding for all where none is."""
    found, why = _ask([sys.executable, "-c", ASK_SENSORS])
    if found is None:
        yield Finding(name="energy", status="gap", value=why, remedy="energy stays empty in the report", who="nobody")
        return
    for sensor in found:
        if sensor["available"]:
            yield Finding(name="energy", status="ok", value=f"{sensor['name']}: {sensor['scope']}")
        elif sensor["is_present"]:
            value = f"{sensor['name']}: {sensor['reason']}"
            yield Finding(name="energy", status="gap", value=value, remedy=sensor["remedy"], who="an administrator")
    if not any(sensor["is_present"] for sensor in found):
        names = ", ".join(sorted({sensor["source"] for sensor in found}))
        value = f"no sensor here (looked for {names}): energy stays empty in the report"
        remedy = "virtual machines and many containers have no counters: run on a node, or use Slurm's accounting"
        yield Finding(name="energy", status="gap", value=value, remedy=remedy, who="you")


def _workflow() -> Iterator[Finding]:
    path = shutil.which("snakemake") or shutil.which("snakemake", path=os.path.dirname(sys.executable))  # noqa: PTH120
    if path is None:
        yield Finding(name="snakemake", status="broken", value="not found", remedy="make env", who="you")
    else:
        yield Finding(name="snakemake", status="ok", value=path)


def _slurm() -> Iterator[Finding]:
    if shutil.which("sbatch") is None:
        remedy = "fine on a laptop; on a cluster, log in to a submit node"
        value = "no sbatch on PATH: runs start on this machine"
        yield Finding(name="slurm", status="gap", value=value, remedy=remedy, who="you")
        return
    version = subprocess.run(["sbatch", "--version"], capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    nodes = subprocess.run(
        ["sinfo", "-h", "-o", "%P %D"], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    if nodes.returncode:
        said = nodes.stderr.strip().splitlines()[-1:] or ["no answer"]
        value = f"Slurm's commands are here, no cluster: {said[0]}"
        if THROWAWAY.is_file() and "SLURM_CONF" not in os.environ:
            remedy = f"`make cluster` started one here; this shell does not know it: source {THROWAWAY}"
            yield Finding(name="slurm", status="gap", value=value, remedy=remedy, who="you")
            return
        remedy = "runs start on this machine; on a cluster, ask why sinfo does not answer"
        yield Finding(name="slurm", status="gap", value=value, remedy=remedy, who="an administrator")
        return
    partitions = ", ".join(line.replace(" ", " x ") for line in nodes.stdout.splitlines() if line)
    yield Finding(name="slurm", status="ok", value=f"{version.stdout.strip()}; partitions x nodes: {partitions}")
    accounting = subprocess.run(["sacct", "-n", "-X"], capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    if accounting.returncode:
        remedy = "job states come from squeue alone, and no energy from accounting"
        value = "sacct does not answer"
        yield Finding(name="accounting", status="gap", value=value, remedy=remedy, who="an administrator")


def _site(name: str) -> Iterator[Finding]:
    from hpc_accel.jobs.compare_site import compare_site
    from hpc_accel.jobs.site import load_site

    try:
        site = load_site(name)
        differences = compare_site(site)
    except HpcAccelError as error:
        yield Finding(name="site", status="broken", value=error.value, remedy=error.remedy, who="you")
        return
    for difference in differences:
        status: Literal["gap", "broken"] = "broken" if difference.fatal else "gap"
        value = f"{difference.value}; {difference.rule}"
        yield Finding(name="site", status=status, value=value, remedy=difference.remedy, who="you")
    if not differences:
        yield Finding(name="site", status="ok", value=f"{name} fits what sinfo says")
