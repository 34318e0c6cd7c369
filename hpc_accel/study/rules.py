"""Which layouts cannot work, and why: arithmetic on a run and the facts of its model, before anything starts."""

from __future__ import annotations

from collections.abc import Iterator

from hpc_accel.errors import ConfigError
from hpc_accel.study.layout import SINGLE, V_SHAPED
from hpc_accel.study.model_facts import ModelFacts
from hpc_accel.study.refusal import refusal
from hpc_accel.study.rules_infer import infer_refusals
from hpc_accel.study.rules_layout import layout_refusals
from hpc_accel.study.rules_node_kinds import node_kind_refusals
from hpc_accel.study.rules_optimizer import optimizer_refusals
from hpc_accel.study.rules_recipe import model_recipe_refusals, recipe_refusals
from hpc_accel.study.rules_replicas import replica_refusals
from hpc_accel.study.run import Run
from hpc_accel.study.study_file import ResourcesChoice


def refusals(run: Run, limits: ResourcesChoice, facts: ModelFacts | None = None) -> Iterator[ConfigError]:
    """Every rule that `run` breaks, each with value, rule and remedy; of a run that can work, nothing.

    Without `facts` (the model was not built) only the rules that need no model are checked.
    """
    if run.infer is not None:
        yield from infer_refusals(run, run.infer, facts)
    yield from layout_refusals(run)
    yield from _ranks(run, limits)
    yield from _device(run)
    yield from recipe_refusals(run)
    yield from replica_refusals(run, facts)
    yield from optimizer_refusals(run, facts)
    yield from _measure(run)
    if facts is not None:
        yield from _model(run, facts)


def _ranks(run: Run, limits: ResourcesChoice) -> Iterator[ConfigError]:
    if limits.node_kinds is not None:
        yield from node_kind_refusals(run, limits)
        return
    ranks, available = run.layout.num_ranks, limits.num_nodes * limits.ranks_per_node
    if ranks > available:
        yield refusal(
            run,
            f"{ranks} ranks",
            f"resources allow {limits.num_nodes} node(s) x {limits.ranks_per_node} rank(s) = {available}",
            "raise resources.num_nodes or resources.ranks_per_node, or choose a smaller layout",
        )
    elif ranks != run.resources.num_ranks:
        yield refusal(
            run,
            f"{ranks} ranks do not fill whole nodes of {limits.ranks_per_node}",
            "a run over several nodes has the same number of ranks on each",
            "choose a layout whose ranks are a multiple of resources.ranks_per_node",
        )
    if limits.gpus_per_node and run.resources.ranks_per_node > limits.gpus_per_node:
        yield refusal(
            run,
            f"{run.resources.ranks_per_node} ranks per node on {limits.gpus_per_node} GPU(s)",
            "every rank has a GPU of its own",
            "lower resources.ranks_per_node to the number of GPUs",
        )


def _device(run: Run) -> Iterator[ConfigError]:
    if run.backend == "nccl" and (run.device == "cpu" or not run.resources.gpus_per_node):
        yield refusal(
            run,
            "backend nccl without GPUs",
            "nccl moves CUDA tensors only",
            "set resources.gpus_per_node, or backend: mpi4py",
        )
    if run.device == "cuda" and not run.resources.gpus_per_node and run.site != "local":
        yield refusal(
            run,
            "device cuda with resources.gpus_per_node 0",
            "where a scheduler hands out GPUs they must be requested to be used; on `site: local` ranks may share one",
            "set resources.gpus_per_node",
        )


def _measure(run: Run) -> Iterator[ConfigError]:
    measure = run.measure
    if measure.max_steps is not None and measure.max_steps < measure.steps:
        yield refusal(
            run,
            f"measure.max_steps {measure.max_steps} with {measure.steps} steps",
            "max_steps is how many may be timed where `steps` are too few for the energy sensors",
            f"set max_steps >= {measure.steps}, or leave it out",
        )


def _model(run: Run, facts: ModelFacts) -> Iterator[ConfigError]:
    layout = run.layout
    chunks = f" x {layout.stages_per_rank} stages" if layout.stages_per_rank > 1 else ""
    yield from _last_batch(run, facts)
    if facts.num_samples is not None and run.workload.global_batch_size > facts.num_samples:
        yield refusal(
            run,
            f"global_batch_size {run.workload.global_batch_size} of {facts.num_samples} samples",
            "a batch holds each sample once",
            f"set global_batch_size <= {facts.num_samples}",
        )
    if layout.pp > 1 and facts.no_stages:
        yield refusal(
            run,
            f"pp {layout.pp} on {facts.no_stages}",
            "pipelines need fixed shapes; dicts, nested outputs and a model's own loss also need blocks in a chain",
            "use dp, shard or tp; or return tensors, of one shape, from dataset and model",
        )
    elif layout.pp > 1 and not facts.sequential:
        yield from _traced(run, facts)
    elif layout.num_stages > facts.num_cuttable_layers:
        yield refusal(
            run,
            f"pp {layout.pp}{chunks} on {facts.num_cuttable_layers} layer(s) with parameters",
            "every stage has a layer to train",
            f"set pp x stages_per_rank <= {facts.num_cuttable_layers}",
        )
    if layout.pp > 1 and (not facts.sequential or layout.schedule in V_SHAPED):
        yield from _tied(run, facts)
    yield from model_recipe_refusals(run, facts)
    if run.workload.meta:
        yield from _without_values(run, facts)
    if isinstance(layout.split, tuple) and len(layout.split) == layout.num_stages:
        yield from _split(run, layout.split, facts)
    if layout.sequence_parallel and layout.tp > 1:
        yield from _sequence(run, facts)
    if layout.tp > 1 and facts.tp_units is None:
        yield refusal(
            run,
            f"tp {layout.tp} on a model without a tensor plan",
            "tensor parallelism must know which linear layers to cut by columns and which by rows",
            'return Workload(..., tensor_plan={"layer": "columns", "other": "rows"}) from build()',
        )
    elif layout.tp > 1 and facts.tp_units is not None and facts.tp_units % layout.tp:
        yield refusal(
            run,
            f"tp {layout.tp} on layers that divide into {facts.tp_units} equal shares",
            "tp must divide every dimension of the tensor plan (attention heads included)",
            f"choose tp among the divisors of {facts.tp_units}",
        )
    if layout.tp > 1 and facts.half_divided:
        yield refusal(
            run,
            f"tp {layout.tp} with {facts.half_divided[0]}, which shares a parameter with a module outside the plan",
            "tied weights are divided alike wherever they are used",
            "name both in the tensor_plan (an embedding as 'vocabulary', its head as 'gather'), or neither",
        )


def _without_values(run: Run, facts: ModelFacts) -> Iterator[ConfigError]:
    """What needs the values of a whole model, which no rank has."""
    if run.layout.pp > 1 and not facts.sequential:
        rule = "without values stages are cut between children of a Sequential, or blocks that run one after the other"
        yield refusal(
            run, f"pp {run.layout.pp} of a model with meta: true", rule, "use dp, shard or tp; or leave meta out"
        )
    if run.layout.pp > 1 and run.layout.split == "measured":
        rule = "one rank runs every layer to measure it, and with meta: true no rank has all layers"
        yield refusal(run, "split: measured with meta: true", rule, "use split: auto, or leave meta out")


def _last_batch(run: Run, facts: ModelFacts) -> Iterator[ConfigError]:
    if facts.is_stream and run.workload.last_batch == "keep":
        yield refusal(
            run,
            "last_batch keep with a stream",
            "a stream is read in whole global batches; what fills none at its end is left out",
            "set last_batch: drop",
        )
    if facts.result == "loss" and run.layout.pp > 1 and run.workload.last_batch == "keep" and not facts.is_stream:
        yield refusal(
            run,
            f"last_batch keep with pp {run.layout.pp} of a model that returns its loss",
            "stages know one shape, so what fills up the last batch would count in the model's own loss",
            "set last_batch: drop, or return a loss function from build()",
        )


def _traced(run: Run, facts: ModelFacts) -> Iterator[ConfigError]:
    """A model that torch's tracer cuts."""
    layout = run.layout
    remedy = (
        "return a torch.nn.Sequential from build(), or a model with a list of blocks of which each takes what the one "
        "before returned and nothing else that is trained; or use dp, shard or tp"
    )
    if layout.num_stages > facts.num_cuttable_layers:
        value = f"pp {layout.pp} on {facts.num_cuttable_layers} block(s) with parameters that run once each, in order"
        yield refusal(run, value, "pp > 1 cuts between the children of a Sequential, or between such blocks", remedy)
    elif facts.no_trace:
        rule = "other models are cut where torch.export can trace them, between blocks that run once each, in order"
        yield refusal(run, f"pp {layout.pp}: {facts.no_trace}", rule, remedy)
    for value, wrong in (
        (f"schedule {layout.schedule}", layout.schedule not in SINGLE),
        (f"tp {layout.tp}", layout.tp > 1),
        ("shard full", layout.shard == "full"),
        (f"recompute {run.recipe.recompute}", run.recipe.recompute != "none"),
        ("precision fp8", run.recipe.precision == "fp8"),
    ):
        if wrong:
            rule = "stages that a tracer cut are graphs without their layers; they run under gpipe and 1f1b"
            yield refusal(run, f"{value} with stages of a model that is no torch.nn.Sequential", rule, remedy)


def _tied(run: Run, facts: ModelFacts) -> Iterator[ConfigError]:
    split = run.layout.split
    stages = [stage for stage, size in enumerate(split) for _ in range(size)] if isinstance(split, tuple) else None
    for first, last in facts.tied_layers:
        if stages is None or len(stages) <= last or stages[first] != stages[last]:
            yield refusal(
                run,
                f"layers {first} ({facts.layers[first].name}) and {last} ({facts.layers[last].name}) share a parameter",
                "each stage trains what it holds, so tied weights would drift apart between stages",
                "list a `split` with both layers in one stage, untie them in build(), or use dp, shard or tp",
            )
            return


def _sequence(run: Run, facts: ModelFacts) -> Iterator[ConfigError]:
    if facts.sequence_length is None:
        yield refusal(
            run,
            "sequence_parallel on a model whose tensor plan names no sequence",
            "the plan says where the sequence is split, which modules work on a part of it, and where it is gathered",
            "name modules 'split', 'sequence' and 'gather' in the tensor_plan",
        )
    elif facts.sequence_length % run.layout.tp:
        yield refusal(
            run,
            f"a sequence of {facts.sequence_length} positions over tp {run.layout.tp}",
            "ranks hold equal parts of the sequence",
            "choose tp among the divisors of the sequence length",
        )


def _split(run: Run, split: tuple[int, ...], facts: ModelFacts) -> Iterator[ConfigError]:
    num_layers, begin = len(facts.layers), 0
    if sum(split) != num_layers:
        yield refusal(
            run,
            f"split {list(split)} has {sum(split)} layers",
            f"the model has {num_layers}",
            "make the numbers add up to the model's layers",
        )
        return
    for stage, size in enumerate(split):
        if not any(layer.num_parameters for layer in facts.layers[begin : begin + size]):
            value, rule = f"stage {stage} has no parameters", "every stage has a layer to train"
            yield refusal(run, value, rule, "move the cut")
        begin += size
