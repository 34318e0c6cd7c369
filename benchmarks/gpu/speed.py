"""Does the product train as fast as a careful loop of plain torch, in turns in one process, and how near to the card?

Both sides train copies of one model from the same weights: fp32 weights under bf16 autocast, fused AdamW, flash
attention, gradients set to None. The plain loop finds four batches on the device, which no real loop can better; the
product reads text through its own loader. Synthetic images cost the host more than a GPU takes to learn from them, so
there the product copies four pinned batches again and again, and what its loader takes is told apart.
cudnn.benchmark is off on both sides, as torch has it; what it would bring a plain loop is told for ResNet-50.
"""

from __future__ import annotations

import copy
import gc
import itertools
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch
from torch import nn

from benchmarks.gpu.runs import stepper_of
from benchmarks.gpu.say import DEVICE, PRETENDED, figure, settle, size, verdict
from hpc_accel.runtime.precision import arithmetic

BEGAN = time.perf_counter()
LEARNING_RATE = 1e-5  # random weights must not become infinite: a card computes with those faster
RECIPE = {"precision": "bf16", "fused_optimizer": True}
PINNED = size({"pin_memory": True}, {})
TINY_LM = {"layers": 1, "hidden": 32, "heads": 2, "sequence": 16}
TINY_VISION = {"model": "resnet18", "image": 32, "classes": 4, "samples": 64}
LARGE = {"layers": 24, "hidden": 2048, "heads": 16, "sequence": 1024}

# Name, arguments, micro-batch, steps of a block, rounds.
LANGUAGE = (
    ("lm 124M", {"size": "124M"}, 16, 10, 4),
    ("lm 350M", {"size": "350M"}, 16, 5, 3),
    ("lm 1.3B", LARGE, 8, 5, 2),
)
VISION = (
    ("ResNet-50", {"model": "resnet50", "norm": "batch"}, 128, 10, 3, {"channels_last": True}),
    ("ViT-L/16", {"model": "vit-large", "patch": 16}, 64, 10, 3, {}),
)
IMAGES = {"image": 224, "classes": 1000, "samples": 1024}


class Plain:
    """The loop beside the product's, on a copy of the product's model and batches that lie on the device."""

    def __init__(self, stepper: Any, batches: list[Any], *, compiled: bool = False) -> None:
        self.model = copy.deepcopy(stepper.model.module)
        self.model.__dict__.pop("forward", None)  # the product's autocast around the product's own weights
        self.loss = stepper.loss.loss
        self.batches = itertools.cycle([stepper.moved(share.micro_batches[0]) for share in batches])
        decay = stepper.optimizer.defaults["weight_decay"]
        parameters = self.model.parameters()
        self.optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=decay, fused=True)
        self.call: Callable[..., torch.Tensor] = torch.compile(self.model) if compiled else self.model

    def step(self) -> None:
        """One step, launched."""
        batch = next(self.batches)
        with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
            outputs = self.call(*batch.args)
        self.loss(outputs.float(), batch.targets).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def main() -> None:
    """All models, each by itself: one that fails does not stop the next. `compiled`: the compiled one alone."""
    with arithmetic("bf16"):
        rate = None
        with guarded("bf16 product rate"):
            rate = product_rate()
        if "compiled" in sys.argv:
            with guarded("lm 124M compiled"):
                name, args, batch, steps, rounds = LANGUAGE[0]
                settings = (size(args, TINY_LM), size(batch, 4), size(steps, 2), size(rounds, 1))
                language(f"{name} compiled", *settings, rate, compiled=True)
            return
        for name, args, batch, steps, rounds in LANGUAGE:
            with guarded(name):
                language(name, size(args, TINY_LM), size(batch, 4), size(steps, 2), size(rounds, 1), rate)
        for name, args, batch, steps, rounds, recipe in VISION:
            with guarded(name):
                vision(name, vision_args(args), size(batch, 8), size(steps, 2), size(rounds, 1), recipe)
        figure("seconds in all", time.perf_counter() - BEGAN, "s")


@contextmanager
def guarded(name: str) -> Iterator[None]:
    """What goes wrong inside is told; what the one before had on the device is gone, its exception's frames too."""
    gc.collect()
    torch._dynamo.reset()
    if not PRETENDED:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        yield
    except Exception as error:
        traceback.print_exc()
        verdict(name, False, f"{type(error).__name__}: {error}"[:300])


def product_rate() -> float:
    """Median rate of one large bf16 product, for about a second, which is what the card keeps up."""
    n, repeats = size(8192, 128), size(20, 2)
    a, b = (torch.randn(n, n, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(size(50, 2)):
        torch.matmul(a, b)
    settle()
    times, began = [], time.perf_counter()
    while time.perf_counter() - began < size(1.0, 0.05):
        start = time.perf_counter()
        for _ in range(repeats):
            torch.matmul(a, b)
        settle()
        times.append((time.perf_counter() - start) / repeats)
    rate = 2 * n**3 / median(times)
    figure("bf16 product of 8192 x 8192", rate / 1e12, "TFLOP/s")
    return rate


def language(
    name: str, args: dict[str, Any], batch: int, steps: int, rounds: int, rate: float | None, *, compiled: bool = False
) -> None:
    """Tokens a second of both, and of the card's rate."""
    stepper = built("lm", args, batch, {**RECIPE, **PINNED, **({"compile": True} if compiled else {})})
    batches = pinned_batches(stepper)
    plain = Plain(stepper, batches, compiled=compiled)
    if not compiled:
        same_outputs(name, stepper, plain, batches[0])
    targets = batches[0].micro_batches[0].targets
    tokens = targets.numel()
    plain_s, product_s = compare(name, stepper, plain, steps, rounds)
    figure(f"{name} product", tokens / product_s, "tokens/s")
    figure(f"{name} plain", tokens / plain_s, "tokens/s")
    figure(f"{name} data phase, median", data_ms(stepper, size(5, 2)), "ms")
    flops = tokens * flops_per_token(plain.model, targets.shape[1])
    figure(f"{name} product's rate", flops / product_s / 1e12, "TFLOP/s")
    figure(f"{name} MFU over the measured product", flops / product_s / rate if rate else None)
    tell_memory(name)


def vision(name: str, args: dict[str, Any], batch: int, steps: int, rounds: int, more: dict[str, Any]) -> None:
    """Images a second of both on the same pinned batches; then what the product's loaders make of it."""
    recipe = {**RECIPE, **PINNED, **more}
    stepper = built("vision", args, batch, recipe)
    batches = pinned_batches(stepper)
    loader, stepper.shares = stepper.shares, itertools.cycle(batches)
    plain = Plain(stepper, batches)
    same_outputs(name, stepper, plain, batches[0])
    plain_s, product_s = compare(name, stepper, plain, steps, rounds)
    figure(f"{name} product", batch / product_s, "images/s")
    figure(f"{name} plain", batch / plain_s, "images/s")
    tell_memory(name)
    stepper.shares = loader
    loader_s, loader_ms = loaded(stepper, 3)
    figure(f"{name} product, images drawn by the host, no workers", batch / loader_s, "images/s")
    figure(f"{name} data phase, no workers, median", loader_ms, "ms")
    if "channels_last" not in more:
        return
    torch.backends.cudnn.benchmark = True
    try:
        block(plain.step, settle, 3)
        figure(f"{name} plain with cudnn.benchmark over without", plain_s / block(plain.step, settle, steps))
    finally:
        torch.backends.cudnn.benchmark = False
    del plain, stepper, loader
    workers = size(8, 1)
    stepper = built("vision", args, batch, {**recipe, "data_workers": workers})
    loaded(stepper, size(10, 2))  # workers start, and fill what they keep ready
    worker_s, worker_ms = loaded(stepper, size(20, 2))
    figure(f"{name} product, images drawn by {size(8, 1)} workers", batch / worker_s, "images/s")
    figure(f"{name} data phase, {workers} workers, median", worker_ms, "ms")


def vision_args(args: dict[str, Any]) -> dict[str, Any]:
    """The same at the size of the literature, or tiny."""
    tiny = TINY_VISION if args["model"] == "resnet50" else {**TINY_VISION, "model": "vit-tiny", "patch": 16}
    return size({**IMAGES, **args}, tiny)


def built(name: str, args: dict[str, Any], batch: int, recipe: dict[str, Any]) -> Any:
    """The product's stepper, at the learning rate of both."""
    began = time.perf_counter()
    stepper = stepper_of(name, args, batch, recipe=recipe)
    for group in stepper.optimizer.param_groups:
        group["lr"] = LEARNING_RATE
    figure(f"{name} {args.get('size') or args.get('model') or 'as given'}: built in", time.perf_counter() - began, "s")
    return stepper


def pinned_batches(stepper: Any, count: int = 4) -> list[Any]:
    """The product's first batches, on the host; pinned where there is a device to read them."""
    batches = [next(stepper.shares) for _ in range(count)]
    return batches if PRETENDED else [each.pin_memory() for each in batches]


def same_outputs(name: str, stepper: Any, plain: Plain, batch: Any) -> None:
    """Both sides compute the same thing before they train: or no comparison means anything."""
    inputs = stepper.moved(batch.micro_batches[0]).args
    with torch.no_grad():
        ours = stepper.model.module(*inputs).float()
        with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
            theirs = plain.call(*inputs).float()
    difference = float((ours - theirs).norm() / theirs.norm())
    figure(f"{name} outputs differ by", difference, high=1e-2)


def compare(name: str, stepper: Any, plain: Plain, steps: int, rounds: int) -> tuple[float, float]:
    """Medians of a step of (plain, product) in s, from blocks in turns, plain first and last in each round."""
    sides = {"plain": (plain.step, settle), "product": (stepper.step, stepper.settle)}
    for side, (step, wait) in sides.items():
        figure(f"{name} {side}, first three steps", 3 * block(step, wait, 3), "s")
    times: dict[str, list[float]] = {"plain": [], "product": []}
    for _ in range(rounds):
        for side in ("plain", "product", "product", "plain"):
            step, wait = sides[side]
            times[side].append(block(step, wait, steps))
    ratios = [theirs / ours for theirs, ours in zip(times["plain"], times["product"], strict=True)]
    figure(f"{name} product over plain", median(ratios), low=size(0.98, 0.01))
    figure(f"{name} ratios of blocks", " ".join(f"{each:.4f}" for each in ratios))
    return median(times["plain"]), median(times["product"])


def block(step: Callable[[], Any], wait: Callable[[], None], steps: int) -> float:
    """Seconds of a step, of so many that the device is through with."""
    settle()
    began = time.perf_counter()
    for _ in range(steps):
        step()
    wait()
    settle()
    return (time.perf_counter() - began) / steps


def loaded(stepper: Any, steps: int) -> tuple[float, float]:
    """Seconds of a step with the product's own loader, and its median wait for data in ms."""
    block(stepper.step, stepper.settle, 2)
    flown: list[Any] = []
    seconds = block(lambda: flown.append(stepper.step()), stepper.settle, steps)
    return seconds, data_median_ms(flown)


def data_ms(stepper: Any, steps: int) -> float:
    """Median of the phase `data` over some more steps."""
    flown = [stepper.step() for _ in range(steps)]
    stepper.settle()
    return data_median_ms(flown)


def data_median_ms(flown: list[Any]) -> float:
    """Of each step the time of its phases `data`; their median."""
    return median(sum(p.duration_ns for p in each.result().phases if p.name == "data") / 1e6 for each in flown)


def flops_per_token(model: nn.Module, sequence: int) -> float:
    """Forward and backward: 6 a weight that multiplies, and attention's products, as if it were not causal."""
    embedded = sum(each.weight.numel() for each in model.modules() if isinstance(each, nn.Embedding))
    weights = sum(each.numel() for each in model.parameters()) - embedded
    width = next(each.weight.shape[1] for each in model.modules() if isinstance(each, nn.Embedding))
    num_blocks = sum(type(each).__name__ == "Block" for each in model.modules())
    return 6 * weights + 12 * num_blocks * width * sequence


def tell_memory(name: str) -> None:
    """How near to the card's end both together were."""
    if not PRETENDED:
        figure(f"{name} peak memory of both", torch.cuda.max_memory_allocated() / 1e9, "GB")


if __name__ == "__main__":
    main()
