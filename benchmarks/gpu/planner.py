"""Step times of twelve configurations on one card: predicted from the probe, and measured.

Beside them stands what a prediction from one measured block would say: times of one block, of what is around the
blocks, and of the optimizer, put together. The planner does not do that yet; the figures are for when it does.
"""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import torch

from benchmarks.gpu.runs import OUT, stepper_of, study_of
from benchmarks.gpu.say import DEVICE, PRETENDED, figure, settle, size, verdict
from hpc_accel.runtime.precision import arithmetic

TINY = {"layers": 2, "hidden": 32, "heads": 2, "sequence": 16}
SMALL, MEDIUM = size(({"size": "124M"}, {"size": "350M"}), (TINY, TINY))
IMAGES = size({"image": 224, "classes": 1000, "samples": 128}, {"image": 32, "classes": 10, "samples": 32})
BF16: dict[str, Any] = {"precision": "bf16", "fused_optimizer": True}
# Name, workload, arguments, micro-batch, recipe, layout.
CONFIGURATIONS: list[tuple[str, str, dict[str, Any], int, dict[str, Any], dict[str, Any]]] = [
    ("lm 124M, 2", "lm", SMALL, 2, BF16, {}),
    ("lm 124M, 8", "lm", SMALL, 8, BF16, {}),
    ("lm 124M, 32", "lm", SMALL, size(32, 16), BF16, {}),
    ("lm 124M, 8, tf32", "lm", SMALL, 8, {**BF16, "precision": "tf32"} if not PRETENDED else {}, {}),
    ("lm 124M, 8, fp32", "lm", SMALL, 8, {"precision": "fp32", "fused_optimizer": True}, {}),
    ("lm 124M, 32, recompute", "lm", SMALL, size(32, 16), {**BF16, "recompute": "full"}, {}),
    ("lm 124M, 8 x 4", "lm", SMALL, size(32, 16), BF16, {"accumulation_steps": 4}),
    ("lm 350M, 2", "lm", MEDIUM, 2, BF16, {}),
    ("lm 350M, 8", "lm", MEDIUM, 8, BF16, {}),
    ("lm 350M, 16", "lm", MEDIUM, 16, BF16, {}),
    ("ViT-L, 32", "vision", {"model": size("vit-large", "vit-tiny"), **IMAGES}, size(32, 8), BF16, {}),
    ("ResNet-50, 64", "vision", {"model": size("resnet50", "resnet18"), **IMAGES}, size(64, 8), BF16, {}),
]


def predicted_ms(name: str, args: dict[str, Any], batch: int, recipe: dict[str, Any], layout: dict[str, Any]) -> float:
    """By the planner, from the hardware.json that the probe step left."""
    from hpc_accel.plan.planner import make_plan
    from hpc_accel.probe.hardware import load_hardware
    from hpc_accel.study.expand import resolve_workload
    from hpc_accel.workloads.facts_without_weights import facts_of

    workload = {"name": name, "args": args, "global_batch_size": batch, "optimizer": {"name": "adamw"}}
    listed = {key: [value] if key == "precision" else value for key, value in recipe.items()}
    study = study_of(workload, recipes=[listed], layouts=[layout])
    (choice,) = study.workloads
    facts = {name: facts_of(resolve_workload(choice), study.seed)}
    (candidate,) = make_plan(study, load_hardware(OUT / "hardware.json"), facts).candidates
    assert candidate.prediction is not None
    if candidate.prediction.step_time_ms is None:
        raise ValueError(candidate.prediction.step_time_reason)
    return candidate.prediction.step_time_ms


def measured_ms(stepper: Any) -> float:
    """Median of ten steps, after four."""
    for _ in range(4):
        stepper.step()
    flown = [stepper.step() for _ in range(size(10, 3))]
    stepper.settle()
    return median(each.result().step.duration_ns for each in flown) / 1e6


def composed_ms(stepper: Any, name: str, batch: int) -> float:
    """One block's forward and backward times the number of blocks, and the rest of the step measured without them."""
    model, autocast = stepper.model.module, torch.autocast(DEVICE.type, dtype=torch.bfloat16)
    layers = list(model)
    first = stepper.next_batch()[0]
    inputs, targets = first.args, first.targets
    with autocast:
        states = layers[0](*(each[:batch] for each in inputs)).detach().requires_grad_(True)

        def block() -> None:
            layers[1](states).sum().backward()

        def around() -> None:
            stepper.loss.loss(
                layers[-1](layers[0](*(each[:batch] for each in inputs))).float(), targets[:batch]
            ).backward()

        block_s, around_s = timed_s(block), timed_s(around)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    update_s = timed_s(stepper.optimizer.step)
    parts = {"one block": block_s, "embedding, head and loss": around_s, "optimizer": update_s}
    for part, seconds in parts.items():
        figure(f"{name}: {part}", 1e3 * seconds, "ms")
    return 1e3 * (block_s * (len(layers) - 2) + around_s + update_s)


def timed_s(call: Any) -> float:
    """Seconds of one call, back to back."""
    for _ in range(3):
        call()
    settle()
    began = time.perf_counter()
    for _ in range(size(10, 2)):
        call()
    settle()
    return (time.perf_counter() - began) / size(10, 2)


def energy_per_token(stepper: Any, name: str, tokens: int) -> None:
    """By the board's counter over three seconds of steps."""
    import pynvml

    pynvml.nvmlInit()
    handle = pynvml.nvmlDeviceGetHandleByIndex(0)
    settle()
    before, began, steps = pynvml.nvmlDeviceGetTotalEnergyConsumption(handle), time.perf_counter(), 0
    while time.perf_counter() < began + 3:
        stepper.step()
        steps += 1
    stepper.settle()
    joules = (pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) - before) / 1e3
    figure(f"{name}: energy per token", 1e3 * joules / steps / tokens, "mJ")


def main() -> None:
    """Each configuration as it comes, then all together."""
    errors, pairs, composed = [], [], []
    for name, workload, args, batch, recipe, layout in CONFIGURATIONS:
        try:
            prediction = predicted_ms(workload, args, batch, recipe, layout)
            stepper = stepper_of(workload, args, batch, recipe=recipe, layout=layout)
            with arithmetic(str(recipe.get("precision", "fp32"))):  # as a run does around its steps
                measurement = measured_ms(stepper)
            figure(f"{name}: measured", measurement, "ms")
            figure(f"{name}: predicted over measured", prediction / measurement)
            errors.append(abs(prediction / measurement - 1))
            pairs.append((prediction, measurement))
            if workload == "lm" and recipe == BF16 and not layout:
                value = composed_ms(stepper, name, batch)
                figure(f"{name}: blocks put together over measured", value / measurement)
                composed.append(abs(value / measurement - 1))
            if name in ("lm 124M, 32", "lm 350M, 8") and not PRETENDED:
                energy_per_token(stepper, name, batch * 1024)
            stepper.release()
            del stepper
        except Exception as error:
            verdict(name, False, f"{type(error).__name__}: {str(error)[:300]}")
        if not PRETENDED:
            torch.cuda.empty_cache()
    error = median(errors) if errors else None
    figure("median error of the planner's predictions", error, high=size(0.08, None))
    figure("median error of blocks put together", median(composed) if composed else None)
    if len(pairs) < 2:
        return
    ranks = [sorted(range(len(pairs)), key=lambda i, s=side: pairs[i][s]) for side in (0, 1)]
    places = [{index: place for place, index in enumerate(order)} for order in ranks]
    distance, count = sum((places[0][i] - places[1][i]) ** 2 for i in range(len(pairs))), len(pairs)
    figure("rank correlation (Spearman)", 1 - 6 * distance / (count * (count**2 - 1)))


if __name__ == "__main__":
    main()
