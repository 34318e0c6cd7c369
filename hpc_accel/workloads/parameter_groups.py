"""Which parameter belongs to which group of which optimizer, found by name on the whole model before it is divided.

Ranks hold parts of the model under the same names: a stage's layers, a shard, a slice. So a group of the whole model
has the same options on every rank, and may be empty on some.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from hpc_accel.errors import ConfigError
from hpc_accel.study.optimizer import KINDS, Optimizer, ParameterGroup

NORMS = (nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.modules.batchnorm._NormBase)
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)


@dataclass(frozen=True, kw_only=True)
class Part:
    """One optimizer: its name, its arguments, and what each of its groups has otherwise."""

    name: str
    keywords: dict[str, Any]
    groups: tuple[dict[str, Any], ...]


@dataclass(frozen=True, kw_only=True)
class Grouping:
    """The optimizers of a model. `where` is part and group of each trainable parameter, by every name that it has."""

    parts: tuple[Part, ...]
    where: Mapping[str, tuple[int, int]]


def group_parameters(spec: Optimizer, model: nn.Module, *, all_match: bool = False) -> Grouping:
    """The groups of `model`, the one that no `match` found first.

    With `all_match` a group that matches no parameter is a ConfigError: a typing mistake that nobody would see. A part
    or a twin of the model may do without.
    """
    kinds, keys = kinds_of(model), {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            found = next((at for at, group in enumerate(spec.groups) if _matches(group, name, kinds[name])), -1)
            keys[id(parameter)] = found, bool(kinds[name] & set(spec.no_decay))
    for index, group in enumerate(spec.groups):
        if all_match and all(found != index for found, _ in keys.values()):
            raise _unmatched(group, model, spec)
    groups: dict[int, list[dict[str, Any]]] = {}
    places: dict[tuple[int, bool], tuple[int, int]] = {}
    for key in sorted(set(keys.values())):
        index, without_decay = key
        own = spec.groups[index] if index >= 0 else None
        apart = own is not None and own.name is not None
        options = {} if own is None or apart else own.keywords
        mine = groups.setdefault(index if apart else -1, [])
        mine.append(options | ({"weight_decay": 0.0} if without_decay else {}))
        places[key] = index if apart else -1, len(mine) - 1
    order = {part: at for at, part in enumerate(groups)}
    parts = tuple(
        Part(name=own.name or spec.name, keywords=own.keywords, groups=tuple(groups[index]))
        for index in groups
        for own in (spec.groups[index] if index >= 0 else spec,)
    )
    where = {
        name: (order[places[keys[id(each)]][0]], places[keys[id(each)]][1])
        for name, each in model.named_parameters(remove_duplicate=False)
        if id(each) in keys
    }
    return Grouping(parts=parts, where=where)


def kinds_of(model: nn.Module) -> dict[str, set[str]]:
    """What each parameter is, by its name: of a normalisation layer, of an embedding, a bias, or none of these."""
    found: dict[str, set[str]] = {}
    for owner, module in model.named_modules(remove_duplicate=False):
        for key, _ in module.named_parameters(recurse=False, remove_duplicate=False):
            kinds = found.setdefault(f"{owner}.{key}" if owner else key, set())
            if isinstance(module, NORMS) or type(module).__name__.lower().endswith("norm"):
                kinds.add("norm")
            if isinstance(module, EMBEDDINGS):
                kinds.add("embedding")
            if key.endswith("bias"):
                kinds.add("bias")
    return found


def _matches(group: ParameterGroup, name: str, kinds: set[str]) -> bool:
    return group.match in kinds if group.match in KINDS else re.search(group.match, name) is not None


def _unmatched(group: ParameterGroup, model: nn.Module, spec: Optimizer) -> ConfigError:
    names = [name for name, each in model.named_parameters() if each.requires_grad]
    first = spec.groups.index(group)
    earlier = f", or an earlier group has all that it finds ({spec.groups[0].match!r} stands first)" if first else ""
    return ConfigError(
        f"optimizer group {group.match!r} matches no parameter{earlier}",
        f"match is one of {', '.join(KINDS)}, or a regular expression that is searched for in parameters' names",
        f"the model's names are {', '.join(names[:4])}{', ...' if len(names) > 4 else ''}",
    )
