"""Random draws of a traced model: each tells which module of the model drew, and which draw of that module it is.

A traced graph calls operations, and no longer the modules by which parity holds randomness still.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import Any

import torch
from torch import fx, nn

PLACE: ContextVar[tuple[str, int] | None] = ContextVar("PLACE", default=None)
"""While a traced graph draws: the module's name in the whole model, and the number of the draw, from 1."""


def name_draws(stages: Iterable[nn.Module]) -> None:
    """Make every draw of the traced `stages`, which are the whole model in order, tell its place; in place."""
    counts: Counter[str] = Counter()
    for module in (module for stage in stages for module in stage.modules()):
        graph = getattr(module, "graph", None)
        if not isinstance(graph, fx.Graph):
            continue
        draws = [node for node in graph.nodes if node.op == "call_function" and _draws(node.target)]
        for node in draws:
            called = [name for name, _ in node.meta.get("nn_module_stack", {}).values()]
            name = called[-1] if called else ""  # "layer@1" is the second call of "layer"
            counts[name] += 1
            node.target = _placed(node.target, (name.partition("@")[0], counts[name]))
        if draws and isinstance(module, fx.GraphModule):
            module.recompile()


def _draws(target: Any) -> bool:
    """What drops belongs to no count, as parity replaces it by what keeps everything."""
    if not isinstance(target, torch._ops.OpOverload) or torch.Tag.nondeterministic_seeded not in target.tags:
        return False
    names = {target._schema.name, *(each.name for each in target._schema.arguments)}
    return target is not torch.ops.aten.bernoulli_.float and not any("dropout" in name for name in names)


def _placed(operation: Callable[..., Any], place: tuple[str, int]) -> Callable[..., Any]:
    def drawn(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return operation(*args, **kwargs)
        token = PLACE.set(place)
        try:
            return operation(*args, **kwargs)
        finally:
            PLACE.reset(token)

    return drawn
