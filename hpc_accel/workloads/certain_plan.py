"""A tensor plan for a model whose author gave none: of the models of transformers inside, where it is certain.

A plan that misses a layer between columns and rows computes something else, so one that does not cover all is none.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from hpc_accel.workloads.linears import features
from hpc_accel.workloads.tensor_plan import Cut, divided_linears, half_divided
from hpc_accel.workloads.transformers_plan import as_patterns, is_known, mark, plan_of


def plan_inside(model: nn.Module) -> dict[str, Cut]:
    """The plan of all models of transformers in `model`, wrapped or not, which are marked; {} where it is not certain.

    It is certain of architectures that transformers has a plan for, or this file, where it `covers` every block. What
    is beside the blocks stays whole.
    """
    modeling = sys.modules.get("transformers.modeling_utils")  # no model is of a library that is not imported
    if modeling is None:
        return {}
    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        if isinstance(module, modeling.PreTrainedModel) and not any(_is_inside(name, other) for other in found):
            found[name] = module
            mark(module)
    cuts: dict[str, Cut] = {}
    for name, module in found.items():
        own = plan_of(module, "") if is_known(module) else {}
        if not covers(module, own):
            return {}
        cuts |= {f"{name}.{layer}".lstrip("."): way for layer, way in own.items()}
    return {} if half_divided(model, cuts) else as_patterns(model, cuts)


def covers(model: nn.Module, cuts: Mapping[str, Cut]) -> bool:
    """Whether `cuts` divide every layer of every block, and nothing between columns and rows is left whole.

    Blocks are the items of the outermost lists that hold divided layers; all is transformers' own code or torch's.
    """
    linears = divided_linears(cuts)
    lists = {_list_of(name) for name, way in cuts.items() if way in ("columns", "rows")}
    blocks = (
        [f"{each}.{key}" for each in lists for key in model.get_submodule(each)._modules] if "" not in lists else []
    )
    widths: dict[str, set[int]] = {}
    for name in (name for name, way in cuts.items() if way == "columns"):
        widths.setdefault(_parent(name), set()).add(features(model.get_submodule(name))[1])
    for block in blocks:
        ways = {way for name, way in linears.items() if _is_inside(name, block)}
        inside = dict(model.get_submodule(block).named_modules(prefix=block))
        whole = {name: each for name, each in inside.items() if name not in cuts}
        if len(ways) < 2 or not all(_stays_whole(*each, inside, widths) for each in whole.items()):
            return False
    return bool(blocks)


def _stays_whole(name: str, module: nn.Module, inside: Mapping[str, nn.Module], widths: Mapping[str, set[int]]) -> bool:
    """Whether an undivided module works on whole states, or on no parameters.

    Beside or below layers divided by columns it may work on their results: a norm of another width does not, but for
    those of attention, which may be of single heads.
    """
    if not type(module).__module__.startswith(("transformers.", "torch.")):
        return False
    if name in widths and _is_attention(module) and not hasattr(module, "head_width"):
        return False
    own = [each.numel() for each in module.parameters(recurse=False)]
    if any(each.dim() != 1 for each in module.parameters(recurse=False)) or (own and name in widths):
        return False
    beside = [parent for parent in widths if parent in inside and _is_inside(name, parent)] if own else []
    return all(
        "Norm" in type(module).__name__ and not _is_attention(inside[parent]) and not widths[parent] & set(own)
        for parent in beside
    )


def _is_attention(module: nn.Module) -> bool:
    return "attention" in type(module).__name__.lower()


def _list_of(name: str) -> str:
    """The outermost list of blocks that the module called so is in; "" for none."""
    return next((before for before, key in _prefixes(name) if key.isdigit()), "")


def _prefixes(name: str) -> Iterator[tuple[str, str]]:
    parts = name.split(".")
    return ((".".join(parts[:index]), parts[index]) for index in range(1, len(parts)))


def _is_inside(name: str, other: str) -> bool:
    return not other or name.startswith(f"{other}.")


def _parent(name: str) -> str:
    return name.rpartition(".")[0]
