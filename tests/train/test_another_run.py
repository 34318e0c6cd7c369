"""A run that starts from another run's checkpoint: which one it takes, and what is refused."""

import pytest

from hpc_accel.errors import ConfigError
from hpc_accel.parallel.mesh import RankCoordinates
from hpc_accel.runtime.batches import sampler_for
from hpc_accel.study.run import Run
from hpc_accel.train.another_run import refuse_ended
from hpc_accel.train.checkpoint import Checkpoints
from tests.train.alone import Alone, flip, loaded_step, save


def test_ids_of_runs_that_say_nothing_of_saving_stay(checkpoints):
    run = checkpoints.run.model_dump(exclude={"run_id"})
    told = {"node_mtbf_h": 5.0}
    assert Run.model_validate({**run, "checkpoint": told}).run_id == checkpoints.run.run_id
    assert Run.model_validate({**run, "checkpoint": {"start_from": "x"}}).run_id != checkpoints.run.run_id


def another(checkpoints, tmp_path, **changed):
    """The checkpoints of a run that starts from the one of `checkpoints`."""
    content = checkpoints.run.model_dump(exclude={"run_id"}) | changed
    content["checkpoint"] = {"start_from": str(checkpoints.directory.parent)}
    run = Run.model_validate(content)
    place = RankCoordinates(layout=run.layout, mesh=None, pp_rank=0, dp_rank=0, tp_rank=0)
    return Checkpoints(run, tmp_path / "another", Alone(), place)


def test_a_run_starts_from_another_one_until_it_has_its_own(checkpoints, tmp_path):
    other = another(checkpoints, tmp_path)
    with pytest.raises(ConfigError, match="names a run's directory with checkpoints in it"):
        other.load()
    save(checkpoints, 5)
    save(checkpoints, 10)
    found = other.load()
    assert (found.step, found.of, found.is_same_layout) == (10, checkpoints.run, True)
    assert list(found.measured.rows) == [], "what the other run measured is in its own record"
    flip(checkpoints.directory / "step-000010/rank-0.json")
    assert other.load().step == 5
    assert save(other, 7) == ""
    assert loaded_step(other) == 7


@pytest.mark.parametrize("key", ["seed", "global_batch_size", "optimizer", "args"])
def test_a_run_of_another_training_is_refused(checkpoints, tmp_path, key):
    save(checkpoints, 5)
    workload = checkpoints.run.workload.model_dump()
    changed = {"global_batch_size": 2 * workload["global_batch_size"], "optimizer": {"name": "adamw"}, "args": {"x": 1}}
    content = {"seed": 1} if key == "seed" else {"workload": workload | {key: changed[key]}}
    with pytest.raises(ConfigError, match=f"{key} is .* there and .* here"):
        another(checkpoints, tmp_path, **content).load()


def test_replicas_that_train_alone_go_on_in_their_own_layout(checkpoints, tmp_path):
    save(checkpoints, 5)
    recipe = checkpoints.run.recipe.model_dump() | {"average_every": 3}
    with pytest.raises(ConfigError, match=r"average_every 1 with .*, and 3 with"):
        another(checkpoints, tmp_path, recipe=recipe).load()


def test_a_training_that_has_ended_is_not_gone_on_with(checkpoints):
    total = checkpoints.run.measure.warmup_steps + checkpoints.run.measure.steps
    refuse_ended(checkpoints.run, total - 1)
    with pytest.raises(ConfigError, match="steps are counted from the beginning of the training"):
        refuse_ended(checkpoints.run, total)


@pytest.mark.parametrize("stopped", [1, 7, 12])
def test_each_sample_comes_once_an_epoch_though_the_number_of_replicas_changes(stopped):
    def seen(replicas, steps, first_step):
        share = 8 // replicas
        ranks = [
            sampler_for(range(100), 8, start=rank * share, share=share, seed=3, first_step=first_step, keep_last=True)
            for rank in range(replicas)
        ]
        return [each for sampler in ranks for step in steps for each in sampler.samples(step)[: sampler.valid(step)]]

    per_epoch = 13  # the last batch has 4 samples
    found = seen(2, range(stopped), 0) + seen(4, range(stopped, per_epoch), stopped)
    assert sorted(found) == list(range(100))
