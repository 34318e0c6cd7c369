"""Inference runs added to a made study: summaries as `hpc-accel infer` leaves them, from a simple law of latency."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hpc_accel import record
from hpc_accel.record import Summary
from hpc_accel.record.energy import Energy, RequestEnergy
from hpc_accel.record.figure import (
    Bytes,
    Count,
    Estimate,
    Fraction,
    Joules,
    Milliseconds,
    OwnUnit,
    PerSecond,
)
from hpc_accel.record.inference import Deadline, Generation, Latency, Rate
from hpc_accel.record.parts import Error, Metric
from hpc_accel.study.infer_options import Infer
from hpc_accel.study.layout import Layout
from hpc_accel.study.recipe import Recipe
from hpc_accel.study.run import Measure, Resources, Run, WorkloadSpec
from tests.record.make_golden import golden
from tests.report.make_study import NO_SENSOR, candidate, write_json

RATES = (50.0, 200.0)


def inference_run(study: str, dp: int = 1, batch_size: int = 1, **recipe: Any) -> Run:
    """A resolved inference run of digits."""
    return Run(
        study=study,
        site="local",
        workload=WorkloadSpec(
            name="digits", entry="hpc_accel.workloads.builtin.digits:build", global_batch_size=dp * batch_size
        ),
        layout=Layout(dp=dp, micro_batch_size=batch_size, accumulation_steps=1),
        recipe=Recipe(**recipe),
        resources=Resources(ranks_per_node=dp),
        measure=Measure(parity_tolerance=1e-4),
        infer=Infer(arrival_rates_per_s=RATES, batch_size=batch_size, deadline_ms=20, latency_limit_ms=20),
    )  # fmt: skip


def rate(rate_per_s: float, capacity_per_s: float, num_requests: int = 500) -> Rate:
    """What one arrival rate measured: latency grows as 1 / (1 - load)."""
    base = 1e3 / capacity_per_s / max(0.02, 1 - rate_per_s / capacity_per_s)
    missed = 0.25 if base * 5 > 20 else 0.0
    few = f"{num_requests} requests: p99.9 needs at least 1000"
    return (
        golden("infer")
        .inference.rates[0]
        .changed(
            rate_per_s=rate_per_s,
            num_requests=num_requests,
            num_warmup=50,
            completed_per_s=rate_per_s * 0.99,
            latency_ms=Latency(
                p50=_latency(base, 0.95, 1.05),
                p90=_latency(base * 2, 0.95, 1.05),
                p99=_latency(base * 5, 0.9, 1.2),
                p99_9=Estimate.missing(few),
                max_ms=base * 8,
                num_requests=num_requests,
            ),
            waiting_p50_ms=Milliseconds.of(base / 4),
            mean_batch=1.5,
            deadline=Deadline(
                deadline_ms=Milliseconds.of(20.0),
                num_missed=Count.of(int(missed * num_requests)),
                share_missed=Fraction.of(missed),
                max_missed=Fraction.of(0.0),
                passed=not missed,
            ),
            energy=RequestEnergy(
                energy_j=None,
                window_s=5.0,
                scope=None,
                method="none",
                reason=NO_SENSOR,
                per_request_j=Joules.missing(NO_SENSOR),
            ),
        )
    )


def _latency(value: float, low: float, high: float) -> Estimate:
    return Estimate.between(value, value * low, value * high, method="order statistics")


def inference_summary(run: Run, capacity_per_s: float, *, agreement: float = 1.0) -> Summary:
    """The record of an inference run: a real one, varied; one whose classes agree in less than 0.9 is wrong."""
    assert run.infer is not None
    base, batch, wrong = golden("infer"), run.workload.global_batch_size, agreement < 0.9
    assert base.inference is not None
    assert base.outputs is not None
    step_ms = batch / capacity_per_s * 1e3
    reason = f"{agreement:.1%} of the classes are those of the unchanged fp32 model" if wrong else None
    return base.changed(
        run_id=run.run_id,
        study=run.study,
        site=run.site,
        status="wrong" if wrong else "completed",
        error=Error(kind="parity", message=reason or "", remedy="prune less") if wrong else None,
        num_ranks=run.layout.num_ranks,
        steps=base.steps.changed(num_warmup=5, num_timed=30, global_batch_size=batch),
        step_time_ms=Estimate.between(step_ms, step_ms * 0.98, step_ms * 1.02, method="median"),
        throughput_samples_per_s=PerSecond.of(capacity_per_s),
        memory=base.memory.changed(peak_memory_bytes=Bytes.of(2 * 10**8)),
        energy=Energy.missing(NO_SENSOR),
        inference=base.inference.changed(
            batch_size=run.infer.batch_size,
            replicas=run.layout.dp,
            rates=tuple(rate(each, capacity_per_s) for each in RATES),
            limit=base.inference.limit.changed(
                latency_limit_ms=Milliseconds.of(20.0),
                percentile=99,
                max_rate_per_s=PerSecond.of(capacity_per_s * 0.7),
                next_rate_per_s=PerSecond.of(capacity_per_s * 0.72),
                tried=(),
            ),
            generate=tuple(generation(each) for each in base.inference.generate),
            notes=("quantize int8: 2 linear layers",) if run.recipe.quantize == "int8" else (),
        ),
        outputs=base.outputs.changed(
            num_samples=256,
            max_rel_err=Fraction.of(0.0 if agreement == 1.0 else 0.02),
            top1_agreement=Fraction.of(agreement),
            metric_of_reference=OwnUnit.of(0.91),
        ),
        metric=Metric(name="accuracy", higher_is_better=True, value=0.9, num_samples=300),
        parity=base.parity.changed(max_rel_err=1e-7, tolerance=1e-4, steps=256, passed=not wrong, reason=reason),
    )


def generation(real: Generation) -> Generation:
    """With a cache 1 ms per token, without 4 ms."""
    each_ms = 1.0 if real.kv_cache else 4.0
    return real.changed(
        prompt=4,
        tokens=8,
        num_sequences=1,
        repeats=3,
        time_to_first_token_ms=Estimate.between(3.0, None, None, method="median"),
        time_per_output_token_ms=Estimate.between(each_ms, None, None, method="median"),
        tokens_per_s=100.0,
        cache_max_rel_err=Fraction.of(2e-7) if real.kv_cache else real.cache_max_rel_err,
    )


def add_inference(study_dir: Path, *, only: bool = False) -> dict[str, Run]:
    """Four inference runs, one of them wrong; `only` takes the training runs out of the plan."""
    name = study_dir.name
    runs = {
        "serial": (inference_run(name), 400.0, 1.0),
        "dp2": (inference_run(name, dp=2, batch_size=8), 900.0, 1.0),
        "int8": (inference_run(name, batch_size=8, quantize="int8"), 600.0, 0.97),
        "pruned": (inference_run(name, batch_size=8, prune="magnitude"), 5000.0, 0.4),
    }
    plan = json.loads((study_dir / "plan.json").read_text())
    if only:
        plan["candidates"] = []
    for run, capacity_per_s, agreement in runs.values():
        content = candidate(run, None) | {"prediction": None, "infer": run.model_dump(mode="json")["infer"]}
        plan["candidates"].append(content)
        directory = study_dir / "runs" / run.run_id
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "run.json").write_text(run.model_dump_json())
        record.write(directory / "summary.json", inference_summary(run, capacity_per_s, agreement=agreement))
    write_json(study_dir / "plan.json", plan)
    return {key: run for key, (run, _, _) in runs.items()}
