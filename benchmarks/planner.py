"""How well the planner predicts and ranks layouts somebody else measured: Megatron GPT on one node of eight A100.

    python benchmarks/planner.py            prints the table, writes benchmarks/results/planner-<date>.json

740 single-iteration times in 72 groups (same model, batch and number of GPUs; layouts differ). The planner is given
published constants of the hardware and a description of the program (Megatron-LM: fp16, full recomputation, 1F1B);
three numbers of that program that nobody published are fitted to half of the groups and judged on the other half.
Beside it stand two rules any planner must beat: one constant FLOP/s per GPU, and "smallest t, then smallest p, then
largest micro-batch".
"""

from __future__ import annotations

import argparse
import csv
import datetime
import json
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from megatron import Planner, Program, Row

from hpc_accel.plan.accuracy import choice_accuracy, time_accuracy

HERE = Path(__file__).parent
DATA = HERE / "data" / "a100_single_node_dev.csv"


def read(path: Path = DATA) -> list[Row]:
    """The measurements, without the comment that names their source."""
    lines = [line for line in path.read_text().splitlines() if not line.startswith("#")]
    return [
        Row(**{key: float(value) if key == "iter_ms" else int(value) for key, value in row.items()})  # type: ignore[arg-type]
        for row in csv.DictReader(lines)
    ]


def groups_of(rows: Iterable[Row]) -> list[list[Row]]:
    """Rows by group, in a fixed order."""
    groups: dict[tuple[int, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(row.group, []).append(row)
    return [groups[key] for key in sorted(groups)]


def times(groups: Sequence[Sequence[Row]], predict: Callable[[Row], float]) -> dict[str, float]:
    """Errors, rank correlation and regret of predicted times."""
    return time_accuracy([[(predict(row), row.iter_ms) for row in group] for group in groups])


def choice(groups: Sequence[Sequence[Row]], score: Callable[[Row], Any]) -> dict[str, float]:
    """Rank correlation and regret of an order that predicts no times."""
    return choice_accuracy([[(score(row), row.iter_ms) for row in group] for group in groups])


def rule(row: Row) -> tuple[int, int, int]:
    """Smallest t, then smallest p, then largest micro-batch."""
    return row.tp, row.pp, -row.micro_batch


def best_constant(rows: Sequence[Row]) -> float:
    """The FLOP/s per GPU with the least MAPE: one of those that some row reaches."""

    def mape(rate: float) -> float:
        return statistics.fmean(abs(row.flops / row.gpus / rate * 1e3 / row.iter_ms - 1) for row in rows)

    return min((row.flops / row.gpus / row.iter_ms * 1e3 for row in rows), key=mape)


def fit(groups: Sequence[Sequence[Row]]) -> Program:
    """The three numbers of `Program` with the least MAPE on `groups`, by coordinate descent on a grid."""
    program = Program()
    grid: dict[str, list[float]] = {
        "operations_per_block": [20, 30, 40, 50, 60, 80, 100, 120],
        "half_rate_flops": [0, 1e9, 2e9, 5e9, 1e10, 2e10, 4e10],
        "pipeline_operations": [0, 20, 40, 80, 160, 320],
    }
    for _ in range(3):
        before = program
        for name, values in grid.items():
            tried = [replace(program, **{name: value}) for value in values]
            program = min(tried, key=lambda one: times(groups, Planner(one))["mape"])
        if program == before:
            break
    return program


def main() -> None:
    """Judge the planner and both rules, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    parser.add_argument("--out", type=Path, default=HERE / "results" / f"planner-{today}.json")
    arguments = parser.parse_args()
    groups = groups_of(read())
    rows = [row for group in groups for row in group]
    fitted, judged = groups[::2], groups[1::2]
    program = fit(fitted)
    planner = Planner(program)
    start = time.perf_counter()
    for row in rows:
        planner(row)
    predict_s = time.perf_counter() - start
    rate = best_constant(rows)
    results = {
        "planner, nothing fitted": times(groups, Planner(Program())),
        "planner, groups fitted on": times(fitted, planner),
        "planner, groups not fitted on": times(judged, planner),
        "best constant (fitted on all groups)": times(groups, lambda row: row.flops / row.gpus / rate * 1e3),
        "smallest t, smallest p, largest micro-batch": choice(groups, rule),
        "the same rule, groups not fitted on": choice(judged, rule),
    }
    content = {
        "data": DATA.name,
        "num_rows": len(rows),
        "num_groups": len(groups),
        "program": asdict(program),
        "constant_tflops_per_gpu": rate / 1e12,
        "predict_time_s": predict_s,
        "results": results,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(content, indent=1) + "\n")
    for name, figures in results.items():
        print(f"{name}")
        print("  " + ", ".join(f"{key} {value:.3g}" for key, value in figures.items()))
    print(f"fitted: {program}; {len(rows)} predictions in {predict_s:.2f} s; wrote {arguments.out}")


if __name__ == "__main__":
    main()
