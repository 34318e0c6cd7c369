"""Inference runs added to a made study: summaries as `hpc-accel infer` leaves them, from a simple law of latency."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hpc_accel.study.infer_options import Infer
from hpc_accel.study.layout import Layout
from hpc_accel.study.recipe import Recipe
from hpc_accel.study.run import Measure, Resources, Run, WorkloadSpec
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


def rate(rate_per_s: float, capacity_per_s: float, num_requests: int = 500) -> dict[str, Any]:
    """One entry of inference.rates: latency grows as 1 / (1 - load)."""
    base = 1e3 / capacity_per_s / max(0.02, 1 - rate_per_s / capacity_per_s)
    missed = 0.25 if base * 5 > 20 else 0.0
    return {
        "rate_per_s": rate_per_s, "num_requests": num_requests, "num_warmup": 50, "served_per_s": rate_per_s * 0.99,
        "latency_ms": {"p50": base, "p90": base * 2, "p99": base * 5, "p99_9": None, "max": base * 8,
                       "intervals": {"p50": [base * 0.95, base * 1.05], "p90": [base * 1.9, base * 2.1],
                                     "p99": [base * 4.5, base * 6]},
                       "num_requests": num_requests,
                       "reasons": {"p99_9": f"{num_requests} requests: p99.9 needs at least 1000"}},
        "waiting_p50_ms": base / 4, "mean_batch": 1.5,
        "deadline": {"deadline_ms": 20.0, "num_missed": int(missed * num_requests), "share_missed": missed,
                     "max_missed": 0.0, "passed": not missed, "reason": ""},
        "energy": {"energy_j": None, "window_s": 5.0, "scope": None, "method": "none", "reason": NO_SENSOR,
                   "remedy": "", "per_request_j": None},
    }  # fmt: skip


def inference_summary(run: Run, capacity_per_s: float, *, agreement: float = 1.0) -> dict[str, Any]:
    """summary.json of an inference run; one whose classes agree in less than 0.9 is wrong."""
    assert run.infer is not None
    batch, wrong = run.workload.global_batch_size, agreement < 0.9
    step_ms = batch / capacity_per_s * 1e3
    reason = f"{agreement:.1%} of the classes are those of the unchanged fp32 model" if wrong else None
    rates = [rate(each, capacity_per_s) for each in RATES]
    return {
        "format": 1, "run_id": run.run_id, "study": run.study, "site": run.site,
        "status": "wrong" if wrong else "completed",
        "error": {"rank": None, "kind": "parity", "message": reason, "remedy": "prune less"} if wrong else None,
        "device": "cpu", "num_nodes": 1, "num_ranks": run.layout.num_ranks, "hosts": ["node01"],
        "steps": {"num_warmup": 5, "num_timed": 30, "global_batch_size": batch},
        "step_time_ms": {"median": step_ms, "ci_low": step_ms * 0.98, "ci_high": step_ms * 1.02, "method": "median"},
        "throughput_samples_per_s": capacity_per_s, "startup_ms": {}, "peak_memory_bytes": 2 * 10**8,
        "latency_ms": {"rate_per_s": RATES[-1], **rates[-1]["latency_ms"]},
        "energy": {"energy_j": None, "scope": None, "method": "none", "reason": NO_SENSOR, "remedy": ""},
        "inference": {
            "batch_size": run.infer.batch_size, "replicas": run.layout.dp, "arrivals": "poisson",
            "rates": rates,
            "limit": {"latency_limit_ms": 20.0, "percentile": 99, "max_rate_per_s": capacity_per_s * 0.7,
                      "next_rate_per_s": capacity_per_s * 0.72, "tried": [], "method": "bisection", "reason": ""},
            "generate": [{"kv_cache": cache, "prompt": 4, "tokens": 8, "num_sequences": 1, "repeats": 3,
                          "time_to_first_token_ms": {"median": 3.0}, "tokens_per_s": 100.0,
                          "time_per_output_token_ms": {"median": 1.0 if cache else 4.0},
                          "cache_max_rel_err": 2e-7 if cache else None, "energy": {"per_token_j": None}}
                         for cache in (True, False)],
            "notes": ["quantize int8: 2 linear layers"] if run.recipe.quantize == "int8" else []},
        "outputs": {"num_samples": 256, "max_rel_err": 0.0 if agreement == 1.0 else 0.02,
                    "top1_agreement": agreement, "top1_reason": "", "metric_reason": "",
                    "metric": {"name": "accuracy", "higher_is_better": True, "value": 0.9, "reference_value": 0.91,
                               "num_samples": 300}},
        "parity": {"max_rel_err": 1e-7, "tolerance": 1e-4, "steps": 256, "passed": not wrong, "reason": reason},
        "provenance": {"torch": "2.13.0"},
    }  # fmt: skip


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
        write_json(directory / "summary.json", inference_summary(run, capacity_per_s, agreement=agreement))
    write_json(study_dir / "plan.json", plan)
    return {key: run for key, (run, _, _) in runs.items()}
