"""The mpi4py backend beside gloo: the same calls and steps in the same processes, interleaved, as ratios.

    hpc-accel bench backend [--json FILE] [--only all_reduce,ddp_mlp]      # starts two ranks here
    mpirun -n 4 python -m mpi4py -m hpc_accel.bench.backend                # or under any launcher

Both groups live side by side and take turns, repetition by repetition, so that a noisy machine disturbs both alike.
A figure is the median over repetitions of the slowest rank's time; a ratio above 1 means mpi4py is faster. A turn of
all-reduces is twenty calls up to 4 MiB and three above; `cold` is the ratio of turns of one call, after another way.
`none` is the step with no communication at all, `silent` one whose messages are left out, `bare` a mpi4py call on a
NumPy buffer. On slow links --max-mib and --budget-s make it shorter: fewer sizes, fewer repetitions (three at least).
Between nodes, `of wire` is the time over the least that their links allow, and `bytes` what a node sent
over what it must: far from 1, messages went another way than over the links that were measured. Sizes and models are
fixed, so that results compare; the figures of --quick mean nothing.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

import hpc_accel.mpi
from hpc_accel.bench import wire
from hpc_accel.bench.result_file import versions, write
from hpc_accel.bench.start_ranks import launched, start_ranks
from hpc_accel.bench.steps import KIB, MIB, MODELS, REPETITIONS, all_reduce, ddp, fsdp2, pipeline_1f1b
from hpc_accel.errors import ConfigError
from hpc_accel.mpi.facts import facts
from hpc_accel.mpi.launch import mpi


def line(entry: dict[str, Any]) -> str:
    """One row of the table."""
    size = f" {entry['num_bytes'] // KIB} KiB" if "num_bytes" in entry else ""
    times = "  ".join(f"{name} {1e6 * value:9.0f} us" for name, value in entry["times_s"].items())
    wanted = f" (wanted {entry['required']}x)" if entry["required"] else ""
    extra = ""
    if "ratio_bare" in entry:
        extra = f"  of bare {entry['ratio_bare']:.2f}  cold {entry['ratio_gloo_cold']:.1f}x"
    if "ratio_wire" in entry:
        extra += f"  of wire {entry['ratio_wire']:.2f}  bytes {entry['ratio_bytes']:.2f}"
    if entry.get("over_no_communication"):
        extra = f"  over none {entry['over_no_communication']:.2f}"
    if entry.get("ratio_bound"):
        extra += f"  at most {entry['ratio_bound']:.2f}x"
    return f"{entry['name'] + size:24} {times}  gloo/mpi4py {entry['ratio_gloo']:5.2f}x{wanted}{extra}"


def run(only: list[str], json_path: Path | None, quick: bool, max_mib: int, budget_s: float) -> None:
    """Measure, print the table on rank 0 and write the figures. All ranks call this."""
    torch.set_num_threads(1)
    place = hpc_accel.mpi.init()
    if place.num_nodes == 1:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # fair to gloo: a wrong interface costs it a factor of 100
    groups = {"mpi4py": dist.group.WORLD, "gloo": dist.new_group(list(range(place.size)), backend="gloo")}
    steps = {**dict.fromkeys(MODELS, ddp), "pipeline_1f1b": pipeline_1f1b, "fsdp2": fsdp2}
    link = wire.measure(place, mpi().COMM_WORLD)
    entries: list[dict[str, Any]] = []
    for name in only or ["all_reduce", *steps]:
        if name == "all_reduce":
            rows = all_reduce(groups, quick, link, max_mib * MIB, budget_s)
        else:
            rows = iter([steps[name](name, groups, 1 if quick else REPETITIONS[name])])
        for entry in rows:
            entries.append(entry)
            if place.rank == 0:
                sys.stdout.write(line(entry) + "\n")
                sys.stdout.flush()
    if place.rank == 0 and json_path:
        rate = {} if link is None else {"link_mbit_per_s": 8e-6 * link.bytes_per_s}
        chosen = facts().all_reduce_between_nodes
        nodes = {"num_nodes": place.num_nodes, "hosts": place.hosts, "all_reduce_between_nodes": chosen}
        write(json_path, {"quick": quick, "versions": versions(), **nodes, **rate, "entries": entries})
    hpc_accel.mpi.shutdown()


def bench_backend(only: str, json_path: Path | None, num_ranks: int, quick: bool, max_mib: int, budget_s: float) -> int:
    """The comparison on the ranks that are here, or on `num_ranks` new ones; the exit code."""
    names = [name for name in only.split(",") if name]
    known = ["all_reduce", *REPETITIONS]
    for name in names:
        if name not in known:
            raise ConfigError(f"--only {name}", f"known are {', '.join(known)}", "correct the name")
    if launched():
        run(names, json_path, quick, max_mib, budget_s)
        return 0
    arguments = ["--only", only] if only else []
    arguments += ["--json", str(json_path.resolve())] if json_path else []
    arguments += ["--max-mib", str(max_mib), "--budget-s", str(budget_s), *(["--quick"] if quick else [])]
    return start_ranks(num_ranks, "hpc_accel.bench.backend", arguments)


def main() -> None:
    """The command line of one rank."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--only", default="", help="comma-separated names")
    parser.add_argument("--quick", action="store_true", help="one or two repetitions of each, small messages")
    parser.add_argument("--max-mib", type=int, default=128, help="the largest all-reduce")
    parser.add_argument("--budget-s", type=float, default=30.0, help="seconds for a size of all-reduce, twice")
    options = parser.parse_args()
    names = [name for name in options.only.split(",") if name]
    run(names, options.json, options.quick, options.max_mib, options.budget_s)


if __name__ == "__main__":
    main()
