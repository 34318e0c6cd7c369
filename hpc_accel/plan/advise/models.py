"""The model that is asked about: sizes of the literature by name, sizes of one's own, or a study's workload."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from hpc_accel.errors import ConfigError
from hpc_accel.plan.transformer import BlockCosts, TransformerSizes, transformer_facts
from hpc_accel.study.model_facts import ModelFacts, OptimizerFacts
from hpc_accel.study.optimizer import Optimizer
from hpc_accel.study.recipe import Precision
from hpc_accel.study.run import WorkloadSpec

ADAMW = OptimizerFacts(state_bytes_per_parameter=8, operations_per_tensor=10, keeps_groups=True)


def _gpt(layers: int, hidden: int, heads: int, sequence: int) -> TransformerSizes:
    """As GPT-2 and GPT-3 are: Radford et al. 2019, table 2; Brown et al. 2020, table 2.1."""
    return TransformerSizes(
        layers=layers,
        hidden=hidden,
        heads=heads,
        feed_forward=4 * hidden,
        vocabulary=50304,
        sequence=sequence,
        positions=sequence,
        dropout=False,
    )


def _llama(layers: int, hidden: int, heads: int, feed_forward: int, **others: Any) -> TransformerSizes:
    """As Llama is: Touvron et al. 2023 (arXiv 2302.13971, 2307.09288), Llama 3 (arXiv 2407.21783), table 3."""
    sizes = {"vocabulary": 32000, "sequence": 4096} | others
    return TransformerSizes(
        layers=layers,
        hidden=hidden,
        heads=heads,
        feed_forward=feed_forward,
        gated=True,
        biases=False,
        dropout=False,
        tied=False,
        **sizes,
    )


MODELS = {
    "gpt2-124m": _gpt(12, 768, 12, 1024),
    "gpt2-1.5b": _gpt(48, 1600, 25, 1024),
    "gpt3-6.7b": _gpt(32, 4096, 32, 2048),
    "gpt3-175b": _gpt(96, 12288, 96, 2048),
    "llama2-7b": _llama(32, 4096, 32, 11008),
    "llama2-13b": _llama(40, 5120, 40, 13824),
    "llama2-70b": _llama(80, 8192, 64, 28672, kv_heads=8),
    "llama3-8b": _llama(32, 4096, 32, 14336, kv_heads=8, vocabulary=128256, sequence=8192),
    "llama3-70b": _llama(80, 8192, 64, 28672, kv_heads=8, vocabulary=128256, sequence=8192),
}
"""Models of the literature; a vocabulary is padded as their authors padded it."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """What is trained: facts for the planner, a workload for its rules, and the length of a sample in tokens."""

    name: str
    facts: ModelFacts
    workload: WorkloadSpec
    tokens_per_sample: int | None
    precision: Precision | None = None
    """The study's own; None where there is no study."""

    @property
    def num_parameters(self) -> int:
        """All of them."""
        return sum(layer.num_parameters for layer in self.facts.layers)

    @property
    def flops_per_sample(self) -> float:
        """Forward and backward, nothing computed twice."""
        return 3 * sum(layer.forward_flops_per_sample for layer in self.facts.layers)


def model_of(name: str, global_batch_size: int) -> Model:
    """A model of the literature by name, or "layers=32,hidden=4096,heads=32,..." as sizes. Raises ConfigError."""
    sizes = sizes_of(name)
    return of_sizes(name, sizes, global_batch_size)


def of_sizes(name: str, sizes: TransformerSizes, global_batch_size: int) -> Model:
    """A transformer of these sizes, trained with AdamW."""
    facts = replace(transformer_facts(sizes, BlockCosts()), optimizer=ADAMW)
    workload = WorkloadSpec(
        name="sizes" if "=" in name else name,
        entry="hpc_accel.workloads.builtin.lm:build",
        global_batch_size=global_batch_size,
        optimizer=Optimizer(name="adamw", learning_rate=3e-4),
    )
    return Model(name=name, facts=facts, workload=workload, tokens_per_sample=sizes.sequence)


def sizes_of(name: str) -> TransformerSizes:
    """The sizes that `name` stands for. Raises ConfigError."""
    if name in MODELS:
        return MODELS[name]
    if "=" not in name:
        raise ConfigError(
            f"--model {name}",
            "a model is one of " + ", ".join(MODELS) + "; or its sizes; or a study file's",
            "write --model layers=32,hidden=4096,heads=32,feed_forward=16384,vocabulary=50304,sequence=2048",
        )
    known = {field.name: field for field in fields(TransformerSizes)}
    given: dict[str, Any] = {}
    for part in name.split(","):
        key, _, value = part.partition("=")
        if key not in known or (not value.isdigit() and value not in ("true", "false")):
            raise ConfigError(f"--model {part!r}", "sizes are key=number of: " + ", ".join(known), "correct that one")
        given[key] = int(value) if value.isdigit() else value == "true"
    given.setdefault("feed_forward", 4 * given.get("hidden", 0))
    given.setdefault("vocabulary", 50304)
    needed = [key for key in ("layers", "hidden", "heads", "sequence") if not given.get(key)]
    if needed or given["hidden"] % given["heads"]:
        wrong = f"without {', '.join(needed)}" if needed else f"hidden {given['hidden']}, heads {given['heads']}"
        raise ConfigError(f"--model {wrong}", "heads divide hidden, and all four sizes are given", "correct the sizes")
    return TransformerSizes(**given)


def model_of_study(path: Path, global_batch_size: int | None) -> Model:
    """The first workload of a study, built once without values to count it. Raises ConfigError."""
    from hpc_accel.study.expand import recipes, resolve_workloads
    from hpc_accel.study.study_file import load_study
    from hpc_accel.workloads.facts_without_weights import facts_of

    study = load_study(path)
    workload = resolve_workloads(study)[0]
    if global_batch_size:
        workload = workload.model_copy(update={"global_batch_size": global_batch_size})
    facts = facts_of(workload, study.seed)
    first = recipes(study.workloads[0].recipes, study.recipes)[0]
    return Model(
        name=workload.name,
        facts=facts,
        workload=workload,
        tokens_per_sample=facts.sequence_length,
        precision=first.precision,
    )
