"""Inference on this card by the product: latency, energy per request, tokens with and without a key-value cache."""

from __future__ import annotations

import faulthandler
import time
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from benchmarks.gpu.runs import study_of, write_runs
from benchmarks.gpu.say import PRETENDED, figure, size, verdict
from hpc_accel.record import Summary
from hpc_accel.study.expand_infer import inference_runs

LM = {
    "name": "lm",
    "args": size({"size": "350M"}, {"layers": 2, "hidden": 32, "heads": 2, "sequence": 48}),
    "global_batch_size": 8,
}
VIT = {
    "name": "vision",
    "args": size(
        {"model": "vit-large", "patch": 16, "image": 224, "classes": 1000, "samples": 128},
        {"model": "vit-tiny", "image": 32, "classes": 10, "samples": 32},
    ),
    "global_batch_size": 8,
}
GENERATE = size({"prompt": 128, "tokens": 32}, {"prompt": 8, "tokens": 4})
SERVE: dict[str, Any] = {
    "batch_sizes": [8],
    "arrival_rates_per_s": [size(50.0, 20.0)],
    "num_requests": size(150, 10),
    "warmup_requests": size(30, 2),
    "layouts": [{}],
}
MEASURE = {"warmup_steps": 3, "steps": size(10, 2), "idle_s": 0, "metric_samples": 16}


def served(workload: dict[str, Any], recipes: list[dict[str, Any]], generate: dict[str, Any] | None) -> list[Any]:
    """The runs of one model."""
    infer = {**SERVE, "recipes": recipes} | ({"generate": generate} if generate else {})
    study = study_of({**workload, "infer": infer}, train=False, measure=MEASURE)
    return list(inference_runs(study, study.workloads[0]))


def told(name: str, summary: Summary) -> None:
    """A run's figures."""
    assert summary.inference is not None
    verdict(f"{name}: answers agree with the serial fp32 model", summary.status == "completed", str(summary.error))
    figure(f"{name}: full batch of 8", summary.step_time_ms.value, "ms")
    figure(f"{name}: peak memory", (summary.memory.peak_memory_bytes.value or 0) / 1e9, "GB")
    for rate in summary.inference.rates:
        at = f"{name} at {rate.rate_per_s:g}/s"
        for percentile in ("p50", "p99"):
            figure(f"{at}: {percentile}", rate.latency_ms.percentile(percentile).value, "ms")
        figure(f"{at}: energy per request", rate.energy.per_request_j.value, "J")
    for each in summary.inference.generate:
        cache = "with cache" if each.kv_cache else "without cache"
        figure(f"{name}, {cache}: time to first token", each.time_to_first_token_ms.value, "ms")
        figure(f"{name}, {cache}: time per token", each.time_per_output_token_ms.value, "ms")
        figure(f"{name}, {cache}: tokens", each.tokens_per_s, "1/s")
        figure(f"{name}, {cache}: energy per token", each.energy.per_token_j.value, "J")


def refused() -> None:
    """int8 is kernels of CPUs: the study's rules must say so before anything starts."""
    from hpc_accel.study.rules import refusals

    (run,) = served(LM, [{"quantize": "int8"}], None)
    why = [str(error) for error in refusals(run, study_of(LM).resources)]
    figure("int8 on a GPU", why[0] if why else "not refused")
    verdict("int8 is refused on a GPU", bool(why) or PRETENDED)


def main() -> None:
    """All runs, a failure told and passed over."""
    from hpc_accel.infer.main import run_inference

    if not PRETENDED:
        faulthandler.dump_traceback_later(15, repeat=True)  # the log then says what took so long
    directory = Path(mkdtemp())
    plain = [{"precision": ["fp32"]}, {"precision": ["bf16"]}]
    runs = [("ViT-L", run) for run in served(VIT, plain, None)]
    runs += [("lm 350M", run) for run in served(LM, list(reversed(plain)), GENERATE)]
    runs += [("ViT-L compiled", run) for run in served(VIT, [{"precision": ["bf16"], "compile": True}], None)]
    try:
        refused()
    except Exception as error:
        verdict("int8 is refused on a GPU", False, f"{type(error).__name__}: {error}")
    num_ran = 0
    for name, run in runs:
        title = f"{name} {run.recipe.precision}"
        (path,) = write_runs([run], directory)
        began = time.perf_counter()
        try:
            summary = run_inference(path)
            assert summary is not None
            num_ran += 1
            figure(f"{title}: the run took", time.perf_counter() - began, "s")
            told(title, summary)
        except (Exception, SystemExit) as error:
            verdict(title, False, f"{type(error).__name__}: {str(error)[:300]}")
    verdict("inference ran", num_ran == len(runs), f"{num_ran} of {len(runs)} runs")


if __name__ == "__main__":
    main()
