"""Which layouts cannot work whatever the model: stages, sharding, unequal shares."""

from __future__ import annotations

from collections.abc import Iterator

from hpc_accel.errors import ConfigError
from hpc_accel.study.layout import LOOPED, V_SHAPED, micro_batch_rule
from hpc_accel.study.refusal import refusal
from hpc_accel.study.run import Run


def layout_refusals(run: Run) -> Iterator[ConfigError]:
    """Every rule that the layout of `run` breaks."""
    yield from _batch(run)
    yield from _pipeline(run) if run.layout.pp > 1 else _no_pipeline(run)
    yield from _data(run)
    if run.layout.sequence_parallel and run.layout.tp == 1:
        yield refusal(run, "sequence_parallel with tp 1", "tensor-parallel ranks share a sequence", "set tp >= 2")


def _batch(run: Run) -> Iterator[ConfigError]:
    layout, total = run.layout, run.workload.global_batch_size
    if layout.shares is not None:
        yield from _shares(run, layout.shares)
        return
    product = layout.dp * layout.micro_batch_size * layout.accumulation_steps
    if product != total:
        yield refusal(
            run,
            f"dp {layout.dp} x micro_batch_size {layout.micro_batch_size} "
            f"x accumulation_steps {layout.accumulation_steps} = {product}, global_batch_size is {total}",
            "the product must be the global batch, so that every layout computes the same step",
            "choose values whose product is the global batch, or leave micro_batch_size out",
        )


def _shares(run: Run, shares: tuple[int, ...]) -> Iterator[ConfigError]:
    layout, total = run.layout, run.workload.global_batch_size
    told = f"shares {list(shares)}"
    if layout.dp == 1:
        yield refusal(run, f"{told} with dp 1", "replicas have shares", "set dp >= 2, or leave shares out")
    elif len(shares) != layout.dp:
        yield refusal(run, f"{told} with dp {layout.dp}", "each replica has a share", f"give {layout.dp} numbers")
    if sum(shares) != total:
        yield refusal(
            run,
            f"{told} add up to {sum(shares)}, global_batch_size is {total}",
            "shares are samples of the global batch",
            "make them add up",
        )
    if any(share % layout.accumulation_steps for share in shares):
        yield refusal(
            run,
            f"{told} in {layout.accumulation_steps} micro-batches each",
            "a share is cut into accumulation_steps equal micro-batches",
            f"choose multiples of {layout.accumulation_steps}, or other accumulation_steps",
        )
    if layout.micro_batch_size * layout.accumulation_steps != max(shares):
        yield refusal(
            run,
            f"{told} with micro_batch_size {layout.micro_batch_size}",
            "micro_batch_size is that of the largest share",
            "leave micro_batch_size out",
        )
    if run.workload.last_batch == "keep":
        yield refusal(
            run,
            f"{told} with last_batch keep",
            "shares divide whole global batches",
            "set last_batch: drop, or leave shares out",
        )


def _no_pipeline(run: Run) -> Iterator[ConfigError]:
    layout = run.layout
    for key, given in (("schedule", layout.schedule), ("split", layout.split if layout.split != "auto" else None)):
        if given is not None:
            yield refusal(run, f"{key} {given} with pp 1", f"a {key} needs stages", "set pp >= 2")
    if layout.stages_per_rank > 1:
        yield refusal(run, f"stages_per_rank {layout.stages_per_rank} with pp 1", "stages need ranks", "set pp >= 2")


def _pipeline(run: Run) -> Iterator[ConfigError]:
    layout = run.layout
    schedule, chunks = layout.schedule or "", layout.stages_per_rank
    wrong = micro_batch_rule(schedule, layout.pp, chunks, layout.accumulation_steps)
    if wrong is not None:
        remedy = "choose other accumulation_steps, or schedule: gpipe"
        yield refusal(run, f"{layout.accumulation_steps} micro-batch(es) on {layout.pp} stages", wrong, remedy)
    if schedule in V_SHAPED and chunks != 2:
        rule = f"{schedule} places two stages on each rank, in a V"
        yield refusal(run, f"stages_per_rank {chunks}", rule, "set stages_per_rank: 2, or leave it out")
    elif schedule in LOOPED and chunks < 2:
        rule = f"{schedule} goes round the ranks at least twice"
        yield refusal(run, f"stages_per_rank {chunks}", rule, "set stages_per_rank >= 2, or leave it out")
    elif schedule not in V_SHAPED + LOOPED and chunks != 1:
        rule = f"{schedule} has one stage on each rank"
        yield refusal(run, f"stages_per_rank {chunks}", rule, f"leave it out, or schedule: {LOOPED[0]}")
    if isinstance(layout.split, tuple) and len(layout.split) != layout.num_stages:
        yield refusal(
            run,
            f"split {list(layout.split)} for pp {layout.pp} x {chunks} stage(s)",
            "split names the number of layers of each stage",
            f"give {layout.num_stages} numbers",
        )


def _shard_groups(run: Run, size: int) -> Iterator[ConfigError]:
    layout = run.layout
    if layout.shard != "full":
        rule = "shard_ranks are the replicas that divide parameters among them"
        yield refusal(run, f"shard_ranks {size} with shard {layout.shard}", rule, "set shard: full")
    elif not 1 < size < layout.dp or layout.dp % size:
        among = [each for each in range(2, layout.dp) if layout.dp % each == 0]
        remedy = f"one of {', '.join(map(str, among))}, or leave it out" if among else "leave it out"
        rule = "groups are equal, smaller than all replicas, and of two at least"
        yield refusal(run, f"shard_ranks {size} with dp {layout.dp}", rule, remedy)


def _data(run: Run) -> Iterator[ConfigError]:
    layout, recipe = run.layout, run.recipe
    if layout.shard != "none" and layout.dp == 1:
        yield refusal(run, f"shard {layout.shard} with dp 1", "replicas share what is sharded", "set dp >= 2")
    if layout.shard_ranks is not None:
        yield from _shard_groups(run, layout.shard_ranks)
    if layout.loses_sharded_gradients:
        yield refusal(
            run,
            f"shard full with schedule {layout.schedule}",
            "in a backward of two halves torch's FSDP2 loses gradients (torch 2.11 to 2.13: parity fails)",
            "use gpipe, 1f1b, interleaved_1f1b or looped_bfs, or shard: optimizer",
        )
    if recipe.average_every > 1 and (layout.dp == 1 or layout.shard != "none" or recipe.compression != "none"):
        yield refusal(
            run,
            f"average_every {recipe.average_every} with dp {layout.dp}, shard {layout.shard}, "
            f"compression {recipe.compression}",
            "whole replicas train alone and average their parameters; there are no gradients to share or compress",
            "set dp >= 2 without shard and compression, or average_every: 1",
        )
    elif recipe.average_every > 1 and not recipe.overlap:
        rule = "overlap is about the all-reduce of gradients, and replicas that train alone have none"
        yield refusal(run, f"overlap off with average_every {recipe.average_every}", rule, "leave overlap out")
    elif recipe.average_every > run.measure.steps:
        yield refusal(
            run,
            f"average_every {recipe.average_every} with {run.measure.steps} timed steps",
            "at least one average is among what is measured",
            f"set measure.steps >= {recipe.average_every}",
        )
    elif recipe.average_every > 1 and recipe.precision == "fp16":
        yield refusal(
            run,
            f"average_every {recipe.average_every} with fp16",
            "replicas that train alone must not skip each other's steps when one of them overflows",
            "use bf16 or fp32",
        )
