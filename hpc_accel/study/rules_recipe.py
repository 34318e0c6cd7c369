"""Which recipes cannot work, alone or with a layout: torch's own limits and the device's, known before start."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

from hpc_accel.errors import ConfigError
from hpc_accel.study.devices import runs_on_gpus
from hpc_accel.study.model_facts import ModelFacts
from hpc_accel.study.refusal import refusal
from hpc_accel.study.run import Run


def recipe_refusals(run: Run) -> Iterator[ConfigError]:
    """Every rule that the recipe of `run` breaks."""
    yield from _device(run)
    yield from _data_parallel(run)
    yield from _compile(run)
    yield from _host(run)


def model_recipe_refusals(run: Run, facts: ModelFacts) -> Iterator[ConfigError]:
    """Every rule about its model that the recipe of `run` breaks."""
    recipe = run.recipe
    if recipe.channels_last and not facts.has_channels:
        rule = "channels_last orders the weights of 2-D and 3-D convolutions, of which the model has none"
        yield refusal(run, "channels_last without convolutions", rule, "leave channels_last out")
    if recipe.static_graph and facts.varies:
        rule = "a static graph uses the same parameters in each step; samples of this model use different ones"
        yield refusal(run, "static_graph where the parameters in use vary", rule, "leave static_graph out")
    if recipe.compression != "none" and facts.complex_parameters:
        value = f"compression {recipe.compression} with complex parameters, first {facts.complex_parameters[0]}"
        rule = "what compresses gradients knows real numbers only"
        yield refusal(run, value, rule, "leave compression out, or hold real and imaginary parts apart")
    if facts.autocast_problem and recipe.precision in ("bf16", "fp16"):
        rule = "autocast makes results of matrix products 16 bits wide, and leaves others as they are"
        remedy = "bring both to one type in the model: result.to(x.dtype), or use fp32"
        yield refusal(run, f"precision {recipe.precision}: {facts.autocast_problem}", rule, remedy)
    if facts.sparse_gradients:
        yield from _sparse(run, facts.sparse_gradients[0])


def _sparse(run: Run, name: str) -> Iterator[ConfigError]:
    """What torch does not do with sparse gradients."""
    recipe, remedy = run.recipe, "leave it out, or build the embedding with sparse=False"
    for value, wrong in (
        ("fused_optimizer", recipe.fused_optimizer),
        (f"compression {recipe.compression}", recipe.compression != "none"),
    ):
        if wrong:
            yield refusal(run, f"{value} with sparse gradients of {name}", "torch does this to dense gradients", remedy)


def _device(run: Run) -> Iterator[ConfigError]:
    recipe = run.recipe
    on_gpus = runs_on_gpus(run)
    wants_gpu = [
        (f"precision {recipe.precision}", recipe.precision in ("tf32", "fp8"), "this arithmetic is in GPUs only"),
        (f"offload {recipe.offload}", recipe.offload != "none", "offloading moves from a GPU's memory to the host's"),
        ("pin_memory", recipe.pin_memory, "pinned memory is what a GPU copies from"),
    ]
    broken = [(value, rule) for value, wanted, rule in wants_gpu if wanted and not on_gpus]
    for key in ("gpu_freq_mhz", "power_limit_w"):
        value = getattr(recipe, key)
        # GPUs used without being asked for may be another's too, so their clocks are left alone.
        if value is not None and not (on_gpus and run.resources.gpus_per_node):
            broken.append((f"recipe {key} {value}", f"{key} is set on the GPUs a run has asked for"))
    for value, rule in broken:
        yield refusal(run, f"{value} without GPUs", rule, "set resources.gpus_per_node, or leave it out")


def _data_parallel(run: Run) -> Iterator[ConfigError]:
    layout, recipe = run.layout, run.recipe
    if recipe.compression != "none" and layout.dp == 1:
        rule = "what is compressed are the gradients that replicas exchange"
        yield refusal(run, f"compression {recipe.compression} with dp 1", rule, "set dp >= 2")
    elif recipe.compression == "powersgd" and (layout.shard == "full" or layout.pp > 1 or not recipe.overlap):
        yield refusal(
            run,
            f"compression powersgd with shard {layout.shard}, pp {layout.pp}, overlap {recipe.overlap}",
            "PowerSGD is a hook of DistributedDataParallel on the whole model",
            "set shard: none or optimizer and pp: 1, or compression: bf16",
        )
    elif recipe.compression == "powersgd" and recipe.precision == "fp16":
        rule = (
            "PowerSGD adds what it left out to the next step's gradients, and an overflow in fp16 would stay for ever"
        )
        yield refusal(run, "compression powersgd with fp16", rule, "use bf16 or fp32, or compression: fp16")
    for key in ("bucket_mb", "static_graph", "overlap"):
        value = getattr(recipe, key)
        if value != type(recipe).model_fields[key].default and (layout.dp == 1 or layout.shard == "full"):
            yield refusal(
                run,
                f"recipe {key} {value} with dp {layout.dp}, shard {layout.shard}",
                f"{key} is an option of data parallelism that all-reduces gradients",
                f"set dp >= 2 and shard: none or optimizer, or leave {key} out",
            )
    several = layout.pp > 1 or layout.accumulation_steps > 1
    if recipe.static_graph and (several or recipe.average_every > 1 or not recipe.overlap):
        yield refusal(
            run,
            f"static_graph with pp {layout.pp}, accumulation_steps {layout.accumulation_steps}, "
            f"average_every {recipe.average_every}, overlap {recipe.overlap}",
            "DistributedDataParallel learns a static graph from one backward pass per step that exchanges gradients",
            "set pp and accumulation_steps to 1, or leave static_graph out",
        )
    if recipe.precision == "fp8" and layout.tp > 1:
        rule = "float8 layers are torchao's own, which tensor parallelism here does not divide"
        yield refusal(run, f"fp8 with tp {layout.tp}", rule, "use bf16, or set tp: 1")
    if layout.shard == "full" and recipe.channels_last:
        rule = "torch's FSDP2 divides contiguous parameters only"
        yield refusal(run, "channels_last with shard full", rule, "set shard: none or optimizer, or leave it out")
    if recipe.recompute == "selective" and layout.splits_backward:
        yield refusal(
            run,
            f"recompute selective with schedule {layout.schedule}",
            "what selective recomputation keeps is given once, and a backward of two halves asks twice",
            "use recompute: full, or gpipe, 1f1b, interleaved_1f1b or looped_bfs",
        )
    if recipe.offload == "parameters" and layout.shard != "full":
        rule = "parameters are offloaded by what shards them"
        yield refusal(run, f"offload parameters with shard {layout.shard}", rule, "set shard: full")


def _compile(run: Run) -> Iterator[ConfigError]:
    layout, recipe = run.layout, run.recipe
    if not recipe.compile:
        return
    if layout.splits_backward:
        yield refusal(
            run,
            f"compile with schedule {layout.schedule}",
            "schedules that split backward cannot run compiled stages (torch.distributed.pipelining)",
            "use gpipe, 1f1b, interleaved_1f1b or looped_bfs, or leave compile out",
        )
    if layout.tp > 1:
        yield refusal(
            run,
            f"compile with tp {layout.tp}",
            "compiled code would be cut at every exchange between tensor-parallel ranks",
            "leave compile or tp out",
        )
    local = run.site == "local" and not runs_on_gpus(run)
    if local and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        yield refusal(
            run,
            "compile without a C++ compiler",
            "on a CPU torch.compile writes C++ and compiles it where the run is",
            "install g++ (Debian: apt install g++), or leave compile out",
        )


def _host(run: Run) -> Iterator[ConfigError]:
    recipe = run.recipe
    if recipe.threads_per_rank is not None and recipe.threads_per_rank > run.resources.cpus_per_rank:
        yield refusal(
            run,
            f"threads_per_rank {recipe.threads_per_rank} on {run.resources.cpus_per_rank} CPU(s) per rank",
            "threads need a core each",
            "raise resources.cpus_per_rank",
        )
    for key in ("quantize", "prune", "prune_fraction"):
        value = getattr(recipe, key)
        if value != type(recipe).model_fields[key].default and run.infer is None:
            rule = f"{key} changes a trained model; it is for inference"
            yield refusal(run, f"{key} {value} in training", rule, f"leave {key} out, or put it under infer.recipes")
