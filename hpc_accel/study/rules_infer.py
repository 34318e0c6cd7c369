"""Which inference runs cannot work: options that are for training only, and what quantisation and generation need."""

from __future__ import annotations

from collections.abc import Iterator

from hpc_accel.errors import ConfigError
from hpc_accel.study.devices import runs_on_gpus
from hpc_accel.study.infer_options import Infer
from hpc_accel.study.model_facts import ModelFacts
from hpc_accel.study.refusal import refusal
from hpc_accel.study.run import Run

TRAINING_ONLY = {
    "recompute": "recomputes in a backward pass",
    "compression": "compresses gradients",
    "fused_optimizer": "is an option of the optimizer",
    "bucket_mb": "groups gradients",
    "overlap": "is about the all-reduce of gradients",
    "static_graph": "is an option of DistributedDataParallel",
    "average_every": "averages the parameters of replicas that train",
    "sync_batch_norm": "is about batches that are trained on; a trained model has its running statistics",
    "data_workers": "loads training data; requests lie in memory",
    "pin_memory": "copies training data; requests are copied as they come",
    "offload": "moves what training keeps",
}
"""Recipe keys without a meaning in a forward pass, and what they do instead."""


def infer_refusals(run: Run, infer: Infer, facts: ModelFacts | None) -> Iterator[ConfigError]:
    """Every rule that an inference run breaks beyond those of its layout and device."""
    yield from _training_only(run)
    yield from _layout(run, facts)
    yield from _numbers(run)
    yield from _generate(run, infer, facts)


def _training_only(run: Run) -> Iterator[ConfigError]:
    recipe = run.recipe
    for key, why in TRAINING_ONLY.items():
        value = getattr(recipe, key)
        if value != type(recipe).model_fields[key].default:
            yield refusal(run, f"{key} {value} in inference", f"{key} {why}", f"give `infer` recipes without {key}")


def _layout(run: Run, facts: ModelFacts | None) -> Iterator[ConfigError]:
    layout, remedy = run.layout, "give `infer` layouts of its own without it"
    if layout.pp > 1 and facts is not None and facts.result != "tensor":
        what = "its loss" if facts.result == "loss" else "several tensors"
        rule = "the last stage answers with one tensor"
        yield refusal(run, f"pp {layout.pp} of a model that returns {what}, in inference", rule, remedy)
    if layout.pp > 1 and facts is not None and facts.in_blocks:
        value = f"pp {layout.pp} in inference, of a model that is cut between its blocks"
        rule = "requests reach the first stage only, and such stages are called with all inputs"
        yield refusal(run, value, rule, "serve it with dp or tp, or make it a torch.nn.Sequential")
    if layout.shard != "none":
        rule = "sharding divides what replicas train; a model too large for one rank is served with pp or tp"
        yield refusal(run, f"shard {layout.shard} in inference", rule, remedy)
    if layout.shares is not None:
        rule = "shares divide a training batch; requests go to replicas in turn"
        yield refusal(run, f"shares {list(layout.shares)} in inference", rule, remedy)
    if layout.pp > 1 and (layout.schedule != "gpipe" or layout.stages_per_rank > 1):
        rule = "schedules differ in where they put backward passes; forward only, one after the other is gpipe"
        yield refusal(run, f"schedule {layout.schedule} in inference", rule, remedy)
    if layout.pp == 1 and layout.accumulation_steps > 1:
        rule = "without stages and gradients a batch is computed at once"
        yield refusal(run, f"accumulation_steps {layout.accumulation_steps} in inference with pp 1", rule, remedy)


def _numbers(run: Run) -> Iterator[ConfigError]:
    """Precision, quantisation and pruning: what changes numbers."""
    recipe = run.recipe
    if recipe.precision == "fp8":
        rule = "fp8 needs scales that are found in training"
        yield refusal(run, "precision fp8 in inference", rule, "use bf16, or quantize: int8 on CPUs")
    if recipe.quantize != "none":
        broken = {
            f"precision {recipe.precision}": recipe.precision != "fp32",
            f"tp {run.layout.tp}": run.layout.tp > 1,
            "compile": recipe.compile,
            "GPUs": runs_on_gpus(run),
        }
        for what, holds in broken.items():
            if holds:
                rule = "dynamic int8 is torch's kernel for whole, uncompiled fp32 linear layers on CPUs"
                yield refusal(
                    run, f"quantize {recipe.quantize} with {what}", rule, f"leave quantize out, or drop {what}"
                )
    if recipe.prune_fraction != type(recipe).model_fields["prune_fraction"].default and recipe.prune != "magnitude":
        rule = "prune_fraction is the share that `prune: magnitude` removes; 2:4 removes half"
        yield refusal(run, f"prune_fraction {recipe.prune_fraction} with prune {recipe.prune}", rule, "leave it out")


def _generate(run: Run, infer: Infer, facts: ModelFacts | None) -> Iterator[ConfigError]:
    wanted = infer.generate
    if wanted is None:
        return
    if run.layout.pp > 1:
        rule = "a new token passes all stages before the next can start, so stages would only wait"
        yield refusal(run, f"generate with pp {run.layout.pp}", rule, "give `infer` layouts with dp and tp only")
    if run.recipe.compile:
        rule = "torch.compile compiles forward; what decodes one token would run as it is"
        yield refusal(run, "generate with compile", rule, "give `infer` recipes without compile")
    if run.layout.sequence_parallel:
        rule = "one token is no sequence that ranks could divide"
        yield refusal(run, "generate with sequence_parallel", rule, "leave sequence_parallel out")
    if len(set(wanted.kv_cache)) < max(1, len(wanted.kv_cache)) or not wanted.kv_cache:
        rule = "kv_cache lists with and without, each at most once"
        yield refusal(run, f"generate.kv_cache {list(wanted.kv_cache)}", rule, "write [true, false]")
    if facts is None:
        return
    if facts.max_tokens is None:
        rule = (
            "a model that generates has modules with `decode(states, cache)`, as hpc_accel/workloads/builtin/lm.py has"
        )
        yield refusal(run, "generate on a model without decode", rule, "leave generate out, or write decode")
    elif wanted.prompt + wanted.tokens > facts.max_tokens:
        yield refusal(
            run,
            f"generate {wanted.prompt} + {wanted.tokens} tokens",
            f"the model's sequences have at most {facts.max_tokens} tokens",
            "generate fewer, or build a model of longer sequences (workload args)",
        )
