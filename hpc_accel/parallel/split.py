"""Cut a sequence of layers into contiguous stages whose most expensive one is as cheap as possible."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from hpc_accel.workloads.facts import ModelFacts


def automatic_split(facts: ModelFacts, num_stages: int, speeds: Sequence[float] | None = None) -> tuple[int, ...]:
    """Layers per stage, balanced by FLOPs; kept activations stand in for layers whose operations are not counted.

    `speeds` are those of the stages where they differ, in any unit. A layer without parameters goes with its
    predecessor, because a stage that has nothing to train only costs.
    Raises ValueError when there are fewer layers with parameters than stages.
    """
    blocks: list[list[float]] = []
    trainable: list[bool] = []
    for layer in facts.layers:
        cost = layer.forward_flops_per_sample + layer.saved_elements_per_sample
        if blocks and (layer.num_parameters == 0 or not any(trainable[-1:])):
            blocks[-1].append(cost)
            trainable[-1] = trainable[-1] or layer.num_parameters > 0
        else:
            blocks.append([cost])
            trainable.append(layer.num_parameters > 0)
    sizes = balanced_split([sum(block) for block in blocks], num_stages, speeds)
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
    best: list[dict[int, tuple[float, float, int]]] = [{0: (0.0, 0.0, 0)}]
    for stage in range(1, num_stages + 1):
        speed = speeds[stage - 1] if speeds is not None else 1.0
        row: dict[int, tuple[float, float, int]] = {}
        for end in range(stage, num_layers - (num_stages - stage) + 1):
            row[end] = min(
                (max(largest, cost), squares + cost * cost, start)
                for start, (largest, squares, _) in best[-1].items()
                if start < end
                for cost in ((prefix[end] - prefix[start]) / speed,)
            )
        best.append(row)
    sizes: list[int] = []
    end = num_layers
    for stage in range(num_stages, 0, -1):
        start = best[stage][end][2]
        sizes.append(end - start)
        end = start
    return tuple(reversed(sizes))
