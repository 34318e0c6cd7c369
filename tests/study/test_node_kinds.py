"""Nodes that differ: which node kinds a layout takes, shares by speed, and what cannot lie across them."""

from __future__ import annotations

import random

import pytest

from hpc_accel.errors import ConfigError
from hpc_accel.study.expand import listed_runs, place
from hpc_accel.study.layout import Layout
from hpc_accel.study.node_kinds import coordinates, node_kinds_of, rank_counts, stage_speeds, taken
from hpc_accel.study.rules import refusals
from hpc_accel.study.run import Resources
from hpc_accel.study.shares import proportional
from hpc_accel.study.study_file import ResourcesChoice, Study

from .test_expand import facts

TWO = [{"ranks_per_node": 2, "gpus_per_node": 2}, {"num_nodes": 2, "ranks_per_node": 4, "partition": "cpu"}]


def limits(node_kinds=TWO, **general) -> ResourcesChoice:
    return ResourcesChoice(node_kinds=node_kinds, **general)


def study(layouts, node_kinds=TWO, **content) -> Study:
    workload = {"name": "digits", "global_batch_size": content.pop("batch", 64)}
    return Study.model_validate(
        {"name": "s", "workload": workload, "layouts": layouts, "resources": {"node_kinds": node_kinds}, **content}
    )


def runs_of(made: Study, speeds=None):
    speed = (lambda node_kind, precision: speeds[node_kind.number]) if speeds else None
    return list(listed_runs(made, made.workloads[0], facts(), speed))


def broken(layout, node_kinds=TWO, speeds=None, **content) -> list[str]:
    made = study([layout], node_kinds, **content)
    [run] = runs_of(made, speeds)
    return [str(error) for error in refusals(run, made.resources, facts())]


@pytest.mark.parametrize(
    ("ranks", "expected"),
    [
        (1, [(0, 1, 1, 1)]),
        (2, [(0, 1, 2, 2)]),
        (3, [(1, 1, 3, 0)]),
        (4, [(1, 1, 4, 0)]),
        (8, [(1, 2, 4, 0)]),
        (10, [(0, 1, 2, 2), (1, 2, 4, 0)]),
    ],
)
def test_a_layout_takes_the_first_node_kind_that_holds_it_or_fills_several(ranks, expected):
    parts = taken(ranks, node_kinds_of(limits()))
    assert [(each.number, each.num_nodes, each.ranks_per_node, each.gpus_per_node) for each in parts] == expected
    assert ranks in rank_counts(node_kinds_of(limits()))


def test_numbers_of_ranks_are_those_that_fit_without_a_rest():
    node_kinds = node_kinds_of(limits())
    fitting = [ranks for ranks in range(1, 11) if sum(each.num_ranks for each in taken(ranks, node_kinds)) == ranks]
    assert list(rank_counts(node_kinds)) == fitting == [1, 2, 3, 4, 8, 10]


def test_resources_of_a_run_speak_for_all_its_node_kinds():
    general = limits([{**TWO[0], "cpus_per_rank": 8}, TWO[1]], cpus_per_rank=2, memory_mb=500, partition="gpu")
    asked = place(Layout(dp=10, micro_batch_size=1, accumulation_steps=1), general, "auto")
    assert (asked.num_nodes, asked.num_ranks, asked.ranks_per_node, asked.gpus_per_node) == (3, 10, 4, 2)
    assert (asked.cpus_per_rank, asked.memory_mb) == (2, 500)
    assert [part.partition for part in asked.each_kind] == ["gpu", "cpu"]
    assert [asked.node_kind_of(rank).number for rank in range(10)] == [0] * 2 + [1] * 8
    assert place(Layout(dp=10, micro_batch_size=1, accumulation_steps=1), general, "cpu").gpus_per_node == 0
    with pytest.raises(ValueError, match="sum of the node kinds' nodes"):
        Resources(ranks_per_node=4, node_kinds=asked.node_kinds)


def test_without_node_kinds_all_nodes_are_one_kind():
    resources = {"ranks_per_node": 2, "num_nodes": 2, "gpus_per_node": 2, "cpus_per_rank": 3, "partition": "x"}
    content = {"workload": {"name": "digits"}, "resources": resources, "layouts": [{"dp": 4}]}
    [run] = runs_of(Study.model_validate({"name": "s", **content, "recipes": [{"cpu_bind": "core"}]}))
    [part] = run.resources.each_kind
    assert (part.num_ranks, part.gpus_per_node, part.partition) == (4, 2, "x")


def test_where_a_node_kind_computes_is_part_of_the_run_and_its_memory_is_not():
    def run_id(**second):
        [run] = runs_of(study([{"dp": 10}], [TWO[0], {**TWO[1], **second}], batch=80))
        return run.run_id

    assert run_id() == run_id(memory_mb=77)
    assert len({run_id(), run_id(partition="other"), run_id(constraint="fast"), run_id(cpus_per_rank=2)}) == 4


def test_what_node_kinds_say_is_not_said_again():
    with pytest.raises(ValueError, match="each node kind says its own num_nodes"):
        ResourcesChoice(node_kinds=TWO, num_nodes=2)
    with pytest.raises(ValueError, match="letters, digits"):
        ResourcesChoice(node_kinds=[{"gpu_type": "a100 --exclusive"}])


@pytest.mark.parametrize("seed", range(200))
def test_shares_are_exact_whole_and_near_their_quotas(seed):
    chance = random.Random(seed)
    speeds = [chance.choice([1.0, chance.uniform(0.01, 100)]) for _ in range(chance.randint(1, 12))]
    multiple = chance.randint(1, 8)
    total = (chance.randint(0, 500) + len(speeds)) * multiple
    shares = proportional(total, speeds, multiple)
    assert sum(shares) == total
    assert all(share >= multiple and share % multiple == 0 for share in shares)
    if all(total * speed / sum(speeds) >= multiple for speed in speeds):
        for share, speed in zip(shares, speeds, strict=True):
            assert abs(share - total * speed / sum(speeds)) < multiple + 1e-6


@pytest.mark.parametrize(
    ("total", "speeds", "multiple", "shares"),
    [
        (64, [3, 1], 1, (48, 16)),
        (64, [1, 1, 1], 1, (22, 21, 21)),
        (64, [3, 1], 8, (48, 16)),
        (64, [2, 1], 8, (40, 24)),
        (10, [1000, 1, 1], 1, (8, 1, 1)),
        (3, [100, 1, 1], 1, (1, 1, 1)),
    ],
)
def test_shares_by_hand(total, speeds, multiple, shares):
    assert proportional(total, speeds, multiple) == shares


def test_automatic_shares_follow_the_speeds():
    node_kinds = [{"ranks_per_node": 1}, {"ranks_per_node": 2}]
    [run] = runs_of(study([{"dp": 3, "shares": "auto"}], node_kinds), {0: 2.0, 1: 1.0})
    assert run.layout.shares == (32, 16, 16)
    assert (run.layout.micro_batch_size, run.layout.accumulation_steps) == (32, 1)
    [run] = runs_of(study([{"dp": 3, "shares": "auto", "accumulation_steps": 4}], node_kinds), {0: 2.0, 1: 1.0})
    assert run.layout.shares == (32, 16, 16) and run.layout.micro_batch_size == 8


def test_automatic_shares_of_equal_replicas_are_none():
    layouts = [{"dp": [1, 2], "shares": "auto"}, {"dp": [1, 2]}]
    listed = runs_of(study(layouts, [{"ranks_per_node": 1}, {"ranks_per_node": 1}]), {0: 1.0, 1: 1.0})
    assert [run.layout.shares for run in listed] == [None] * 4
    assert listed[0].run_id == listed[2].run_id and listed[1].run_id == listed[3].run_id


def test_automatic_shares_of_pipelines_are_multiples_of_their_micro_batches():
    layout = {"dp": 2, "pp": 2, "order": "dp.pp.tp", "shares": "auto"}
    node_kinds = [{"ranks_per_node": 2}, {"ranks_per_node": 2}]
    [run] = runs_of(study([layout], node_kinds), {0: 3.0, 1: 1.0})
    assert run.layout.shares == (48, 16) and run.layout.accumulation_steps == 8
    assert broken(layout, node_kinds, {0: 3.0, 1: 1.0}) == []


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        ({"micro_batch_size": 4}, "micro_batch_size follows|follow from speeds"),
        ({"accumulation_steps": 3}, "64 samples in multiples of 3"),
        ({"accumulation_steps": 64}, "64 samples in multiples of 64 for 3"),
    ],
)
def test_automatic_shares_that_cannot_be(layout, words):
    with pytest.raises(ConfigError, match=words):
        runs_of(study([{"dp": 3, "shares": "auto", **layout}], [{}, {"ranks_per_node": 2}]), {0: 2.0, 1: 1.0})


@pytest.mark.parametrize(
    ("layout", "node_kinds", "words"),
    [
        ({"dp": 5, "accumulation_steps": 1}, TWO, "5 ranks on node kinds of 1 node(s) x 2 + 2 node(s) x 4"),
        ({"dp": 16}, TWO, "16 ranks on node kinds"),
        ({"dp": 2}, [{"ranks_per_node": 2, "gpus_per_node": 1}], "2 ranks per node on 1 GPU(s)"),
        ({"tp": 4}, [{"ranks_per_node": 2}, {"ranks_per_node": 2}], "tensor-parallel ranks of replica 0, stage 0"),
        (
            {"dp": 2, "pp": 2, "shares": [48, 16], "accumulation_steps": 2},
            [{"ranks_per_node": 2}, {"ranks_per_node": 2}],
            "shares [48, 16] with replica 0 on several node kinds",
        ),
        (
            {"dp": 2, "pp": 2},
            [{"ranks_per_node": 1}, {"ranks_per_node": 3}],
            "replica 0 and stage 0 both on several node kinds",
        ),
    ],
)
def test_what_cannot_lie_across_node_kinds(layout, node_kinds, words):
    messages = broken(layout, node_kinds, batch=80 if layout.get("dp") in (5, 16) else 64)
    assert any(words in message for message in messages), messages
    assert all("rule:" in message and "remedy:" in message for message in messages)


@pytest.mark.parametrize(
    "layout",
    [
        {"dp": 4},
        {"pp": 4},
        {"dp": 2, "pp": 2},
        {"dp": 2, "pp": 2, "order": "dp.pp.tp"},
        {"dp": 2, "pp": 2, "order": "dp.pp.tp", "shares": [48, 16], "accumulation_steps": 2},
        {"tp": 2, "pp": 2},
    ],
)
def test_what_may_lie_across_node_kinds(layout):
    assert broken(layout, [{"ranks_per_node": 2}, {"ranks_per_node": 2}]) == []


def test_gpus_for_all_are_refused_where_a_node_kind_has_none():
    node_kinds = [{"gpus_per_node": 1}, {}]
    assert any("device cuda with node kind 1" in each for each in broken({"dp": 2}, node_kinds, device="cuda"))
    assert any("backend nccl with node kind 1" in each for each in broken({"dp": 2}, node_kinds, backend="nccl"))
    assert broken({"dp": 2}, node_kinds) == []


def test_places_follow_the_order():
    assert list(coordinates(2, 2, 1)) == [(0, 0), (1, 0), (0, 1), (1, 1)]
    assert list(coordinates(2, 2, 1, "dp.pp.tp")) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert list(coordinates(1, 2, 2, "tp.pp.dp")) == [(0, 0), (0, 1), (0, 0), (0, 1)]


def test_stages_are_as_fast_as_the_ranks_that_hold_them():
    parts = node_kinds_of(limits([{"ranks_per_node": 2}, {"ranks_per_node": 2}]))
    speed = [3.0, 1.0]
    layout = {"pp": 2, "dp": 2, "micro_batch_size": 1, "accumulation_steps": 4, "schedule": "1f1b"}
    assert stage_speeds(Layout(**layout), parts, lambda part: speed[part.number]) == [6.0, 2.0]
    replicas = Layout(**layout, order="dp.pp.tp")
    assert stage_speeds(replicas, parts, lambda part: speed[part.number]) == [4.0, 4.0]
    looped = Layout(**{**layout, "schedule": "interleaved_1f1b"}, stages_per_rank=2)
    assert stage_speeds(looped, parts, lambda part: speed[part.number]) == [6.0, 2.0, 6.0, 2.0]
    v_shaped = Layout(**{**layout, "schedule": "dualpipev"}, stages_per_rank=2)
    assert stage_speeds(v_shaped, parts, lambda part: speed[part.number]) == [6.0, 2.0, 2.0, 6.0]
