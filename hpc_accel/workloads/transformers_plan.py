"""How tensor parallelism divides a model of Hugging Face transformers: by the model's own plan, or by a table here.

transformers' plans gather what a fused projection computed, because their slices hold whole rows of one matrix. Here
such a projection is divided section by section, so that each rank has its own heads and gathers nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from hpc_accel.workloads.linears import features, is_linear, units
from hpc_accel.workloads.tensor_plan import (
    Cut,
    divided_linears,
    half_divided,
    has_transformer_blocks,
    planned,
    transformer_plan,
)

STYLES: Mapping[str, Cut] = {
    "colwise": "columns",
    "rowwise": "rows",
    "colwise_gather_output": "columns",
    "rowwise_split_input": "rows",
    "replicated_with_grad_allreduce": "partial",
}
"""transformers' names of the cuts of layers in blocks; what has another one (experts) stays whole."""
BERT: Mapping[str, Cut] = {
    "*.attention.self.query": "columns",
    "*.attention.self.key": "columns",
    "*.attention.self.value": "columns",
    "*.attention.output.dense": "rows",
    "*.intermediate.dense": "columns",
    "*.layer.*.output.dense": "rows",
}
BERTS = (
    *("bert", "bert-generation", "camembert", "data2vec-text", "electra", "ernie", "layoutlm", "markuplm"),
    *("megatron-bert", "rembert", "roberta", "roberta-prelayernorm", "roformer", "tapas", "xlm-roberta"),
    "xlm-roberta-xl",
)
TABLE: Mapping[str, Mapping[str, Cut]] = {
    "gpt2": {
        "*.attn.c_attn": "columns",
        "*.attn.c_proj": "rows",
        "*.mlp.c_fc": "columns",
        "*.mlp.c_proj": "rows",
    },
    **dict.fromkeys(BERTS, BERT),
}
"""Of architectures for which transformers has no plan, and whose layers have other names than most."""
COMMON = frozenset(
    (
        *("bart", "beit", "biogpt", "blenderbot", "blenderbot-small", "dinov2", "dinov2_with_registers", "distilbert"),
        *("flaubert", "ijepa", "marian", "mbart", "opt", "pegasus", "plbart", "vit", "vit_msn", "whisper", "xlm"),
    )
)
"""Of those without a plan, whose layers have the names that most have: each was seen to compute the same, divided."""
HEAD_WIDTHS = ("head_dim", "attention_head_size", "head_size")
HEAD_COUNTS = (
    "num_heads",
    "num_attention_heads",
    "num_key_value_heads",
    "n_heads",
    "all_head_size",
    "split_size",
)
"""Attributes of attention modules that say how many heads, or features of all heads, there are."""


def mark(model: Any) -> None:
    """Tell tensor parallelism what shapes alone do not: how wide heads are, and what one product computes at once."""
    for module in model.modules():
        width = next((vars(module)[name] for name in HEAD_WIDTHS if isinstance(vars(module).get(name), int)), None)
        if width is not None:
            module.head_width = width
            module.divided_counts = tuple(name for name in HEAD_COUNTS if isinstance(vars(module).get(name), int))
        children = dict(module.named_children())
        if width is not None and "c_attn" in children and hasattr(module, "split_size"):
            _set_sections(children["c_attn"], [module.split_size] * 3)
        if width is not None and "qkv_proj" in children and hasattr(module, "config"):
            heads, groups = module.config.num_attention_heads, module.config.num_key_value_heads
            _set_sections(children["qkv_proj"], [heads * width, groups * width, groups * width])
            module.divided_counts = (*module.divided_counts, "config.num_attention_heads")
        if isinstance(linear := children.get("gate_up_proj"), nn.Linear):
            _set_sections(linear, [linear.out_features // 2] * 2)


def _set_sections(linear: Any, sections: list[int]) -> None:
    if is_linear(linear) and sum(sections) == features(linear)[1]:
        linear.sections = tuple(sections)


def plan_of(model: Any, prefix: str) -> dict[str, Cut]:
    """Exact names of the layers to divide, as seen from a wrapper that calls the model `prefix`; {} if none is known.

    Embedding and head are divided too where that leaves as many ways to divide the model as its heads do.
    """
    blocks = own_plan(model)
    if model.config.model_type in TABLE:
        table = TABLE[model.config.model_type]
        cuts = {name: way for name, module in model.named_modules() if (way := _of_linear(name, module, table))}
    elif blocks:
        cuts = _complete(model, _by_plan(model, blocks))
    else:
        cuts = transformer_plan(model) if has_transformer_blocks(model) else {}
    if cuts:
        cuts = _with_vocabulary(model, cuts)
    return {f"{prefix}.{name}".lstrip("."): way for name, way in cuts.items()}


def as_patterns(model: nn.Module, cuts: dict[str, Cut]) -> dict[str, Cut]:
    """The same with `*` for the numbers of blocks, so that it is a plan of the model with fewer blocks too."""
    found = {".".join("*" if part.isdigit() else part for part in name.split(".")): way for name, way in cuts.items()}
    return found if cuts and planned(model, found) == cuts else cuts


def is_known(model: Any) -> bool:
    """Whether transformers or this file has a plan for the architecture."""
    return model.config.model_type in COMMON | TABLE.keys() or bool(own_plan(model))


def own_plan(model: Any) -> dict[str, str]:
    """What transformers says of layers in blocks."""
    own: Mapping[str, str] = getattr(model, "tp_plan", None) or {}
    return {name: style for name, style in own.items() if "*" in name}


def _of_linear(name: str, module: nn.Module, table: Mapping[str, Cut]) -> Cut | None:
    ways = [way for pattern, way in table.items() if fnmatchcase(name, pattern)]
    return ways[0] if ways and is_linear(module) else None


def _by_plan(model: Any, plan: Mapping[str, str]) -> dict[str, Cut]:
    """The plan's layers, but for those of a module whose results would have to be gathered."""
    found: dict[str, Cut] = {}
    gathered: set[str] = set()
    for name, module in model.named_modules():
        style = next((style for pattern, style in plan.items() if fnmatchcase(name, pattern)), "")
        if style == "colwise_gather_output" and not hasattr(module, "sections"):
            gathered.add(_parent(name))  # a norm over all heads, for example
        if style in STYLES and (is_linear(module) or STYLES[style] == "partial"):
            found[name] = STYLES[style]
    return {name: way for name, way in found.items() if _parent(name) not in gathered}


def _complete(model: Any, cuts: dict[str, Cut]) -> dict[str, Cut]:
    """Of `cuts`, modules that have layers of both kinds: what columns divide, rows join again."""
    ways: dict[str, set[Cut]] = {}
    for name, way in cuts.items():
        ways.setdefault(_parent(name), set()).add(way)
    return {name: way for name, way in cuts.items() if {"columns", "rows"} <= ways[_parent(name)]}


def _with_vocabulary(model: Any, cuts: dict[str, Cut]) -> dict[str, Cut]:
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if type(embedding) is not nn.Embedding or type(head) is not nn.Linear:
        return cuts
    names = {id(module): name for name, module in model.named_modules()}
    whole = cuts | {names[id(embedding)]: "vocabulary", names[id(head)]: "gather"}
    most = math.gcd(
        *(
            each
            for name, way in divided_linears(cuts).items()
            for each in units(
                model.get_submodule(name), way, getattr(model.get_submodule(_parent(name)), "head_width", 1)
            )
        )
    )
    if embedding.num_embeddings % most or head.out_features % most or half_divided(model, whole):
        return cuts
    return whole


def _parent(name: str) -> str:
    return name.rpartition(".")[0]
