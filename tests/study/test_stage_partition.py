"""Stages are as even as whole layers allow."""

from itertools import accumulate, combinations, pairwise, product
from random import Random

import pytest

from hpc_accel.study.model_facts import LayerFacts, ModelFacts
from hpc_accel.study.stage_partition import automatic_split, balanced_split, lightest_split


def brute_force(costs, num_stages):
    best = float("inf")
    for cuts in combinations(range(1, len(costs)), num_stages - 1):
        edges = [0, *cuts, len(costs)]
        best = min(best, max(sum(costs[a:b]) for a, b in pairwise(edges)))
    return best


@pytest.mark.parametrize("costs", [[1, 2, 3, 4, 5], [5, 1, 1, 1, 5, 1], [0, 0, 9, 0, 0], [1] * 7])
@pytest.mark.parametrize("num_stages", [1, 2, 3, 5])
def test_largest_stage_is_minimal(costs, num_stages):
    sizes = balanced_split(costs, num_stages)
    assert len(sizes) == num_stages
    assert sum(sizes) == len(costs)
    assert min(sizes) >= 1
    starts = [sum(sizes[:k]) for k in range(num_stages)]
    largest = max(sum(costs[a : a + n]) for a, n in zip(starts, sizes, strict=True))
    assert largest == brute_force(costs, num_stages)


def test_more_stages_than_layers_is_an_error():
    with pytest.raises(ValueError, match="at least one layer"):
        balanced_split([1.0], 2)


def test_layers_without_parameters_go_with_their_predecessor():
    def layer(parameters, flops):
        return LayerFacts(
            name="l",
            num_parameters=parameters,
            forward_flops_per_sample=flops,
            output_elements_per_sample=1,
            saved_elements_per_sample=0,
            tp_parameters=0,
            tp_flops_per_sample=0.0,
            tp_allreduce_elements_per_sample=0,
        )

    layers = (layer(0, 1), layer(5, 10), layer(0, 1), layer(5, 10), layer(0, 1))
    facts = ModelFacts(layers=layers, num_samples=1, sample_bytes=1, sequential=True, tp_units=None)
    assert automatic_split(facts, 2) == (3, 2)
    with pytest.raises(ValueError, match="3 stages from 2"):
        automatic_split(facts, 3)


def test_of_splits_about_as_fast_the_lightest_is_taken():
    """By time [2, 2] and [1, 3] hardly differ; the first stage has two micro-batches in flight, so fewer layers."""
    costs, memory = [1.04, 0.0, 0.0, 1.0], [(0.0, 10.0)] * 4
    assert lightest_split(costs, memory, 2) == (1, 3)


@pytest.mark.parametrize("num_stages", [1, 2, 3, 5])
def test_the_lightest_is_the_lightest_of_all_that_are_fast_enough(num_stages):
    random = Random(num_stages)
    costs = [random.uniform(1, 3) for _ in range(8)]
    memory = [(random.uniform(0, 5), random.uniform(0, 5)) for _ in range(8)]

    def judged(sizes):
        ends = list(accumulate(sizes))
        bounds = list(zip([0, *ends], ends, strict=False))
        slowest = max(sum(costs[a:b]) for a, b in bounds)
        held = [
            sum(state for state, _ in memory[a:b]) + (num_stages - stage) * sum(kept for _, kept in memory[a:b])
            for stage, (a, b) in enumerate(bounds)
        ]
        return slowest, max(held)

    every = [sizes for sizes in product(range(1, 9), repeat=num_stages) if sum(sizes) == 8]
    fastest = min(judged(sizes)[0] for sizes in every)
    wanted = min(judged(sizes)[1] for sizes in every if judged(sizes)[0] <= fastest * 1.05)
    assert judged(lightest_split(costs, memory, num_stages))[1] == pytest.approx(wanted)


@pytest.mark.parametrize("speeds", [[1.0, 1.0, 1.0], [3.0, 1.0, 2.0], [1.0, 10.0, 1.0]])
def test_slowest_stage_is_as_fast_as_can_be(speeds):
    costs = [4, 1, 3, 2, 2, 5, 1, 1]
    sizes = balanced_split(costs, 3, speeds)

    def slowest(sizes):
        edges = [0, *accumulate(sizes)]
        return max(sum(costs[a:b]) / speed for (a, b), speed in zip(pairwise(edges), speeds, strict=True))

    every = [(a, b - a, len(costs) - b) for a, b in combinations(range(1, len(costs)), 2)]
    assert slowest(sizes) == min(map(slowest, every))


def test_a_stage_twice_as_fast_holds_twice_the_layers():
    assert balanced_split([1.0] * 9, 2, [2.0, 1.0]) == (6, 3)
    with pytest.raises(ValueError, match="1 speeds for 2 stages"):
        balanced_split([1.0] * 9, 2, [2.0])
