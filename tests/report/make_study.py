"""Builds a study directory as the workflow leaves it: plan, hardware, records of runs that worked, failed or are wrong.

Times follow a simple law with seeded noise, so that layouts differ, some tie, and predictions are near but off.
Run it by hand to look at a page: `python tests/report/make_study.py DIR [--energy]`.
"""

from __future__ import annotations

import json
import math
import random
import sys
from pathlib import Path
from typing import Any

import polars as pl

from hpc_accel.study.layout import Layout
from hpc_accel.study.recipe import PARITY_TOLERANCE, Recipe
from hpc_accel.study.run import Measure, Resources, Run, WorkloadSpec

NO_SENSOR = "no readable sensor: RAPL is not exposed in this virtual machine, no GPU"
NO_SENSOR_REMEDY = "run on nodes with NVML, RAPL or pm_counters"
WORKLOADS = {"digits": (64, 42.0, 2.3), "lm": (16, 310.0, 4.2), "mlp": (100, 0.42, 1.1)}
LAYOUTS = {
    "digits": [
        {"accumulation_steps": 1},
        {"accumulation_steps": 4},
        {"dp": 2, "accumulation_steps": 1},
        {"dp": 2, "accumulation_steps": 4},
        {"tp": 2, "accumulation_steps": 1},
        {"tp": 2, "accumulation_steps": 4},
        {"pp": 2, "schedule": "gpipe", "accumulation_steps": 4},
        {"pp": 2, "schedule": "1f1b", "accumulation_steps": 4},
        {"dp": 2, "pp": 2, "schedule": "1f1b", "accumulation_steps": 4},
    ],
    "lm": [
        {"accumulation_steps": 4},
        {"dp": 2, "accumulation_steps": 4},
        {"tp": 2, "accumulation_steps": 4},
        {"pp": 2, "schedule": "1f1b", "accumulation_steps": 4},
        {"dp": 2, "pp": 2, "schedule": "1f1b", "accumulation_steps": 4},
    ],
    "mlp": [{"accumulation_steps": 1}, {"dp": 2, "accumulation_steps": 1}],
}


def make_run(
    workload: str, fields: dict[str, Any], precision: str = "fp32", *, study: str = "demo", seed: int = 0
) -> Run:
    """A resolved run of the given layout."""
    batch = WORKLOADS[workload][0]
    micro = batch // fields.get("dp", 1) // fields["accumulation_steps"]
    layout = Layout(**{**fields, "micro_batch_size": micro})
    return Run(
        study=study,
        site="local",
        seed=seed,
        workload=WorkloadSpec(
            name=workload, entry=f"hpc_accel.workloads.builtin.{workload}:build", global_batch_size=batch
        ),
        layout=layout,
        recipe=Recipe(precision=precision),
        resources=Resources(ranks_per_node=layout.num_ranks),
        measure=Measure(parity_tolerance=PARITY_TOLERANCE[precision]),
    )


def candidate(run: Run, predicted_ms: float | None, *, cost: float | None = None) -> dict[str, Any]:
    """A chosen candidate of plan.json."""
    return {
        "run_id": run.run_id,
        "workload": run.workload.name,
        "layout": run.layout.model_dump(mode="json"),
        "recipe": run.recipe.model_dump(mode="json"),
        "resources": run.resources.model_dump(mode="json"),
        "chosen": True,
        "why": "listed in the study",
        "refused": None,
        "prediction": {
            "step_time_ms": predicted_ms,
            "parts_ms": {},
            "peak_memory_bytes": 200_000_000,
            "energy_j": None,
            "energy_reason": "no power is known for this node",
            "cost": cost,
            "cost_reason": None if cost else "the site gives no price",
        },
    }


def true_step_ms(run: Run, rng: random.Random) -> float:
    """Compute divided over ranks, plus what communication and the bubble cost."""
    layout = run.layout
    serial = WORKLOADS[run.workload.name][1] * (0.93 if run.recipe.precision == "bf16" else 1.0)
    serial *= 1 + 0.03 * (layout.accumulation_steps - 1)
    ranks = layout.num_ranks
    loss = {1: 0.0, 2: 0.09 + 0.22 * (layout.tp - 1) + 0.12 * (layout.pp - 1), 4: 0.75}[ranks]
    return serial / ranks * (1 + loss) + 0.35 * (ranks - 1) + rng.uniform(0, 0.02) * serial


def summary(run: Run, step_ms: float, rng: random.Random, energy: str | None = None) -> dict[str, Any]:
    """A completed run's summary.json. `energy` is a scope, or None for a machine without sensors."""
    layout, batch = run.layout, run.workload.global_batch_size
    parallel, staged = layout.num_ranks > 1, layout.pp > 1
    shares = {"data": 0.02, "forward": 0.27, "backward": 0.5, "optimizer": 0.05, "other": 0.02}
    shares["comm_exposed"] = 0.08 if parallel else 0.0
    shares["pipeline_wait"] = 0.14 if staged else 0.0
    scale = step_ms / sum(shares.values())
    exact = layout.num_ranks == 1 and run.recipe.precision == "fp32"
    error = 0.0 if exact else rng.uniform(2e-8, 4e-7) if run.recipe.precision == "fp32" else rng.uniform(1e-3, 6e-3)
    window_s = 30 * step_ms / 1e3
    energy_j = 95.0 * window_s * (0.8 + 0.2 * layout.num_ranks) if energy else None
    return {
        "format": 1, "run_id": run.run_id, "study": run.study, "site": run.site, "status": "completed", "error": None,
        "device": "cpu", "device_name": "AMD EPYC 9B14", "num_nodes": 1, "num_ranks": layout.num_ranks,
        "hosts": ["node01"], "started_utc": "2026-01-05T10:00:00Z", "ended_utc": "2026-01-05T10:00:09Z", "attempt": 1,
        "job_id": None,
        "steps": {"num_warmup": 5, "num_warmup_detected": 3, "warmup_reason": "", "num_asked": 30, "num_timed": 30,
                  "global_batch_size": batch, "samples_dropped_per_epoch": 5, "samples_per_epoch": 1000,
                  "tokens_per_sample": 64 if run.workload.name == "lm" else None,
                  "outliers": {"count": 1, "steps": [11], "rule": "far"} if layout.pp > 1 else
                              {"count": 0, "steps": [], "rule": "far"}},
        "step_time_ms": {"median": step_ms, "ci_low": step_ms * (1 - rng.uniform(0.004, 0.03)),
                         "ci_high": step_ms * (1 + rng.uniform(0.004, 0.04)), "method": "median; 95 % bootstrap"},
        "throughput_samples_per_s": batch / step_ms * 1e3,
        "phases_ms": {key: share * scale for key, share in shares.items()}
        | {"comm_overlapped": 0.05 * step_ms if parallel else None},
        "phases_reason": {} if parallel else {"comm_overlapped": "one rank has nobody to communicate with"},
        "bubble_ideal": (layout.pp - 1) / (layout.accumulation_steps + layout.pp - 1) if staged else None,
        "flops": {"per_step": 10**9, "mfu": 0.6 / layout.num_ranks**0.5, "mfu_reason": ""},
        "straggler": {"rank": 1, "host": "node01", "excess": 0.031} if parallel else {"rank": 0, "excess": None},
        "checkpoints": {"num_saved": 1, "save_ms": [140.0]} if staged else {"num_saved": 0, "save_ms": []},
        "target": {"loss": None, "energy_j": None, "reason": "the study names no measure.target_loss"},
        "warnings": [],
        "bubble_fraction": 0.14 if staged else None, "bubble_reason": None if staged else "no pipeline",
        "startup_ms": {"import": 2100.0, "mpi_init": 210.0, "model_build": 30.0, "first_step": 85.0},
        "peak_memory_bytes": 310_000_000 - 20_000_000 * layout.num_ranks,
        "peak_memory_scope": "largest rank, resident set",
        "energy": {"energy_j": energy_j, **energy_details(run, energy_j, window_s, shares),
                   "window_s": window_s,
                   "scope": energy, "method": "counter" if energy else "none", "sensors": [], "coverage": {},
                   "resolution_warning": bool(energy) and window_s < 1.0, "idle_power_w": 41.0 if energy else None,
                   "is_partial": False, "reason": "" if energy else NO_SENSOR,
                   "remedy": "" if energy else NO_SENSOR_REMEDY},
        "losses": {"first": losses(run, 5), "final": losses(run, 35)[-1]},
        "parity": {"max_rel_err": error, "tolerance": run.measure.parity_tolerance, "steps": 5,
                   "reference": "serial fp32, same seed", "passed": True, "reason": None},
        "provenance": {"hpc_accel": "0.1.0", "torch": "2.13.0", "mpi4py": "4.1.2", "python": "3.11.2"},
    }  # fmt: skip


def energy_details(run: Run, energy_j: float | None, window_s: float, shares: dict[str, float]) -> dict[str, Any]:
    """What stands beside the joules: shares by phase as those of time, and figures per something."""
    if energy_j is None:
        return {"by_phase_j": None, "phases_reason": NO_SENSOR, "idle_reason": NO_SENSOR}
    per_sample = energy_j / (30 * run.workload.global_batch_size)
    waited = {key: shares[key] / sum(shares.values()) for key in ("comm_exposed", "pipeline_wait") if shares[key]}
    parts = {**waited, "idle": 0.02}
    return {
        "by_phase_j": {
            "compute": energy_j * (1 - sum(parts.values())),
            **{key: share * energy_j for key, share in parts.items()},
        },
        "phases_resolved": False, "phases_reason": "", "idle_reason": "", "per_sample_j": per_sample,
        "per_token_j": per_sample / 64 if run.workload.name == "lm" else None,
        "per_token_reason": "" if run.workload.name == "lm" else "the samples are no sequences of token ids",
        "per_epoch_j": per_sample * 1000, "per_step_j": energy_j / 30,
        "energy_delay_product_js": energy_j / 30 * window_s / 30,
    }  # fmt: skip


def losses(run: Run, steps: int) -> list[float]:
    """The same curve for every layout of a workload; bf16 is a little off."""
    start = WORKLOADS[run.workload.name][2]
    off = 1.002 if run.recipe.precision == "bf16" else 1.0
    return [
        off * start * (0.25 + 0.75 * math.exp(-step / 9)) * (1 + 0.03 * math.sin(2.1 * step)) for step in range(steps)
    ]


def write_steps(path: Path, run: Run, step_ms: float, factor: float = 1.0) -> None:
    """steps.parquet: one row per step and rank; only ranks of the last stage know the loss."""
    rows = []
    for step, loss in enumerate(losses(run, 35)):
        for rank in range(run.layout.num_ranks):
            knows = rank % run.layout.pp == run.layout.pp - 1
            rows.append({"step": step, "rank": rank, "warmup": step < 5, "step_ns": int(step_ms * 1e6),
                         "loss": loss * factor ** step if knows else None})  # fmt: skip
    pl.DataFrame(rows).write_parquet(path)


def make_study(study_dir: Path, *, energy: bool = False, faults: bool = True, price: bool = False) -> Path:
    """The whole study: 3 workloads, 5 kinds of layout, 2 precisions; with `faults` three go wrong."""
    rng = random.Random(7)
    candidates = []
    for workload, choices in LAYOUTS.items():
        for precision in ("fp32", "bf16") if workload == "digits" else ("fp32",):
            for fields in choices:
                run = make_run(workload, fields, precision, study=study_dir.name)
                step_ms = true_step_ms(run, rng)
                predicted = step_ms * rng.uniform(0.75, 1.2)
                candidates.append(
                    candidate(run, predicted, cost=30 * predicted * 2e-7 * run.layout.num_ranks if price else None)
                )
                record = summary(run, step_ms, rng, ("gpu-board" if energy else None))
                write_run(study_dir, run, _faulty(run, record) if faults else record, step_ms)
    candidates += refused_candidates()
    write_json(study_dir / "plan.json", {
        "format": 1, "study": study_dir.name, "objective": "time", "site": "local", "hardware_sha256": "0" * 64,
        "factors": {"currency": "EUR", "carbon_g_per_kwh": 380.0 if price else None, "estimate": None,
                    "electricity_price_per_kwh": 0.25 if price else None, "power_w_per_node": None},
        "candidates": candidates})  # fmt: skip
    write_json(study_dir / "hardware.json", HARDWARE)
    return study_dir


def _faulty(run: Run, record: dict[str, Any]) -> dict[str, Any] | None:
    """Three runs of digits go wrong, each in its own way."""
    key = f"{run.workload.name} {run.label}"
    if key == "digits tp2 bf16 x4":
        parity = {
            **record["parity"],
            "max_rel_err": 0.31,
            "passed": False,
            "reason": "losses differ by 0.31 relative to the serial run",
        }
        return {**record, "status": "wrong", "parity": parity}
    if key == "digits dp2.pp2.1f1b bf16 x4":
        error = {
            "rank": 3,
            "kind": "NonFiniteError",
            "message": "loss is NaN at step 12",
            "remedy": "lower the learning rate",
        }
        return {**record, "status": "failed", "error": error, "step_time_ms": None}
    return None if key == "digits pp2.gpipe bf16 x4" else record


def write_run(study_dir: Path, run: Run, record: dict[str, Any] | None, step_ms: float) -> None:
    """A run's directory; without a record only what was there before it ran."""
    directory = study_dir / "runs" / run.run_id
    directory.mkdir(parents=True)
    (directory / "run.json").write_text(run.model_dump_json(indent=2))
    if record is not None:
        write_json(directory / "summary.json", record)
        write_steps(directory / "steps.parquet", run, step_ms, 1.02 if record["status"] == "wrong" else 1.0)
        # Ranks began at 10:00:00; the script a second and a half before.
        write_json(directory / "job.json", {"format": 1, "job_id": None, "script_started_unix_s": 1767607198.5})


def refused_candidates() -> list[dict[str, Any]]:
    """Two that break a rule and one that was predicted to be slow."""
    split = {
        "value": "mlp pp4.1f1b: 4 stages for 2 layers",
        "rule": "every stage holds a layer",
        "remedy": "use pp 2 or less",
    }
    return [
        {"run_id": "mlp-pp4", "workload": "mlp", "layout": {"pp": 4, "micro_batch_size": 25, "accumulation_steps": 4},
         "recipe": {"precision": "fp32"}, "chosen": False, "why": "", "refused": split, "prediction": None},
        {"run_id": "lm-tp3", "workload": "lm", "layout": {"tp": 3, "micro_batch_size": 4, "accumulation_steps": 4},
         "recipe": {"precision": "fp32"}, "chosen": False, "why": "", "prediction": None,
         "refused": {"value": "lm tp3: 4 heads", "rule": "tp divides the heads", "remedy": "use tp 2 or 4"}},
        {"run_id": "lm-tp4", "workload": "lm", "layout": {"tp": 4, "micro_batch_size": 4, "accumulation_steps": 4},
         "recipe": {"precision": "fp32"}, "chosen": False, "why": "predicted rank 9 of 12 for time", "refused": None,
         "prediction": {"step_time_ms": 900.0}},
    ]  # fmt: skip


HARDWARE: dict[str, Any] = {
    "format": 1, "site": "local", "created_utc": "2026-01-05T09:58:00Z", "num_nodes": 1, "ranks_per_node": 4,
    "node_kinds": [{
        "name": "node01", "num_nodes": 1, "device": "cpu", "device_name": "AMD EPYC 9B14", "devices_per_node": 0,
        "num_cpus": 2, "memory_bytes": 16 * 2**30,
        "matmul_flops_per_s": {"fp32": 9.1e10, "bf16": 1.4e11, "fp16": None},
        "matmul_flops_per_s_reason": {"fp16": "no fp16 matrix multiplication on this CPU"},
        "memory_bandwidth_bytes_per_s": 1.9e10, "kernel_overhead_s": 4e-6, "concurrent_slowdown": 1.9}],
    "network": {"intra_node": {"latency_s": 1.1e-6, "bandwidth_bytes_per_s": 6.2e9, "points": [], "allreduce": []},
                "inter_node": None, "inter_node_reason": "one node probed"},
    "mpi": {"library": "Open MPI v5.0.11", "mpi4py": "4.1.2", "thread_level": "multiple", "gpu_aware": False},
    "sensors": [{"name": "rapl", "scope": "cpu-package", "available": False, "reason": "no powercap in this machine"},
                {"name": "nvml", "scope": "gpu-board", "available": False, "reason": "no NVIDIA driver"}],
    "provenance": {"torch": "2.13.0", "python": "3.11.2", "git": "0123abc"},
}  # fmt: skip


def write_json(path: Path, content: Any) -> None:
    """JSON, with the directory it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    make_study(Path(sys.argv[1]), energy="--energy" in sys.argv, price="--energy" in sys.argv)
