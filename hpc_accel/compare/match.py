"""Which configurations of two studies compute the same, which have no partner, and what else differs between them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from hpc_accel.compare.side import Configuration, Side
from hpc_accel.report.judge.differences import words

MOST_NEAREST = 10
"""Configurations without a partner for which the nearest one is looked for: it takes a look at all of the others."""
MOST_DIFFERENCES = 3
"""Keys by which a run may differ from its nearest one, to be worth naming."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Single:
    """A configuration of one side alone, and by what the nearest of the other side differs."""

    configuration: Configuration
    nearest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """Pairs in A's order, and the rest of either side."""

    pairs: tuple[tuple[Configuration, Configuration], ...]
    only_a: tuple[Single, ...]
    only_b: tuple[Single, ...]
    differences: tuple[str, ...]


def match(a: Side, b: Side) -> Match:
    """Two configurations are a pair if workload, layout, recipe and resources are the same."""
    in_a, in_b = ({_key(each): each for each in _in_full(*sides)} for sides in ((a, b), (b, a)))
    return Match(
        pairs=tuple((each, in_b[key]) for key, each in in_a.items() if key in in_b),
        only_a=_singles(in_a, in_b),
        only_b=_singles(in_b, in_a),
        differences=_differences(a, b),
    )


def _in_full(side: Side, other: Side) -> Iterator[Configuration]:
    """A side's configurations. A workload of which no run left more than the name is taken to be the other side's."""
    specs = {each.workload: each.computes["workload"] for each in other.configurations if "workload" in each.computes}
    for each in side.configurations:
        spec = specs.get(each.workload)
        if spec and each.computes.get("workload") == {"name": each.workload}:
            yield each.model_copy(update={"computes": {**each.computes, "workload": spec}})
        else:
            yield each


def _key(configuration: Configuration) -> str:
    return json.dumps(configuration.computes, sort_keys=True)


def _singles(own: dict[str, Configuration], others: dict[str, Configuration]) -> tuple[Single, ...]:
    alone = [each for key, each in own.items() if key not in others]
    near, far = alone[:MOST_NEAREST], alone[MOST_NEAREST:]
    return (
        *(_single(each, list(others.values())) for each in near),
        *(Single(configuration=each, nearest="") for each in far),
    )


def _single(alone: Configuration, others: list[Configuration]) -> Single:
    own = dict(_leaves(alone.computes))
    nearest: tuple[str, ...] | None = None
    for other in others:
        found = dict(_leaves(other.computes))
        keys = sorted(key for key in own.keys() | found.keys() if own.get(key) != found.get(key))
        told = tuple(f"{key} {_shown(found.get(key))} (not {_shown(own.get(key))})" for key in keys)
        if nearest is None or len(told) < len(nearest):
            nearest = told
    close = nearest is not None and len(nearest) <= MOST_DIFFERENCES
    return Single(configuration=alone, nearest=", ".join(nearest or ()) if close else "")


def _leaves(content: Any, path: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(content, dict):
        for key, value in content.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, json.dumps(content)


def _shown(value: str | None) -> str:
    return "the default" if value is None else value


def _differences(a: Side, b: Side) -> tuple[str, ...]:
    """What both know and have otherwise: `torch 2.11.0 (not 2.10.1)` of B."""
    found = []
    for name in dict.fromkeys([*a.facts, *b.facts]):
        first, second = a.facts.get(name, ()), b.facts.get(name, ())
        if first and second and set(first) != set(second):
            found.append(words(name, " and ".join(second), " and ".join(first)))
    return tuple(found)
