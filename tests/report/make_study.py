"""Builds a study directory as the workflow leaves it: plan, hardware, records of runs that worked, failed or are wrong.

Times follow a simple law with seeded noise, so that layouts differ, some tie, and predictions are near but off.
Run it by hand to look at a page: `python tests/report/make_study.py DIR [--energy]`.
"""

from __future__ import annotations

import json
import math
import random
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from hpc_accel import record
from hpc_accel.record import Summary, without_result
from hpc_accel.record.energy import Energy, EnergyPhases
from hpc_accel.record.figure import Bytes, Count, Estimate, Fraction, Milliseconds, OwnUnit, PerSecond, Watts
from hpc_accel.record.measured import with_shares
from hpc_accel.record.parts import Error, Losses, Metric, Outliers, Phases, Startup, Steps
from hpc_accel.study.layout import Layout
from hpc_accel.study.recipe import PARITY_TOLERANCE, Recipe
from hpc_accel.study.run import Measure, Resources, Run, WorkloadSpec
from tests.record.make_golden import golden
from tests.report.make_plan import HARDWARE, refused_candidates

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


def summary(run: Run, step_ms: float, rng: random.Random, energy: str | None = None) -> Summary:
    """A completed run's record: a real one, varied. `energy` is a scope, or None for a machine without sensors."""
    layout = run.layout
    parallel, staged = layout.num_ranks > 1, layout.pp > 1
    exact = layout.num_ranks == 1 and run.recipe.precision == "fp32"
    error = 0.0 if exact else rng.uniform(2e-8, 4e-7) if run.recipe.precision == "fp32" else rng.uniform(1e-3, 6e-3)
    low, high = step_ms * (1 - rng.uniform(0.004, 0.03)), step_ms * (1 + rng.uniform(0.004, 0.04))
    base, shares, steps = golden("train"), phase_shares(run), steps_of(run)
    began = datetime(2026, 1, 5, tzinfo=UTC) + timedelta(seconds=int(run.run_id[-6:], 16))  # no two at the same time
    scale = step_ms / sum(shares.values())
    alone = Milliseconds.missing("one rank has nobody to communicate with")
    return base.changed(
        run_id=run.run_id,
        study=run.study,
        site=run.site,
        num_ranks=layout.num_ranks,
        started_utc=began.isoformat(timespec="milliseconds"),
        ended_utc=(began + timedelta(seconds=9)).isoformat(timespec="seconds"),
        steps=steps,
        step_time_ms=Estimate.between(step_ms, low, high, method=base.step_time_ms.method),
        throughput_samples_per_s=PerSecond.of(steps.global_batch_size / step_ms * 1e3),
        phases_ms=Phases(
            **{key: Milliseconds.of(share * scale) for key, share in shares.items()},
            comm_overlapped=Milliseconds.of(0.05 * step_ms) if parallel else alone,
        ),
        bubble_fraction=Fraction.of(0.14 if staged else None, "the layout has one stage"),
        bubble_ideal=Fraction.of(
            (layout.pp - 1) / (layout.accumulation_steps + layout.pp - 1) if staged else None,
            "the layout has one stage",
        ),
        startup_ms=Startup(
            imports=Milliseconds.of(2100.0),
            mpi_init=Milliseconds.of(210.0),
            parity=Milliseconds.of(400.0),
            model_build=Milliseconds.of(30.0),
            first_step=Milliseconds.of(85.0),
        ),
        memory=base.memory.changed(peak_memory_bytes=Bytes.of(310_000_000 - 20_000_000 * layout.num_ranks)),
        energy=energy_of(run, steps, energy, 30 * step_ms / 1e3),
        flops=base.flops.changed(mfu=Fraction.of(0.6 / layout.num_ranks**0.5)),
        straggler=base.straggler.changed(
            rank=Count.of(int(parallel)), excess=Fraction.of(0.031 if parallel else None, "one rank is alone")
        ),
        checkpoints=base.checkpoints.changed(num_saved=int(staged), save_ms=(140.0,) if staged else ()),
        losses=Losses(first=tuple(losses(run, 5)), final=OwnUnit.of(losses(run, 35)[-1])),
        parity=base.parity.changed(max_rel_err=error, tolerance=run.measure.parity_tolerance),
        metric=Metric(value=None, reason="the workload names no metric"),
        warnings=(),
        notes={},
    )


def steps_of(run: Run) -> Steps:
    """30 of them after 5 of warm-up; a pipeline has one outlier."""
    no_tokens = "the workload's samples are no sequences of token ids"
    return golden("train").steps.changed(
        num_warmup_detected=Count.of(3),
        global_batch_size=run.workload.global_batch_size,
        samples_dropped_per_epoch=Count.of(5),
        samples_per_epoch=Count.of(1000),
        tokens_per_sample=Count.of(64 if run.workload.name == "lm" else None, no_tokens),
        outliers=Outliers(count=1, steps=(11,), rule="far") if run.layout.pp > 1 else Outliers(count=0, rule="far"),
    )


def phase_shares(run: Run) -> dict[str, float]:
    """How a step's time is divided."""
    shares = {"data": 0.02, "forward": 0.27, "backward": 0.5, "optimizer": 0.05, "other": 0.02}
    shares["comm_exposed"] = 0.08 if run.layout.num_ranks > 1 else 0.0
    shares["pipeline_wait"] = 0.14 if run.layout.pp > 1 else 0.0
    return shares


def energy_of(run: Run, steps: Steps, scope: str | None, window_s: float) -> Energy:
    """Joules that grow with the ranks, by phase as time is, and what follows from them."""
    none = Energy.missing(NO_SENSOR, NO_SENSOR_REMEDY).changed(window_s=window_s)
    if scope is None:
        return none
    energy_j, shares = 95.0 * window_s * (0.8 + 0.2 * run.layout.num_ranks), phase_shares(run)
    waited = {key: shares[key] / sum(shares.values()) for key in ("comm_exposed", "pipeline_wait") if shares[key]}
    parts = {**waited, "idle": 0.02}
    by_phase_j = {"compute": energy_j * (1 - sum(parts.values()))}
    by_phase_j |= {key: share * energy_j for key, share in parts.items()}
    measured = none.changed(
        energy_j=energy_j,
        scope=scope,
        method="counter",
        reason="",
        remedy="",
        resolution_warning=window_s < 1.0,
        idle_power_w=Watts.of(41.0),
        phases=EnergyPhases(by_phase_j=by_phase_j, is_resolved=False, method="sampled power"),
    )
    return with_shares(measured, steps)


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
                found = summary(run, step_ms, rng, ("gpu-board" if energy else None))
                write_run(study_dir, run, _faulty(run, found) if faults else found, step_ms)
    candidates += refused_candidates()
    write_json(study_dir / "plan.json", {
        "format": 1, "study": study_dir.name, "objective": "time", "site": "local", "hardware_sha256": "0" * 64,
        "factors": {"currency": "EUR", "carbon_g_per_kwh": 380.0 if price else None, "estimate": None,
                    "electricity_price_per_kwh": 0.25 if price else None, "power_w_per_node": None},
        "candidates": candidates})  # fmt: skip
    write_json(study_dir / "hardware.json", HARDWARE)
    return study_dir


def _faulty(run: Run, found: Summary) -> Summary | None:
    """Three runs of digits go wrong, each in its own way."""
    key = f"{run.workload.name} {run.label}"
    if key == "digits tp2 bf16 x4":
        why = "losses differ by 0.31 relative to the serial run"
        parity = found.parity.changed(max_rel_err=0.31, passed=False, reason=why)
        return found.changed(
            status="wrong", parity=parity, error=Error(kind="parity", message=why, remedy="use another layout")
        )
    if key == "digits dp2.pp2.1f1b bf16 x4":
        error = Error(rank=3, kind="NonFiniteError", message="loss is NaN at step 12", remedy="lower the learning rate")
        return without_result(run, status="failed", error=error, started_utc="", ended_utc="", attempt=1, job_id=None)
    return None if key == "digits pp2.gpipe bf16 x4" else found


def write_run(study_dir: Path, run: Run, found: Summary | None, step_ms: float) -> None:
    """A run's directory; without a record only what was there before it ran."""
    directory = study_dir / "runs" / run.run_id
    directory.mkdir(parents=True)
    (directory / "run.json").write_text(run.model_dump_json(indent=2))
    if found is not None:
        record.write(directory / "summary.json", found)
        write_steps(directory / "steps.parquet", run, step_ms, 1.02 if found.status == "wrong" else 1.0)
        # The script began a second and a half before the ranks; a run that failed early has no time of its ranks.
        began = datetime.fromisoformat(found.started_utc or "2026-01-05T00:00:00+00:00").timestamp()
        write_json(directory / "job.json", {"format": 1, "job_id": None, "script_started_unix_s": began - 1.5})


def write_json(path: Path, content: Any) -> None:
    """JSON, with the directory it needs."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    make_study(Path(sys.argv[1]), energy="--energy" in sys.argv, price="--energy" in sys.argv)
