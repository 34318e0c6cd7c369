"""What a workload's tensor plan means: patterns resolved to module names, and the plan of a common transformer.

    columns       Linear: divides the output features; the result stays divided
    rows          Linear: divides the input features and adds up the partial results
    gather        Linear: divides the output features and gathers the result (a head)
    vocabulary    Embedding: divides the rows
    split         where the sequence begins to be divided (the module that embeds it)
    sequence      works on each position alone (a norm), so on a part of the sequence too
    partial       whole, but each rank uses it on its own heads (a norm of queries): gradients are added up

`split` and `sequence` count under `sequence_parallel` only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Literal

from torch import nn

from hpc_accel.errors import ConfigError
from hpc_accel.workloads.linears import Division, division, is_linear

Cut = Literal["columns", "rows", "gather", "vocabulary", "split", "sequence", "partial"]
Plan = Mapping[str, Cut] | Literal["transformer"]
KINDS: dict[str, Callable[[nn.Module], bool]] = {
    "columns": is_linear,
    "rows": is_linear,
    "gather": is_linear,
    "vocabulary": lambda module: isinstance(module, nn.Embedding),
}
COLUMNS = "q_proj k_proj v_proj query key value wq wk wv q_lin k_lin v_lin up_proj gate_proj up gate fc1 linear1 lin1"
ROWS = "o_proj out_proj out wo out_lin down_proj down fc2 linear2 lin2"
"""Last parts of the names of linear layers in transformer blocks, by torch and by Hugging Face's models."""


def planned(model: nn.Module, plan: Plan) -> dict[str, Cut]:
    """The plan with its patterns resolved to module names, in the model's order.

    Raises ConfigError for a pattern that fits no module, or none of the right kind.
    """
    if plan == "transformer":
        return transformer_plan(model)
    resolved: dict[str, Cut] = {}
    for pattern, way in plan.items():
        fits = KINDS.get(way, lambda _: True)
        fitting = [name for name, module in model.named_modules() if name and fits(module)]
        names = [name for name in fitting if fnmatchcase(name, pattern)]
        if not names or way not in (*KINDS, "split", "sequence", "partial"):
            raise ConfigError(
                f"tensor_plan entry {pattern!r}: {way!r}",
                "an entry names torch.nn.Linear modules for 'columns', 'rows' or 'gather', torch.nn.Embedding modules "
                "for 'vocabulary', any for 'split', 'sequence' and 'partial'",
                f"modules that fit: {', '.join(fitting) or 'none'}",
            )
        resolved.update(dict.fromkeys(names, way))
    # Ranks exchange in the order of the model, so the order is part of the plan.
    return {name: resolved[name] for name, _ in model.named_modules() if name in resolved}


def divided_linears(cuts: Mapping[str, Cut]) -> dict[str, Literal["columns", "rows"]]:
    """Of the resolved plan, the linear layers that are divided."""
    ways: dict[Cut, Literal["columns", "rows"]] = {"columns": "columns", "gather": "columns", "rows": "rows"}
    return {name: ways[way] for name, way in cuts.items() if way in ways}


def divisions(model: nn.Module, cuts: Mapping[str, Cut]) -> dict[str, Division]:
    """Of the resolved plan, by the parameter's name in the whole `model`, what is divided and how."""
    return {
        f"{name}.{parameter}": how
        for name, way in cuts.items()
        for parameter, how in division(model.get_submodule(name), way).items()
    }


def half_divided(model: nn.Module, cuts: Mapping[str, Cut]) -> tuple[str, ...]:
    """Modules of the resolved plan that share a parameter with one that is divided otherwise, or not at all."""
    ways: dict[int, set[str]] = {}
    for name, module in model.named_modules():
        for parameter in module.parameters(recurse=False):
            way = cuts.get(name, "whole")
            way = "whole" if way in ("split", "sequence", "partial") else way
            # The same rows of the same matrix, as an embedding's and as a head's.
            ways.setdefault(id(parameter), set()).add(way if way not in ("vocabulary", "gather") else "columns")
    return tuple(
        name for name in cuts if any(len(ways[id(each)]) > 1 for each in model.get_submodule(name).parameters())
    )


def transformer_plan(model: nn.Module) -> dict[str, Cut]:
    """Divides the projections and the perceptron of every transformer block whose layers have common names.

    A parent is divided if it has layers of both kinds, so that what columns divide, rows join again.
    Raises ConfigError when there is none: the plan must then name the layers.
    """
    whole = _transformer_layers(model)
    if not whole:
        linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
        raise ConfigError(
            "tensor_plan 'transformer' on a model without transformer blocks of common names",
            f"a block has linear layers named like {COLUMNS.split(maxsplit=1)[0]} and {ROWS.split(maxsplit=1)[0]}",
            f"name them: the model's linear layers are {', '.join(linears) or 'none'}",
        )
    return whole


def has_transformer_blocks(model: nn.Module) -> bool:
    """Whether the plan "transformer" finds anything to divide."""
    return bool(_transformer_layers(model))


def _transformer_layers(model: nn.Module) -> dict[str, Cut]:
    found: dict[str, Cut] = {}
    for name, module in model.named_modules():
        last = name.rpartition(".")[2]
        if isinstance(module, nn.Linear) and last in COLUMNS.split() + ROWS.split():
            found[name] = "columns" if last in COLUMNS.split() else "rows"
    by_parent: dict[str, set[Cut]] = {}
    for name, way in found.items():
        by_parent.setdefault(name.rpartition(".")[0], set()).add(way)
    return {name: way for name, way in found.items() if len(by_parent[name.rpartition(".")[0]]) == 2}
