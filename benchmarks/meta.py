"""A model larger than a rank, trained for one step: what each rank holds, beside its share of the model.

    python benchmarks/meta.py                 lm of 1.5 billion parameters on 4 ranks, as pp 4 and as shard full
    python benchmarks/meta.py --size 124M     a smaller one of the same kind

The model is built with `meta: true`, each rank makes its part, and all take one step of plain SGD in fp32. Peaks are
the kernel's (VmHWM of each rank), counted from the start of the process; beside them stands the highest sum of the
ranks' proportional set sizes (PSS), in which a page that ranks share counts once, looked at every fifth of a second.
Ranks that hold more than 16 GiB together are ended, and the result says so.
The baseline is the same rank with a model of 0.2 million parameters.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
NUM_RANKS = 4
LAYOUTS: dict[str, dict[str, Any]] = {
    "pp 4": {"pp": NUM_RANKS, "accumulation_steps": NUM_RANKS},
    "shard full 4": {"dp": NUM_RANKS, "shard": "full"},
}
SEQUENCE = 16
LIMIT_S = 900
LOOK_EVERY_S = 0.2
MOST_BYTES = 16 << 30


def write_run(directory: Path, size: str, layout: dict[str, Any]) -> Path:
    """The run.json of one layout."""
    from hpc_accel.study.expand import listed_runs, resolve_workload
    from hpc_accel.study.study_file import Study
    from hpc_accel.workloads.facts_without_weights import facts_of

    study = Study.model_validate(
        {
            "name": "meta",
            "workload": {
                "name": "lm",
                "args": {"size": size, "sequence": SEQUENCE},
                "global_batch_size": NUM_RANKS,
                "optimizer": {"name": "sgd", "learning_rate": 0.01},
                "meta": True,
            },
            "layouts": [layout],
            "resources": {"ranks_per_node": NUM_RANKS},
            "device": "cpu",
        }
    )
    facts = facts_of(resolve_workload(study.workloads[0]), study.seed)
    (run,) = listed_runs(study, study.workloads[0], facts)
    path = directory / f"{run.run_id}.json"
    path.write_text(run.model_dump_json())
    return path


def rank(path: Path) -> None:
    """One rank: build, one step; rank 0 prints what all of them held."""
    from hpc_accel.parallel.mesh import rank_coordinates
    from hpc_accel.runtime.make_stepper import make_stepper
    from hpc_accel.runtime.stage_sizes import stage_sizes
    from hpc_accel.runtime.start_ranks import start_ranks
    from hpc_accel.study.run import Run
    from hpc_accel.workloads import entry

    run = Run.model_validate_json(path.read_text())
    launch = start_ranks(run, path.parent)
    began = time.perf_counter()
    place = rank_coordinates(run.layout, launch.rank, "cpu")
    workload = entry.build_deferred(run.workload, run.seed)
    whole = sum(each.numel() for each in workload.model.parameters())
    split = stage_sizes(run, workload, launch.device, launch.comm)
    stepper = make_stepper(run, workload, place, launch.device, recipe=run.recipe, split=split)
    built_bytes, built_s = peak_bytes(), time.perf_counter() - began
    held = {id(each): local_bytes(each) for each in stepper.model.parameters}
    loss = stepper.step().result().loss
    stepper.settle()
    mine = {
        "rank": launch.rank,
        "weights_bytes": sum(held.values()),
        "peak_when_built_bytes": built_bytes,
        "peak_bytes": peak_bytes(),
        "build_s": round(built_s, 1),
        "build_and_step_s": round(time.perf_counter() - began, 1),
        "loss": loss,
    }
    ranks = launch.comm.gather(mine, root=0)
    if ranks is not None:
        print(json.dumps({"run_id": run.run_id, "num_parameters": whole, "ranks": ranks}), flush=True)


def local_bytes(parameter: Any) -> int:
    """Bytes that this rank holds of a parameter."""
    own = parameter.to_local() if hasattr(parameter, "to_local") else parameter
    return int(own.numel() * own.element_size())


def peak_bytes() -> int:
    """The largest resident set that this process has had."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) * 1024


def pss_bytes(script: str) -> int:
    """The proportional set sizes of all ranks at present, added up."""
    total = 0
    for directory in Path("/proc").glob("[0-9]*"):
        try:
            if script in (directory / "cmdline").read_text() and "--rank" in (directory / "cmdline").read_text():
                lines = (directory / "smaps_rollup").read_text().splitlines()
                total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
        except (OSError, IndexError):  # it ended meanwhile
            continue
    return total


def launched(path: Path) -> dict[str, Any]:
    """What the ranks of one run told, and the highest sum of what they held at one time."""
    launcher = Path(sys.executable).with_name("mpirun")
    command = [str(launcher), "-n", str(NUM_RANKS), sys.executable, "-m", "mpi4py", __file__, "--rank", str(path)]
    allowed = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "OMP_NUM_THREADS": "1"}
    allowed["PRTE_MCA_rmaps_default_mapping_policy"] = ":oversubscribe"
    with subprocess.Popen(command, env={**os.environ, **allowed}, stdout=subprocess.PIPE, text=True) as process:
        end_s, most = time.monotonic() + LIMIT_S, 0
        while process.poll() is None:
            most = max(most, pss_bytes(str(path)))
            if time.monotonic() > end_s or most > MOST_BYTES:
                process.terminate()
                process.wait()
            time.sleep(LOOK_EVERY_S)
        assert process.stdout is not None
        output = process.stdout.read()
    if most > MOST_BYTES:
        return {"ended": "the ranks held more than 16 GiB together", "highest_sum_of_pss_bytes": most, "ranks": []}
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit {process.returncode}\n{output}")
    lines = [line for line in output.splitlines() if line.startswith("{")]
    found: dict[str, Any] = json.loads(lines[-1])
    return {**found, "highest_sum_of_pss_bytes": most}


def compared(found: dict[str, Any], baseline: dict[str, Any]) -> dict[str, Any]:
    """Each rank's peak over the baseline's, beside its share: weights when built, gradients too after a step."""
    for own, without in zip(found["ranks"], baseline["ranks"], strict=False):
        share = own["weights_bytes"]
        own["built_over_share"] = (own["peak_when_built_bytes"] - without["peak_when_built_bytes"]) / share
        own["stepped_over_share"] = (own["peak_bytes"] - without["peak_bytes"]) / (2 * share)
    found["sum_of_peaks_bytes"] = sum(own["peak_bytes"] for own in found["ranks"])
    found["baseline_peak_bytes"] = [each["peak_bytes"] for each in baseline["ranks"]]
    return found


def main() -> None:
    """Train in each layout, and write what was held."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    today = datetime.now(UTC).date().isoformat()
    parser.add_argument("--size", default="1.5B", help="a size of the built-in lm")
    parser.add_argument("--out", type=Path, default=HERE / "results" / f"meta-cpu-{today}.json")
    parser.add_argument("--rank", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rank:
        rank(arguments.rank)
        return
    from hpc_accel.measure import provenance

    results: dict[str, Any] = {}
    content = {
        "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
        "size": arguments.size,
        "sequence": SEQUENCE,
        "num_ranks": NUM_RANKS,
        "num_cpus": os.cpu_count(),
        "layouts": results,
        "provenance": provenance.collect(),
    }
    with tempfile.TemporaryDirectory() as directory:
        for name, layout in LAYOUTS.items():
            baseline = launched(write_run(Path(directory), "tiny", layout))
            found = compared(launched(write_run(Path(directory), arguments.size, layout)), baseline)
            results[name] = {**found, "load_1min_after": os.getloadavg()[0]}
            print(json.dumps({name: results[name]}, indent=1), flush=True)
            arguments.out.write_text(json.dumps(content, indent=1) + "\n")
    print(f"wrote {arguments.out}")


if __name__ == "__main__":
    main()
