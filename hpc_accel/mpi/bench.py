"""The mpi4py backend beside gloo: the same calls and steps in the same processes, interleaved, as ratios.

    hpc-accel bench backend [--json FILE] [--only all_reduce,ddp_mlp]      # starts two ranks here
    mpirun -n 4 python -m mpi4py -m hpc_accel.mpi.bench                    # or under any launcher

Both groups live side by side and take turns, repetition by repetition, so that a noisy machine disturbs both alike.
A figure is the median over repetitions of the slowest rank's time; a ratio above 1 means mpi4py is faster. A turn of
all-reduces is twenty calls up to 4 MiB and three above; `cold` is the ratio of turns of one call, after another way.
`none` is the step with no communication at all, `silent` one whose messages are left out, `bare` a mpi4py call on a
NumPy buffer. Sizes and models are fixed, so that results compare; the figures of --quick mean nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # fair to gloo: a wrong interface costs it a factor of 100

import mpi4py
import torch
import torch.distributed as dist

import hpc_accel.mpi
from hpc_accel.errors import ConfigError
from hpc_accel.mpi.bench_steps import KIB, MODELS, REPETITIONS, all_reduce, ddp, fsdp2, pipeline_1f1b
from hpc_accel.mpi.launch import SIZE_VARIABLES, mpi


def line(entry: dict[str, Any]) -> str:
    """One row of the table."""
    size = f" {entry['num_bytes'] // KIB} KiB" if "num_bytes" in entry else ""
    times = "  ".join(f"{name} {1e6 * value:9.0f} us" for name, value in entry["times_s"].items())
    wanted = f" (wanted {entry['required']}x)" if entry["required"] else ""
    extra = ""
    if "ratio_bare" in entry:
        extra = f"  of bare {entry['ratio_bare']:.2f}  cold {entry['ratio_gloo_cold']:.1f}x"
    if entry.get("over_no_communication"):
        extra = f"  over none {entry['over_no_communication']:.2f}"
    if entry.get("ratio_bound"):
        extra += f"  at most {entry['ratio_bound']:.2f}x"
    return f"{entry['name'] + size:24} {times}  gloo/mpi4py {entry['ratio_gloo']:5.2f}x{wanted}{extra}"


def versions() -> dict[str, Any]:
    place = hpc_accel.mpi.world()
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "unknown")
    return {
        "torch": torch.__version__,
        "mpi4py": mpi4py.__version__,
        "mpi_library": mpi().Get_library_version().splitlines()[0][:80],
        "python": platform.python_version(),
        "cpu": model,
        "num_cpus": os.cpu_count(),
        "num_ranks": place.size,
        "torch_threads": torch.get_num_threads(),
    }


def run(only: list[str], json_path: Path | None, quick: bool) -> None:
    """Measure, print the table on rank 0 and write the figures. All ranks call this."""
    torch.set_num_threads(1)
    place = hpc_accel.mpi.init()
    groups = {"mpi4py": dist.group.WORLD, "gloo": dist.new_group(list(range(place.size)), backend="gloo")}
    steps = {**dict.fromkeys(MODELS, ddp), "pipeline_1f1b": pipeline_1f1b, "fsdp2": fsdp2}
    entries: list[dict[str, Any]] = []
    for name in only or ["all_reduce", *steps]:
        if name == "all_reduce":
            rows = all_reduce(groups, quick)
        else:
            rows = [steps[name](name, groups, 1 if quick else REPETITIONS[name])]
        entries += rows
        if place.rank == 0:
            sys.stdout.writelines(line(entry) + "\n" for entry in rows)
            sys.stdout.flush()
    if place.rank == 0 and json_path:
        write(json_path, {"quick": quick, "versions": versions(), "entries": entries})
    hpc_accel.mpi.shutdown()


def write(path: Path, content: dict[str, Any]) -> None:
    """The figures, with when and under what load they were measured."""
    when = {"created_utc": datetime.now(UTC).isoformat(timespec="seconds"), "load_average_1min": os.getloadavg()[0]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"format": 1, **when, **content}, indent=1) + "\n")


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
    told = subprocess.run([launcher, "--version"], capture_output=True, text=True, check=False).stdout
    place: list[str] = []
    if "Open MPI" in told or "OpenRTE" in told:
        place = ["--map-by", ":OVERSUBSCRIBE", "--bind-to", "none"]
        environment.setdefault("OMPI_MCA_btl", "self,sm")
        if os.geteuid() == 0:
            environment |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    command = [launcher, "-n", str(num_ranks), *place, sys.executable, "-m", "mpi4py", "-m", module, *arguments]
    return subprocess.run(command, env=environment, check=False).returncode


def bench_backend(only: str, json_path: Path | None, num_ranks: int, quick: bool) -> int:
    """The comparison on the ranks that are here, or on `num_ranks` new ones; the exit code."""
    names = [name for name in only.split(",") if name]
    known = ["all_reduce", *REPETITIONS]
    for name in names:
        if name not in known:
            raise ConfigError(f"--only {name}", f"known are {', '.join(known)}", "correct the name")
    if launched():
        run(names, json_path, quick)
        return 0
    arguments = ["--only", only] if only else []
    arguments += ["--json", str(json_path.resolve())] if json_path else []
    return start_ranks(num_ranks, "hpc_accel.mpi.bench", [*arguments, *(["--quick"] if quick else [])])


def main() -> None:
    """The command line of one rank."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--only", default="", help="comma-separated names")
    parser.add_argument("--quick", action="store_true", help="one or two repetitions of each, small messages")
    options = parser.parse_args()
    run([name for name in options.only.split(",") if name], options.json, options.quick)


if __name__ == "__main__":
    main()
