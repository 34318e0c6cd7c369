"""Runs of one model, seed and batch share a serial run; only what it depends on makes another."""

from __future__ import annotations

from typing import Any

from hpc_accel.study.layout import Layout
from hpc_accel.study.recipe import Recipe
from hpc_accel.study.references import one_of_each, planned_references, reference_name
from hpc_accel.study.run import Run
from tests.jobs.conftest import make_mixed_run, make_run


def changed(run: Run, **update: Any) -> Run:
    return Run.model_validate({**run.model_dump(exclude={"run_id"}), **update})


def test_layouts_and_recipes_share_a_reference_and_models_do_not():
    run = make_run()
    other = changed(run, layout=Layout(dp=1, pp=2, micro_batch_size=64, accumulation_steps=2).model_dump())
    halved = changed(run, recipe=Recipe(precision="bf16").model_dump())
    optimizer = run.workload.optimizer.model_copy(update={"learning_rate": 1.0})
    faster = changed(run, workload=run.workload.model_copy(update={"optimizer": optimizer}).model_dump())
    same = {reference_name(each) for each in (run, other, halved, faster)}
    edited = changed(run, workload=run.workload.model_copy(update={"sources": {"m.py": "1"}}).model_dump())
    seeded, larger = changed(run, seed=1), changed(run, workload={**run.workload.model_dump(), "global_batch_size": 4})
    on_gpu = make_run(gpus_per_node=2)
    different = [reference_name(each) for each in (run, edited, seeded, larger, on_gpu)]
    assert len(same) == 1
    assert len(set(different)) == len(different)
    planned = planned_references([run, other, halved, faster, seeded])
    assert sorted(len(each["runs"]) for each in planned.values()) == [1, 4]
    assert {each.run_id for each in one_of_each([run, other, halved, faster])} >= {other.run_id, halved.run_id}
    assert len(one_of_each([run, other, halved, faster])) == 3, "the optimizer has no part in the compared steps"


def test_other_variants_are_other_work_and_other_stages_are_not():
    run = make_run()
    staged = changed(run, layout={**run.layout.model_dump(), "sequence_parallel": False, "dp": 2, "pp": 2})
    [one] = planned_references([run]).values()
    [same] = planned_references([run, staged]).values()
    [more] = planned_references([run, changed(run, recipe=Recipe(precision="bf16").model_dump())]).values()
    assert one["variants"] == same["variants"] != more["variants"]


def test_on_nodes_that_differ_it_is_where_rank_0_is():
    cpu, gpu = {"ranks_per_node": 2}, {"ranks_per_node": 2, "gpus_per_node": 2}
    assert reference_name(make_mixed_run(cpu, gpu)) != reference_name(make_mixed_run(gpu, cpu))
