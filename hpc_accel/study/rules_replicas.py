"""What acts on samples of several replicas together, and where that cannot be the serial run's computation."""

from __future__ import annotations

from collections.abc import Iterator

from hpc_accel.errors import ConfigError
from hpc_accel.study.model_facts import ModelFacts
from hpc_accel.study.refusal import refusal
from hpc_accel.study.run import Run


def replica_refusals(run: Run, facts: ModelFacts | None) -> Iterator[ConfigError]:
    """Every rule that BatchNorm over all replicas, or a loss of all replicas' outputs, breaks in `run`."""
    if run.infer is not None:
        return
    if run.recipe.sync_batch_norm:
        yield from _batch_norm(run)
        if facts is not None:
            yield from _batch_norm_layers(run, facts)
    if facts is not None and facts.gathers_outputs:
        yield from _gathered_outputs(run)
    elif facts is not None and facts.loss_talks:
        yield from _talking_loss(run, facts.loss_talks)


def _batch_norm(run: Run) -> Iterator[ConfigError]:
    if run.layout.dp == 1:
        rule = "what is synchronised are the batch statistics of replicas"
        yield refusal(run, "sync_batch_norm with dp 1", rule, "set dp >= 2, or leave sync_batch_norm out")
    if run.layout.splits_backward:
        yield refusal(
            run,
            f"sync_batch_norm with schedule {run.layout.schedule}",
            "replicas wait for each other once in the backward of a layer, and a schedule that splits backward goes "
            "through it twice",
            "use gpipe, 1f1b, interleaved_1f1b or looped_bfs, in which all replicas take their passes in one order",
        )
    if run.recipe.average_every > 1:
        yield refusal(
            run,
            f"sync_batch_norm with average_every {run.recipe.average_every}",
            "replicas that train alone between averages do not wait for each other in every layer",
            "leave one of the two out",
        )


def _batch_norm_layers(run: Run, facts: ModelFacts) -> Iterator[ConfigError]:
    if facts.other_batch_norms:
        yield refusal(
            run,
            f"sync_batch_norm with {facts.other_batch_norms[0]}, whose class has a forward of its own",
            "what is replaced is torch's forward of BatchNorm1d, 2d and 3d",
            "use torch's classes in the model, or leave sync_batch_norm out",
        )
    elif not facts.num_batch_norms:
        rule = "sync_batch_norm is about BatchNorm layers, of which the model has none"
        yield refusal(run, "sync_batch_norm without BatchNorm", rule, "leave sync_batch_norm out")
    if run.layout.pp > 1 and not facts.sequential:
        yield refusal(
            run,
            f"sync_batch_norm with pp {run.layout.pp} of a model that a tracer cuts",
            "the tracer makes one graph of the model, in which there are no layers left to replace",
            "return a torch.nn.Sequential from build(), or set pp: 1",
        )


def _talking_loss(run: Run, operations: tuple[str, ...]) -> Iterator[ConfigError]:
    """The loss talks to all ranks, which are its replicas only where there are no others."""
    layout, remedy = (
        run.layout,
        "use dp or shard alone; or return Workload(..., gather_outputs=True), and a loss of one rank",
    )
    for key, size in (("pp", layout.pp), ("tp", layout.tp)):
        if size > 1:
            rule = "ranks of a stage or of a tensor-parallel group are no replicas: they have no loss, or the same one"
            yield refusal(run, f"{key} {size} with a loss that talks to all ranks ({operations[0]})", rule, remedy)
    gathers = next((each for each in operations if "gather" in each), "")
    if gathers and layout.accumulation_steps > 1 and layout.pp == 1:
        rule = "a loss gathers the outputs of one micro-batch of each replica, and not those of the global batch"
        value = f"accumulation_steps {layout.accumulation_steps} with a loss that gathers ({gathers})"
        yield refusal(run, value, rule, "set accumulation_steps: 1, more dp, and recompute where memory is short")


def _gathered_outputs(run: Run) -> Iterator[ConfigError]:
    """The loss of a workload with gather_outputs sees the whole global batch, or it is another loss."""
    layout, given = run.layout, "Workload(gather_outputs=True)"
    if layout.accumulation_steps > 1:
        yield refusal(
            run,
            f"{given} with accumulation_steps {layout.accumulation_steps}",
            "outputs are gathered from replicas, not from micro-batches, whose outputs are not kept: the loss would "
            f"compare 1/{layout.accumulation_steps} of the batch with itself",
            "set accumulation_steps: 1 (with pp: schedule gpipe), more dp, and recompute where memory is short",
        )
    if run.recipe.average_every > 1:
        rule = "replicas that train alone do not see each other's outputs"
        yield refusal(run, f"{given} with average_every {run.recipe.average_every}", rule, "leave average_every out")
    if layout.dp > 1 and run.workload.last_batch == "keep":
        rule = "replicas' shares of an incomplete batch are filled up with samples that do not count"
        yield refusal(run, f"{given} with last_batch keep", rule, "set last_batch: drop")
