"""Cut a sequence of layers into contiguous stages whose most expensive one is as cheap as possible."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

from hpc_accel.study.model_facts import ModelFacts

STATE_ELEMENTS = 4
"""Kept per parameter: its value, its gradient, and two of Adam."""
SLACK = 0.05
"""Splits whose slowest stage is this little slower than the best count as equally fast."""
Memory = tuple[float, float]
"""Elements a layer keeps whatever the batch, and for each micro-batch in flight."""
_Row = dict[int, tuple[float, float, int]]
"""For the first n layers on some stages: what is to be small, what decides between equals, start of the last stage."""


def automatic_split(
    facts: ModelFacts,
    num_stages: int,
    speeds: Sequence[float] | None = None,
    times_s: Sequence[float] | None = None,
) -> tuple[int, ...]:
    """Layers per stage, balanced by FLOPs; kept activations stand in for layers whose operations are not counted.

    `speeds` are those of the stages where they differ, in any unit. `times_s`, one per layer, balances by them instead
    of FLOPs, and of splits about as fast takes the one of least memory. A layer without parameters goes with its
    predecessor, because a stage that has nothing to train only costs.
    Raises ValueError when there are fewer layers with parameters than stages.
    """
    blocks: list[list[float]] = []
    memory: list[Memory] = []
    trainable: list[bool] = []
    for index, layer in enumerate(facts.layers):
        cost = layer.forward_flops_per_sample + layer.saved_elements_per_sample
        cost = cost if times_s is None else times_s[index]
        if blocks and (layer.num_parameters == 0 or not any(trainable[-1:])):
            blocks[-1].append(cost)
            trainable[-1] = trainable[-1] or layer.num_parameters > 0
            state, saved = memory[-1]
            memory[-1] = (state + layer.num_parameters * STATE_ELEMENTS, saved + layer.saved_elements_per_sample)
        else:
            blocks.append([cost])
            trainable.append(layer.num_parameters > 0)
            memory.append((layer.num_parameters * STATE_ELEMENTS, layer.saved_elements_per_sample))
    costs = [sum(block) for block in blocks]
    sizes = balanced_split(costs, num_stages, speeds) if times_s is None else lightest_split(costs, memory, num_stages)
    result, start = [], 0
    for size in sizes:
        result.append(sum(len(block) for block in blocks[start : start + size]))
        start += size
    return tuple(result)


def balanced_split(costs: Sequence[float], num_stages: int, speeds: Sequence[float] | None = None) -> tuple[int, ...]:
    """Number of layers per stage, minimising the largest stage's cost; every stage gets at least one layer.

    With `speeds`, one for each stage, what counts is cost over speed, which is the time a stage takes.
    Dynamic programming over prefixes, O(stages x layers^2). Equal optima are broken towards the smaller
    second-largest stage by also minimising the sum of squares.
    """
    num_layers = len(costs)
    if not 1 <= num_stages <= num_layers:
        raise ValueError(f"{num_stages} stages from {num_layers} layers: every stage has at least one layer")
    if speeds is not None and len(speeds) != num_stages:
        raise ValueError(f"{len(speeds)} speeds for {num_stages} stages")
    prefix = [0.0, *accumulate(costs)]
    # best[k][n]: (largest stage, sum of squares, start of the last stage) for the first n layers on k stages
    best: list[_Row] = [{0: (0.0, 0.0, 0)}]
    for stage in range(1, num_stages + 1):
        speed = speeds[stage - 1] if speeds is not None else 1.0
        row: _Row = {}
        for end in range(stage, num_layers - (num_stages - stage) + 1):
            row[end] = _best_end(best[-1], prefix, end, speed)
        best.append(row)
    return _sizes(best, num_layers)


def _best_end(before: _Row, prefix: Sequence[float], end: int, speed: float) -> tuple[float, float, int]:
    """The best last stage that ends at layer `end`, after the stages of `before`.

    The more layers it has, the more it costs, so none is tried that alone costs more than the best found.
    """
    found = (math.inf, math.inf, 0)
    for start in range(end - 1, -1, -1):
        cost = (prefix[end] - prefix[start]) / speed
        if cost > found[0]:
            break
        if start in before:
            largest, squares, _ = before[start]
            found = min(found, (max(largest, cost), squares + cost * cost, start))
    return found


def lightest_split(costs: Sequence[float], memory: Sequence[Memory], num_stages: int) -> tuple[int, ...]:
    """Of the splits whose slowest stage is within SLACK of the best, the one whose fullest stage holds least.

    Stage i of p has p - i micro-batches in flight, as under 1F1B. The same dynamic programming as `balanced_split`.
    """
    prefix = [0.0, *accumulate(costs)]
    states = [0.0, *accumulate(state for state, _ in memory)]
    kept = [0.0, *accumulate(saved for _, saved in memory)]
    ends = list(accumulate(balanced_split(costs, num_stages)))
    limit = max(prefix[end] - prefix[start] for start, end in zip([0, *ends], ends, strict=False)) * (1 + SLACK)
    best: list[_Row] = [{0: (0.0, 0.0, 0)}]
    for stage in range(num_stages):
        row: _Row = {}
        for end in range(stage + 1, len(costs) - (num_stages - stage - 1) + 1):
            options = [
                (max(fullest, held), max(slowest, prefix[end] - prefix[start]), start)
                for start, (fullest, slowest, _) in best[-1].items()
                if start < end and prefix[end] - prefix[start] <= limit
                for held in (states[end] - states[start] + (num_stages - stage) * (kept[end] - kept[start]),)
            ]
            if options:
                row[end] = min(options)
        best.append(row)
    return _sizes(best, len(costs))


def _sizes(best: Sequence[_Row], end: int) -> tuple[int, ...]:
    """Layers of each stage of the best split of the first `end` layers, read backwards: best[k] is for k stages."""
    sizes: list[int] = []
    for row in reversed(best[1:]):
        start = row[end][2]
        sizes.append(end - start)
        end = start
    return tuple(reversed(sizes))
