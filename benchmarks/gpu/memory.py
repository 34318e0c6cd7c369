"""The largest micro-batch that fits, as the planner says, against what the card takes.

To be quick, only a part of the card is used: torch may hold CARD_BYTES less a CUDA context, as on a card of that size,
and the planner is told of one. It leaves a tenth of it free on purpose, so a little more than it says must fit: a tenth
may, a quarter must not. At the predicted largest micro-batch and at half of it the predicted peak is compared with the
peak of tensors in two training steps. Batches are random: the data set has no part in this.
"""

from __future__ import annotations

import gc
import itertools
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from benchmarks.gpu.runs import OUT, stepper_of, study_of
from benchmarks.gpu.say import PRETENDED, figure, size, verdict
from hpc_accel.plan.cost import StepModel
from hpc_accel.plan.memory import CONTEXT_BYTES, device_limit_bytes
from hpc_accel.plan.memory_fit import memory_refusal
from hpc_accel.plan.software import torch_amp
from hpc_accel.probe.hardware import Hardware, checked_hardware, load_hardware
from hpc_accel.runtime.batches import Share
from hpc_accel.runtime.precision import arithmetic
from hpc_accel.study.expand import resolve_workload
from hpc_accel.study.layout import Layout
from hpc_accel.study.optimizer import Optimizer
from hpc_accel.study.recipe import Recipe
from hpc_accel.study.run import Resources
from hpc_accel.workloads.batch import Batch
from hpc_accel.workloads.facts_without_weights import facts_of

BEGAN = time.perf_counter()
ADAMW = Optimizer(name="adamw")
RECIPE = {"precision": "bf16", "fused_optimizer": True}
VIT = {"model": "vit-large", "patch": 16, "image": 224, "classes": 1000, "samples": 4096}
# Name, workload, arguments, more of the recipe, bytes of the card. A small stride makes windows enough for any batch.
CASES: tuple[tuple[str, str, dict[str, Any], dict[str, Any], float], ...] = (
    ("ViT-L/16", "vision", VIT, {}, 16e9),
    ("lm 350M", "lm", {"size": "350M", "stride": 64}, {}, 32e9),
    ("lm 124M recompute full", "lm", {"size": "124M", "stride": 64}, {"recompute": "full"}, 16e9),
)
TINY = {
    "vision": {"model": "vit-tiny", "patch": 16, "image": 32, "classes": 4, "samples": 64},
    "lm": {"layers": 2, "hidden": 32, "heads": 2, "sequence": 16},
}
MORE = (1.1, 1.25)


def main() -> None:
    """All cases, each by itself: one that fails does not stop the next."""
    hardware = probed()
    with arithmetic("bf16"):
        for name, workload, args, more, card_bytes in CASES:
            try:
                case(name, workload, args, {**RECIPE, **more}, with_memory(hardware, int(card_bytes)), card_bytes)
            except Exception as error:
                traceback.print_exc()
                verdict(name, False, f"{type(error).__name__}: {error}"[:300])
            freed()
    figure("seconds in all", time.perf_counter() - BEGAN, "s")


def probed() -> Hardware:
    """What the probe left of this card, or as little of one as the planner's memory needs."""
    path = OUT / "hardware.json"
    total = size(None, 80 * 10**9) or torch.cuda.get_device_properties(0).total_memory
    try:
        found = load_hardware(path)
        if found.slowest.device == "cuda":
            figure("card's memory by the probe over torch's", (found.slowest.device_memory_bytes or 0) / total)
            return found
    except Exception as error:
        figure("hardware.json", f"none: {error}"[:200])
    kind = {
        "name": "node",
        "num_nodes": 1,
        "device": "cuda",
        "devices_per_node": 1,
        "num_cpus": 16,
        "memory_bytes": 128 * 10**9,
        "device_memory_bytes": int(total),
        "matmul_flops_per_s": {"fp32": 5e13, "bf16": 6e14},
        "memory_bandwidth_bytes_per_s": 3e12,
        "kernel_overhead_s": 1e-5,
    }
    network = {"intra_node_reason": "one rank", "inter_node_reason": "one node"}
    whole = {"site": "local", "created_utc": "2026-11-27T00:00:00+00:00", "num_nodes": 1, "ranks_per_node": 1}
    return checked_hardware({**whole, "format": 1, "node_kinds": [kind], "network": network})


def with_memory(hardware: Hardware, card_bytes: int) -> Hardware:
    """The same machine with cards of that size."""
    kind = hardware.slowest.model_copy(update={"device_memory_bytes": card_bytes})
    return hardware.model_copy(update={"node_kinds": (kind,)})


def case(
    name: str, workload: str, args: dict[str, Any], recipe: dict[str, Any], hardware: Hardware, card_bytes: float
) -> None:
    """Predicted largest, that and half of it for real, then more."""
    peak, predicted_largest = predictions(workload, args, recipe, hardware)
    largest = predicted_largest()
    figure(f"{name} largest micro-batch predicted", largest, "samples")
    figure(f"{name} peak predicted there", peak(largest) / 1e9, "GB")
    if PRETENDED:
        stepper = stepper_of(workload, TINY[workload], 4, recipe=recipe)
        verdict(f"{name} fits", fits(stepper, 4))
        verdict(f"{name} fits rebatched", fits(stepper, 6))
        return
    allow(card_bytes - CONTEXT_BYTES)
    stepper = stepper_of(workload, args, largest, recipe=recipe)
    fitted = fits(stepper, largest)
    verdict(f"{name} fits as predicted", fitted, "" if fitted else f"out of memory at micro-batch {largest}")
    if not fitted:
        del stepper
        freed()
        smaller = int(largest * 0.9)
        fitted = fits(stepper_of(workload, args, smaller, recipe=recipe), smaller)
        figure(f"{name} predicted over real largest", largest / smaller if fitted else None, low=0.9, high=1.0)
        return
    compare_peak(f"{name} at the largest", peak(largest))
    half = max(1, largest // 2)
    if fits(stepper, half):
        compare_peak(f"{name} at half", peak(half))
    real = largest
    for factor in MORE:
        tried = max(real + 1, int(largest * factor))
        if not fits(stepper, tried):
            figure(f"{name} does not fit at", tried, "samples")
            break
        real = tried
        compare_peak(f"{name} at {factor:g} of it", peak(tried))
    figure(f"{name} predicted over real largest", largest / real, low=0.9, high=1.0)


def predictions(
    workload: str, args: dict[str, Any], recipe: dict[str, Any], hardware: Hardware
) -> tuple[Callable[[int], int], Callable[[], int]]:
    """Peak bytes by micro-batch, and the largest micro-batch that the planner does not refuse."""
    content = {"name": workload, "args": args, "global_batch_size": 1, "optimizer": {"name": "adamw"}}
    study = study_of(content)
    (choice,) = study.workloads
    facts = facts_of(resolve_workload(choice), study.seed)
    whole = Recipe(**recipe)
    model = StepModel(facts, hardware, whole.precision, torch_amp(ADAMW, whole))
    resources = Resources(ranks_per_node=1, gpus_per_node=1)

    def layout(micro: int) -> Layout:
        return Layout(micro_batch_size=micro, accumulation_steps=1)

    def peak(micro: int) -> int:
        return model.peak_memory_bytes(layout(micro))

    def largest() -> int:
        limit = device_limit_bytes(model.kind, resources)
        assert limit is not None
        below, above = 0, 1
        while memory_refusal(workload, layout(above), resources, model) is None:
            below, above = above, 2 * above
        while above - below > 1:
            middle = (below + above) // 2
            if memory_refusal(workload, layout(middle), resources, model) is None:
                below = middle
            else:
                above = middle
        if below == 0 or peak(below) > limit:
            raise ValueError(f"micro-batch {below} of {limit / 1e9:.1f} GB predicted to fit: nothing to try")
        return below

    return peak, largest


def fits(stepper: Any, micro: int) -> bool:
    """Two training steps at that micro-batch; False out of memory. After that the stepper is of no use."""
    layout = stepper.place.layout.model_copy(update={"micro_batch_size": micro})
    stepper.place = replace(stepper.place, layout=layout)
    stepper.sampler.global_batch_size = stepper.sampler.share = micro
    stepper.shares = itertools.repeat(Share(micro_batches=[random_batch(stepper, micro)], digests=[]))
    if not PRETENDED:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        for _ in range(2):
            stepper.step()
        stepper.settle()
    except torch.OutOfMemoryError:
        return False
    return True


def random_batch(stepper: Any, micro: int) -> Batch:
    """As many samples as asked for, like those of the data set."""
    batch = next(stepper.shares).micro_batches[0]
    (inputs,), targets = batch.args, batch.targets
    if inputs.is_floating_point():
        args, targets = (torch.randn(micro, *inputs.shape[1:]),), torch.randint(0, 4, (micro,))
    else:
        args = (torch.randint(0, 256, (micro, *inputs.shape[1:])),)
        targets = torch.randint(0, 256, (micro, *targets.shape[1:]))
    return replace(batch, args=args, targets=targets, count=micro)


def compare_peak(name: str, predicted: int) -> None:
    """Against the peak of tensors since the micro-batch was set."""
    real = torch.cuda.max_memory_allocated()
    figure(f"{name}: peak predicted over real", predicted / real, low=0.9, high=1.1)
    reserved = torch.cuda.max_memory_reserved()
    figure(f"{name}: peak real", real / 1e9, "GB")
    figure(f"{name}: held by torch over tensors", reserved / real)


def allow(num_bytes: float) -> None:
    """Torch's allocator may take so much of the card."""
    torch.cuda.set_per_process_memory_fraction(num_bytes / torch.cuda.get_device_properties(0).total_memory)


def freed() -> None:
    """Nothing of a case is left for the next."""
    gc.collect()
    if not PRETENDED:
        torch.cuda.empty_cache()
    figure("seconds so far", time.perf_counter() - BEGAN, "s")


if __name__ == "__main__":
    main()
