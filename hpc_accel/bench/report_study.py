"""Records of a study that nobody ran, as many as asked: what `hpc-accel bench report` times the report with.

Layouts, precisions and batches vary as a search varies them; times follow a simple law with seeded noise. One run in a
hundred failed and one is missing, some were disturbed. Every record is a valid one, and each says that it is made up.
"""

from __future__ import annotations

import json
import math
import random
from itertools import product
from pathlib import Path
from typing import Any

import polars as pl

from hpc_accel import record
from hpc_accel.record import Summary, without_result
from hpc_accel.record.energy import Energy
from hpc_accel.record.figure import Bytes, Count, Estimate, Milliseconds, OwnUnit, PerSecond
from hpc_accel.record.measured import with_shares
from hpc_accel.record.parts import Error, Losses, Outliers, Phases, Startup, Steps
from hpc_accel.record.summary import nothing_measured
from hpc_accel.study.layout import Layout
from hpc_accel.study.recipe import Recipe
from hpc_accel.study.run import Measure, Resources, Run, WorkloadSpec

WORKLOADS = {"made-up-vision": (42.0, 2.3), "made-up-language": (310.0, 4.2), "made-up-tables": (1.6, 1.1)}
"""Milliseconds of a serial step, and the loss at the start."""
GLOBAL_BATCH_SIZE = 1024
WARMUP_STEPS = 5
MADE_UP = Error(kind="MadeUp", message="this record was made up to time the report", remedy="nothing")
SHARES = {"data": 0.02, "forward": 0.27, "backward": 0.5, "optimizer": 0.05, "other": 0.02}


def make(study_dir: Path, num_runs: int, num_steps: int) -> None:
    """plan.json and the run directories."""
    rng = random.Random(1)
    candidates = []
    for number, (workload, layout, recipe) in enumerate(_choices(num_runs)):
        run = _run(workload, layout, recipe, number, num_steps)
        step_ms = _step_ms(run, rng)
        candidates.append(_candidate(run, step_ms * rng.uniform(0.75, 1.2)))
        directory = study_dir / "runs" / run.run_id
        directory.mkdir(parents=True)
        (directory / "run.json").write_text(run.model_dump_json())
        (directory / "job.sbatch").write_text("#!/bin/bash\n# made up to time the report\n")
        if number % 100 != 99:
            found = _summary(run, step_ms, rng, num_steps)
            record.write(directory / "summary.json", found if number % 100 != 98 else _failed(run))
            _write_steps(directory / "steps.parquet", run, step_ms, num_steps)
    plan = {"format": 1, "study": study_dir.name, "objective": "time", "site": "made-up", "cost_unit": "EUR",
            "factors": {"currency": "EUR", "price_per_node_hour": 3.6}, "candidates": candidates}  # fmt: skip
    (study_dir / "plan.json").write_text(json.dumps(plan))


def _choices(num_runs: int) -> list[tuple[str, Layout, Recipe]]:
    """Different configurations, serial ones first; the learning rate of `_run` tells more of them apart."""
    sizes = [(dp, pp, tp) for dp, pp, tp in product((1, 2, 4, 8, 16), (1, 2, 4), (1, 2, 4)) if dp * pp * tp <= 64]
    found = [
        (workload, _layout(dp, pp, tp, steps), Recipe.model_validate({"precision": precision, "recompute": recompute}))
        for (dp, pp, tp), steps, precision, recompute, workload in product(
            sizes, (4, 8, 16), ("fp32", "bf16"), ("none", "full"), WORKLOADS
        )
    ]
    return [found[number % len(found)] for number in range(num_runs)]


def _layout(dp: int, pp: int, tp: int, steps: int) -> Layout:
    return Layout(
        dp=dp,
        pp=pp,
        tp=tp,
        micro_batch_size=GLOBAL_BATCH_SIZE // dp // steps,
        accumulation_steps=steps,
        schedule="1f1b" if pp > 1 else None,
    )


def _run(workload: str, layout: Layout, recipe: Recipe, number: int, num_steps: int) -> Run:
    return Run(
        study="made-up",
        site="made-up",
        seed=number,
        workload=WorkloadSpec(name=workload, entry="made_up:build", global_batch_size=GLOBAL_BATCH_SIZE),
        layout=layout,
        recipe=recipe,
        resources=Resources(ranks_per_node=layout.num_ranks),
        measure=Measure(parity_tolerance=1e-2, steps=num_steps, warmup_steps=WARMUP_STEPS),
    )


def _step_ms(run: Run, rng: random.Random) -> float:
    ranks = run.layout.num_ranks
    serial = WORKLOADS[run.workload.name][0] * (0.8 if run.recipe.precision == "bf16" else 1.0)
    return serial / ranks * (1 + 0.2 * math.log2(ranks)) * rng.uniform(1, 1.3)


def _candidate(run: Run, predicted_ms: float) -> dict[str, Any]:
    parts = run.model_dump(mode="json", include={"layout", "recipe", "resources"})
    prediction = {"step_time_ms": predicted_ms, "peak_memory_bytes": 10**9, "energy_j": None, "cost": None}
    return {"run_id": run.run_id, "workload": run.workload.name, **parts, "chosen": True, "why": "made up",
            "prediction": prediction}  # fmt: skip


def _failed(run: Run) -> Summary:
    return without_result(
        run, status="failed", error=MADE_UP, started_utc="", ended_utc="", attempt=1, job_id=None
    )  # fmt: skip


def _summary(run: Run, step_ms: float, rng: random.Random, num_steps: int) -> Summary:
    layout = run.layout
    steps = _steps(num_steps)
    parallel, staged = layout.num_ranks > 1, layout.pp > 1
    scale = step_ms * 0.9 / (sum(SHARES.values()) + 0.08 * parallel + 0.14 * staged)
    empty = nothing_measured(
        "made up", run_id=run.run_id, study=run.study, site=run.site, mode="train", status="failed", error=MADE_UP,
        num_nodes=1, num_ranks=layout.num_ranks,
    )  # fmt: skip
    first = [_loss(run, step) for step in range(5)]
    return empty.changed(
        status="completed",
        error=None,
        device="cpu",
        hosts=("made-up",),
        steps=steps,
        step_time_ms=Estimate.between(step_ms, 0.98 * step_ms, 1.02 * step_ms, method="made up"),
        throughput_samples_per_s=PerSecond.of(GLOBAL_BATCH_SIZE / step_ms * 1e3),
        phases_ms=Phases(
            **{key: Milliseconds.of(share * scale) for key, share in SHARES.items()},
            comm_exposed=Milliseconds.of(0.08 * scale if parallel else None, "one rank"),
            pipeline_wait=Milliseconds.of(0.14 * scale if staged else None, "one stage"),
            comm_overlapped=Milliseconds.missing("made up"),
        ),
        startup_ms=Startup(**{name: Milliseconds.of(rng.uniform(10, 900)) for name in Startup.model_fields}),
        memory=empty.memory.changed(peak_memory_bytes=Bytes.of(int(rng.uniform(1e9, 4e9)))),
        energy=_energy(steps, layout.num_ranks, step_ms * num_steps / 1e3),
        losses=Losses(first=tuple(first), final=OwnUnit.of(_loss(run, num_steps))),
        parity=empty.parity.changed(
            steps=5, max_rel_err=rng.uniform(1e-8, 1e-6), tolerance=1e-2, passed=True, reason=""
        ),
        warnings=("disturbed: made up",) if rng.random() < 0.05 else (),
    )


def _steps(num_steps: int) -> Steps:
    return Steps(
        num_warmup=WARMUP_STEPS,
        num_warmup_detected=Count.of(2),
        num_asked=num_steps,
        num_timed=num_steps,
        global_batch_size=GLOBAL_BATCH_SIZE,
        samples_per_epoch=Count.of(50_000),
        samples_dropped_per_epoch=Count.of(0),
        tokens_per_sample=Count.missing("made up"),
        outliers=Outliers(count=0),
    )


def _energy(steps: Steps, num_ranks: int, window_s: float) -> Energy:
    measured = Energy.missing("made up").changed(
        energy_j=95.0 * window_s * (0.8 + 0.2 * num_ranks), window_s=window_s, scope="made-up", method="counter",
        reason="", remedy="",
    )  # fmt: skip
    return with_shares(measured, steps)


def _loss(run: Run, step: int) -> float:
    start = WORKLOADS[run.workload.name][1]
    return start * (0.25 + 0.75 * math.exp(-step / 90)) * (1 + 0.03 * math.sin(2.1 * step))


def _write_steps(path: Path, run: Run, step_ms: float, num_steps: int) -> None:
    """One row per step of one rank."""
    count = WARMUP_STEPS + num_steps
    frame = pl.DataFrame(
        {
            "step": range(count),
            "rank": [0] * count,
            "warmup": [step < WARMUP_STEPS for step in range(count)],
            "step_ns": [int(step_ms * 1e6)] * count,
            "loss": [_loss(run, step) for step in range(count)],
        }
    )
    frame.write_parquet(path)
