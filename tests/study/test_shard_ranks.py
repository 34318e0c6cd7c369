"""Hybrid sharding in a layout: its name, its digest, what cannot work, and where its ranks stand."""

from __future__ import annotations

import pytest

from hpc_accel.parallel.mesh import RankCoordinates
from hpc_accel.study.layout import Layout
from hpc_accel.study.rules import refusals
from hpc_accel.study.study_file import ResourcesChoice
from tests.plan.examples import model, run


def layout(**fields) -> Layout:
    return Layout(micro_batch_size=1, accumulation_steps=1, **fields)


def test_it_stands_in_the_name_and_in_the_content_only_where_it_is_set():
    assert layout(dp=4, shard="full", shard_ranks=2).label == "dp4.fsdp2"
    assert layout(dp=4, shard="full").label == "dp4.fsdp"
    assert "shard_ranks" not in layout(dp=4, shard="full").model_dump()
    grouped = layout(dp=4, shard="full", shard_ranks=2)
    assert Layout.model_validate(grouped.model_dump()) == grouped
    assert [layout(dp=4).shard_group, layout(dp=4, shard="full").shard_group, grouped.shard_group] == [1, 4, 2]


@pytest.mark.parametrize(
    ("fields", "value"),
    [
        ({"dp": 4, "shard_ranks": 2}, "shard_ranks 2 with shard none"),
        ({"dp": 4, "shard": "optimizer", "shard_ranks": 2}, "shard_ranks 2 with shard optimizer"),
        ({"dp": 4, "shard": "full", "shard_ranks": 3}, "shard_ranks 3 with dp 4"),
        ({"dp": 4, "shard": "full", "shard_ranks": 4}, "shard_ranks 4 with dp 4"),
        ({"dp": 4, "shard": "full", "shard_ranks": 1}, "shard_ranks 1 with dp 4"),
    ],
)
def test_groups_that_make_no_sense_are_refused(fields, value):
    limits = ResourcesChoice(ranks_per_node=4, gpus_per_node=4)
    first, *_ = refusals(run(**fields), limits, model())
    assert first.value.endswith(value)
    assert list(refusals(run(dp=4, shard="full", shard_ranks=2), limits, model())) == []


def test_the_first_group_holds_what_counts():
    def first(dp_rank: int, **fields) -> bool:
        return RankCoordinates(
            layout=layout(**fields), mesh=None, pp_rank=0, dp_rank=dp_rank, tp_rank=0
        ).is_first_holder

    assert [first(rank, dp=4, shard="full", shard_ranks=2) for rank in range(4)] == [True, True, False, False]
    assert all(first(rank, dp=4, shard="full") for rank in range(4))
