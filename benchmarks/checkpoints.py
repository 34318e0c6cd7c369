"""What saving costs: its rate beside a plain sequential write of the same bytes, and how much it slows training.

    python benchmarks/checkpoints.py [--directory DIR] [--mib 512] [--rounds 7] [--json FILE]

Rate: rounds of two files in the same directory, in alternating order: the bytes written as they are in pieces of 4 MiB
and forced to disk; and the same bytes as tensors of a checkpoint's file, hashed on the way. The figure is the median of
the rounds' ratios.

Slow-down: a language model trained by the product's own loop in one process, alternating between runs that save and
runs that do not. What a save costs is the difference of their times, standing still included, over the number of saves;
beside one save a minute that is a share of training.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

TARGETS = {"rate_ratio": 0.8, "slow_down_at_one_a_minute": 0.05}
PIECE = 4 * 2**20
NUM_STEPS = 60
EVERY = 15
TRAIN = "import pathlib, sys; from hpc_accel.train.main import run_training as go; go(pathlib.Path(sys.argv[1]))"


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", type=Path, help="on the disk to be measured; by default a temporary one")
    parser.add_argument("--mib", type=int, default=512, help="size of a file")
    parser.add_argument("--rounds", type=int, default=7, help="pairs of files, and a third as many pairs of runs")
    parser.add_argument("--json", type=Path, help="write the result there, too")
    return parser.parse_args()


def plain_write_s(path: Path, content: memoryview) -> float:
    """Seconds to write `content` and force it to disk."""
    began = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        for begin in range(0, len(content), PIECE):
            file.write(content[begin : begin + PIECE])
        os.fsync(file.fileno())
    return time.perf_counter() - began


def rates(directory: Path, mib: int, rounds: int) -> dict[str, Any]:
    """Both rates, in bytes per second, and the ratio of each round."""
    import torch

    from hpc_accel.train.tensor_file import Slice, write_slices

    values = torch.randn(16, mib * 2**20 // 64)
    slices = {
        f"{index}.weight": Slice(name=f"{index}.weight", start=(0,), shape=tuple(row.shape), values=row)
        for index, row in enumerate(values)
    }
    content = values.numpy().reshape(-1).view("uint8").data
    found: dict[str, list[float]] = {"plain": [], "checkpoint": []}

    def checkpoint_s() -> float:
        began = time.perf_counter()
        write_slices(directory / "checkpoint", slices, {}, before_sync=lambda: None)
        return time.perf_counter() - began

    for number in range(rounds + 1):
        kinds = [("plain", lambda: plain_write_s(directory / "plain", content)), ("checkpoint", checkpoint_s)]
        for name, measured in kinds[:: 1 if number % 2 else -1]:
            took_s = measured()
            if number:  # the first round warms up
                found[name].append(took_s)
            for path in directory.iterdir():
                path.unlink()
    pairs = list(zip(found["plain"], found["checkpoint"], strict=True))
    return {
        "bytes": len(content),
        "plain_bytes_per_s": len(content) / statistics.median(found["plain"]),
        "checkpoint_bytes_per_s": len(content) / statistics.median(found["checkpoint"]),
        "rate_ratios": [plain / ours for plain, ours in pairs],
        "rate_ratio": statistics.median(plain / ours for plain, ours in pairs),
    }


def run_file(directory: Path, every: int | None) -> Path:
    """A run of a model of 6.5 million parameters, whose state is 78 MB."""
    from hpc_accel.study.layout import Layout
    from hpc_accel.study.recipe import Recipe
    from hpc_accel.study.run import Checkpoint, Measure, Resources, Run, WorkloadSpec

    run = Run(
        study="checkpoints",
        site="local",
        workload=WorkloadSpec(
            name="lm",
            entry="hpc_accel.workloads.builtin.lm:build",
            args={"layers": 8, "hidden": 256, "heads": 4, "sequence": 16},
            global_batch_size=2,
            optimizer={"name": "adamw", "learning_rate": 0.001},
        ),
        layout=Layout(micro_batch_size=2, accumulation_steps=1),
        recipe=Recipe(),
        resources=Resources(),
        measure=Measure(warmup_steps=3, steps=NUM_STEPS - 3, parity_steps=0, metric_samples=0, idle_s=0),
        checkpoint=Checkpoint(every_steps=every),
        device="cpu",
    )
    path = directory / "run.json"
    path.write_text(run.model_dump_json())
    return path


def trained(directory: Path, every: int | None) -> dict[str, Any]:
    """One run in a process of its own: seconds of its timed steps and standing still, and what its record tells."""
    with tempfile.TemporaryDirectory(dir=directory) as name:
        path = run_file(Path(name), every)
        subprocess.run([sys.executable, "-c", TRAIN, str(path)], check=True, capture_output=True)
        told = json.loads((path.parent / "summary.json").read_text())
        import polars as pl

        steps = pl.read_parquet(path.parent / "steps.parquet").filter(~pl.col("warmup"))
    saves = told["checkpoints"]
    return {
        "steps_s": int(steps["step_ns"].sum()) / 1e9,
        "stood_still_s": sum(saves["save_ms"]) / 1e3,
        "num_saved": saves["num_saved"],
        "written_ms": saves["written_ms"],
    }


def slow_down(directory: Path, rounds: int) -> dict[str, Any]:
    """What a save costs, from pairs of runs with and without."""
    costs, pairs = [], []
    for number in range(rounds):
        both = {every: trained(directory, every) for every in ((None, EVERY) if number % 2 else (EVERY, None))}
        without, with_saves = both[None], both[EVERY]
        lost_s = with_saves["steps_s"] + with_saves["stood_still_s"] - without["steps_s"]
        costs.append(lost_s / with_saves["num_saved"])
        pairs.append({"without": without, "with": with_saves})
    cost_s = statistics.median(costs)
    stood_s = [pair["with"]["stood_still_s"] / pair["with"]["num_saved"] for pair in pairs]
    return {
        "cost_of_a_save_s": cost_s,
        "costs_of_a_save_s": costs,
        "stood_still_per_save_s": statistics.median(stood_s),
        "slow_down_at_one_a_minute": cost_s / 60,
        "pairs": pairs,
    }


def main() -> None:
    """Measure, print, and write what was asked for."""
    asked = options()
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(dir=asked.directory) as name:
        result: dict[str, Any] = {
            "created_utc": datetime.now(UTC).isoformat(timespec="seconds"),
            "num_cpus": os.cpu_count(),
            "load_1min_before": load,
            "targets": TARGETS,
            **rates(Path(name), asked.mib, asked.rounds),
            **slow_down(Path(name), max(3, asked.rounds // 3)),
            "load_1min_after": os.getloadavg()[0],
        }
    text = json.dumps(result, indent=1)
    sys.stdout.write(text + "\n")
    if asked.json is not None:
        asked.json.write_text(text + "\n")


if __name__ == "__main__":
    main()
