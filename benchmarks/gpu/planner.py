"""Step times and energy of configurations on one card: predicted after the probe and the calibration, and measured.

The probe's calibration runs as `hpc-accel probe STUDY` would, for several studies of each model. What it wrote and what
was measured go to planner.json, from which predictions can be made again, also with a part of the calibration.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from shutil import copy
from statistics import median
from tempfile import mkdtemp
from typing import Any

import torch

from benchmarks.gpu.runs import OUT, stepper_of_run, study_of
from benchmarks.gpu.say import PRETENDED, figure, settle, size, verdict
from hpc_accel.calibrate.run import NAME, calibrate
from hpc_accel.plan.calibration import read_calibrations
from hpc_accel.plan.planner import make_plan
from hpc_accel.probe.hardware import load_hardware
from hpc_accel.runtime.precision import arithmetic
from hpc_accel.study.expand import resolve_workload
from hpc_accel.workloads.facts_without_weights import facts_of

TINY = {"layers": 2, "hidden": 32, "heads": 2, "sequence": 16}
SMALL, MEDIUM = size(({"size": "124M"}, {"size": "350M"}), (TINY, {**TINY, "layers": 3}))
IMAGES = size({"image": 224, "classes": 1000, "samples": 256}, {"image": 16, "classes": 10, "samples": 8})
BF16: dict[str, Any] = {"precision": ["bf16"], "fused_optimizer": True}
FP32: dict[str, Any] = {"precision": ["fp32"] if PRETENDED else ["fp32", "tf32"], "fused_optimizer": True}
Studies = tuple[tuple[dict[str, Any], list[int]], ...]
# Name, workload, arguments, global batch; of each study the recipe and the accumulation steps.
MODELS: tuple[tuple[str, str, dict[str, Any], int, Studies], ...] = (
    (
        "lm 124M",
        "lm",
        SMALL,
        size(32, 8),
        (
            (BF16, size([1, 4, 16], [1, 4])),
            (FP32, [4]),
            ({**BF16, "recompute": "full"}, [1]),
            ({**BF16, "compile": True}, [1]),
        ),
    ),
    ("lm 350M", "lm", MEDIUM, size(16, 8), ((BF16, size([1, 2, 8], [1, 2])),)),
    ("ViT-L", "vision", {"model": size("vit-large", "vit-tiny"), "patch": 16, **IMAGES}, size(64, 4), ((BF16, [2]),)),
    (
        "ResNet-50",
        "vision",
        {"model": size("resnet50", "resnet18"), **IMAGES},
        size(128, 4),
        ((BF16, [2]), ({**BF16, "channels_last": True}, size([2], [1]))),
    ),
)
WITH_ENERGY = ("lm 124M bf16 x1", "lm 124M bf16 x16", "lm 350M bf16 x1", "lm 350M bf16 x8", "ResNet-50 bf16 x2")
WINDOW_S = size(4, 0.2)


def planned(args: tuple[Any, ...]) -> list[tuple[str, Any, float | None, float | None]]:
    """Calibrate one model's studies; of each run name, run, predicted milliseconds, and joules of a step."""
    name, workload, arguments, batch, studies = args
    directory = Path(mkdtemp())
    hardware = directory / "hardware.json"
    copy(OUT / "hardware.json", hardware)
    content = {"name": workload, "args": arguments, "global_batch_size": batch, "optimizer": {"name": "adamw"}}
    each = [
        study_of(content, recipes=[recipe], layouts=[{"accumulation_steps": steps}], calibrate=True)
        for recipe, steps in studies
    ]
    began = time.perf_counter()
    for study in each:
        calibrate(study, hardware)
    figure(f"{name}: calibration", time.perf_counter() - began, "s")
    file = read_calibrations(directory / NAME)
    assert file is not None
    for why in file.unmeasured.values():
        verdict(f"{name}: calibrated", False, why)
    keep(name, "calibration", json.loads(file.model_dump_json()))
    found = []
    for study in each:
        (choice,) = study.workloads
        facts = {workload: facts_of(resolve_workload(choice), study.seed)}
        plan = make_plan(study, load_hardware(hardware), facts, calibrations=file.workloads)
        for candidate in plan.candidates:
            run, told = candidate.run, candidate.prediction
            options = "".join(f" {option}" for option in run.recipe.options if "fused" not in option)
            title = f"{name} {run.recipe.precision}{options} x{run.layout.accumulation_steps}"
            joules = told.energy_j / run.measure.steps if told and told.energy_j else None
            if not PRETENDED and (told is None or told.step_time_ms is None):  # a busy laptop predicts nothing
                verdict(f"{title}: predicted", False, told.step_time_reason if told else str(candidate.refused))
            found.append((title, run, told.step_time_ms if told else None, joules))
    return found


def keep(name: str, key: str, content: Any) -> None:
    """Beside what is in planner.json already."""
    path = OUT / "planner.json"
    whole = json.loads(path.read_text()) if path.exists() else {}
    whole.setdefault(name, {})[key] = content
    path.write_text(json.dumps(whole, indent=1) + "\n")


def measured_ms(stepper: Any) -> float:
    """Median of ten steps, after four."""
    for _ in range(4):
        stepper.step()
    flown = [stepper.step() for _ in range(size(10, 3))]
    stepper.settle()
    return median(each.result().step.duration_ns for each in flown) / 1e6


def joules_per_step(stepper: Any) -> float | None:
    """By the board's counter over some seconds of steps; None on a pretended card."""
    if PRETENDED:
        return None
    import pynvml

    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    settle()
    before, began, steps = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle), time.perf_counter(), 0
    while time.perf_counter() < began + WINDOW_S:
        stepper.step()
        steps += 1
    stepper.settle()
    joules: float = (pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) - before) / 1e3
    return joules / steps


def compared(title: str, run: Any, predicted_ms: float | None, predicted_j: float | None) -> tuple[float, float] | None:
    """One configuration for real; (predicted, measured) milliseconds."""
    stepper = stepper_of_run(run)
    with arithmetic(run.recipe.precision):  # as a run does around its steps
        measured = measured_ms(stepper)
        joules = joules_per_step(stepper) if title in WITH_ENERGY else None
    stepper.release()
    figure(f"{title}: measured", measured, "ms")
    keep(title, "measured", {"step_ms": measured, "step_j": joules, "predicted_ms": predicted_ms})
    if joules is not None:
        figure(f"{title}: energy per step", joules, "J")
        figure(f"{title}: energy predicted over measured", predicted_j and predicted_j / joules, low=0.9, high=1.1)
    if predicted_ms is None:
        return None
    figure(f"{title}: predicted over measured", predicted_ms / measured)
    return predicted_ms, measured


def main() -> None:
    """Each model as it comes, then all together."""
    pairs = []
    for model in MODELS[: size(None, 2)]:  # a CPU takes minutes for the images
        try:
            for each in planned(model):
                pairs.append(compared(*each))
                if not PRETENDED:
                    torch.cuda.empty_cache()
        except Exception as error:
            verdict(model[0], False, f"{type(error).__name__}: {str(error)[:300]}")
    known = [pair for pair in pairs if pair is not None]
    errors = [abs(predicted / measured - 1) for predicted, measured in known]
    figure("median error of the planner's predictions", median(errors) if errors else None, high=size(0.08, None))
    figure("configurations predicted", len(known), low=size(12, None))


if __name__ == "__main__":
    main()
