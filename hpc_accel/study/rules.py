"""Which layouts cannot work, and why: arithmetic on a run and the facts of its model, before anything starts."""

from __future__ import annotations

from collections.abc import Iterator

from hpc_accel.errors import ConfigError
from hpc_accel.study.schema import Run
from hpc_accel.study.study import ResourcesChoice
from hpc_accel.workloads.facts import ModelFacts


def refusals(run: Run, limits: ResourcesChoice, facts: ModelFacts | None = None) -> Iterator[ConfigError]:
    """Every rule that `run` breaks, each with value, rule and remedy. None means the run can work.

    Without `facts` (the model was not built) only the rules that need no model are checked.
    """
    yield from _batch(run)
    yield from _ranks(run, limits)
    yield from _pipeline(run)
    yield from _device(run)
    yield from _measure(run)
    if facts is not None:
        yield from _model(run, facts)


def _error(run: Run, value: str, rule: str, remedy: str) -> ConfigError:
    return ConfigError(f"{run.workload.name} {run.layout.label}: {value}", rule, remedy)


def _batch(run: Run) -> Iterator[ConfigError]:
    layout, total = run.layout, run.workload.global_batch_size
    product = layout.dp * layout.micro_batch_size * layout.accumulation_steps
    if product != total:
        yield _error(
            run,
            f"dp {layout.dp} x micro_batch_size {layout.micro_batch_size} "
            f"x accumulation_steps {layout.accumulation_steps} = {product}, global_batch_size is {total}",
            "the product must be the global batch, so that every layout computes the same step",
            "choose values whose product is the global batch, or leave micro_batch_size out",
        )


def _ranks(run: Run, limits: ResourcesChoice) -> Iterator[ConfigError]:
    ranks, available = run.layout.num_ranks, limits.num_nodes * limits.ranks_per_node
    if ranks > available:
        yield _error(
            run,
            f"{ranks} ranks",
            f"resources allow {limits.num_nodes} node(s) x {limits.ranks_per_node} rank(s) = {available}",
            "raise resources.num_nodes or resources.ranks_per_node, or choose a smaller layout",
        )
    elif ranks != run.resources.num_ranks:
        yield _error(
            run,
            f"{ranks} ranks do not fill whole nodes of {limits.ranks_per_node}",
            "a run over several nodes has the same number of ranks on each",
            "choose a layout whose ranks are a multiple of resources.ranks_per_node",
        )
    if limits.gpus_per_node and run.resources.ranks_per_node > limits.gpus_per_node:
        yield _error(
            run,
            f"{run.resources.ranks_per_node} ranks per node on {limits.gpus_per_node} GPU(s)",
            "every rank has a GPU of its own",
            "lower resources.ranks_per_node to the number of GPUs",
        )


def _pipeline(run: Run) -> Iterator[ConfigError]:
    layout = run.layout
    if layout.pp == 1 and layout.schedule is not None:
        yield _error(run, f"schedule {layout.schedule} with pp 1", "a schedule needs stages", "set pp >= 2")
    if layout.pp == 1 and layout.split != "auto":
        yield _error(run, f"split {layout.split} with pp 1", "a split needs stages", "set pp >= 2")
    if layout.schedule == "1f1b" and layout.accumulation_steps < layout.pp:
        yield _error(
            run,
            f"{layout.accumulation_steps} micro-batch(es) on {layout.pp} stages",
            "1f1b needs at least as many micro-batches (accumulation_steps) as stages",
            f"set accumulation_steps >= {layout.pp}, or schedule: gpipe",
        )
    if layout.split != "auto" and len(layout.split) != layout.pp:
        yield _error(
            run,
            f"split {list(layout.split)} for pp {layout.pp}",
            "split names the number of layers of each stage",
            f"give {layout.pp} numbers",
        )


def _device(run: Run) -> Iterator[ConfigError]:
    if run.backend == "nccl" and (run.device == "cpu" or not run.resources.gpus_per_node):
        yield _error(
            run,
            "backend nccl without GPUs",
            "nccl moves CUDA tensors only",
            "set resources.gpus_per_node, or backend: mpi4py",
        )
    if run.device == "cuda" and not run.resources.gpus_per_node:
        yield _error(
            run,
            "device cuda with resources.gpus_per_node 0",
            "GPUs must be requested to be used",
            "set resources.gpus_per_node",
        )


def _measure(run: Run) -> Iterator[ConfigError]:
    measure, recipe = run.measure, run.recipe
    if measure.max_steps is not None and measure.max_steps < measure.steps:
        yield _error(
            run,
            f"measure.max_steps {measure.max_steps} with {measure.steps} steps",
            "max_steps is how many may be timed where `steps` are too few for the energy sensors",
            f"set max_steps >= {measure.steps}, or leave it out",
        )
    for key in ("gpu_freq_mhz", "power_limit_w"):
        if getattr(recipe, key) is not None and (run.device == "cpu" or not run.resources.gpus_per_node):
            yield _error(
                run,
                f"recipe {key} {getattr(recipe, key)} without GPUs",
                f"{key} is set on the GPUs a run has asked for",
                "set resources.gpus_per_node, or leave it out",
            )


def _model(run: Run, facts: ModelFacts) -> Iterator[ConfigError]:
    layout = run.layout
    if run.workload.global_batch_size > facts.num_samples:
        yield _error(
            run,
            f"global_batch_size {run.workload.global_batch_size} of {facts.num_samples} samples",
            "a batch holds each sample once",
            f"set global_batch_size <= {facts.num_samples}",
        )
    if layout.pp > 1 and not facts.sequential:
        yield _error(
            run,
            "a model that is not torch.nn.Sequential, cut into stages",
            "pp > 1 cuts between the children of a torch.nn.Sequential",
            "return a torch.nn.Sequential from build(), or use dp or tp",
        )
    elif layout.pp > facts.num_cuttable_layers:
        yield _error(
            run,
            f"pp {layout.pp} on {facts.num_cuttable_layers} layer(s) with parameters",
            "every stage has a layer to train",
            f"set pp <= {facts.num_cuttable_layers}",
        )
    if layout.split != "auto" and facts.sequential and len(layout.split) == layout.pp:
        yield from _split(run, layout.split, facts)
    if layout.tp > 1 and facts.tp_units is None:
        yield _error(
            run,
            f"tp {layout.tp} on a model without a tensor plan",
            "tensor parallelism must know which linear layers to cut by columns and which by rows",
            'return Workload(..., tensor_plan={"layer": "columns", "other": "rows"}) from build()',
        )
    elif layout.tp > 1 and facts.tp_units is not None and facts.tp_units % layout.tp:
        yield _error(
            run,
            f"tp {layout.tp} on layers that divide into {facts.tp_units} equal shares",
            "tp must divide every dimension of the tensor plan (attention heads included)",
            f"choose tp among the divisors of {facts.tp_units}",
        )


def _split(run: Run, split: tuple[int, ...], facts: ModelFacts) -> Iterator[ConfigError]:
    num_layers, begin = len(facts.layers), 0
    if sum(split) != num_layers:
        yield _error(
            run,
            f"split {list(split)} has {sum(split)} layers",
            f"the model has {num_layers}",
            "make the numbers add up to the model's layers",
        )
        return
    for stage, size in enumerate(split):
        if not any(layer.num_parameters for layer in facts.layers[begin : begin + size]):
            value, rule = f"stage {stage} has no parameters", "every stage has a layer to train"
            yield _error(run, value, rule, "move the cut")
        begin += size
