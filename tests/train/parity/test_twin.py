"""A model too large for one rank is compared by a twin of fewer blocks; PowerSGD and local SGD by their effect."""

from pathlib import Path

import pytest

from hpc_accel.report.load.run_status import compared
from tests.mpirun import check, mpirun
from tests.records import summary_in
from tests.train.parity.many import compute_references
from tests.train.parity.test_planted import MEASURE, SCRIPT
from tests.train.test_layouts import write_runs

LARGE = {"name": "lm", "args": {"layers": 6, "hidden": 128, "heads": 4, "sequence": 16}, "global_batch_size": 8}
SMALL = {"name": "lm", "args": {"layers": 2, "hidden": 32, "heads": 2, "sequence": 16}, "global_batch_size": 8}
ROOM = {"ranks_per_node": 2, "memory_mb": 12}
"""For three copies of the weights of three blocks of six."""
STAGED = {"pp": 2, "accumulation_steps": 4}
INTERLEAVED = {**STAGED, "schedule": "interleaved_1f1b", "stages_per_rank": 2}
LONGER = MEASURE | {"steps": 3}
"""One period of local SGD."""
PASSING = [{"dp": 2}, {"dp": 2, "shard": "full"}, {"tp": 2}, STAGED]


@pytest.fixture(scope="module")
def summaries(tmp_path_factory):
    """By what is looked at, from one launch."""
    directory, paths = tmp_path_factory.mktemp("twin"), {}
    common = {"measure": MEASURE, "resources": ROOM}
    paths["twin"] = write_runs(directory, LARGE, PASSING, **common)
    paths["halved"] = write_runs(directory, LARGE, [{"dp": 2}], ("bf16",), **common)
    paths["stages"] = write_runs(directory, LARGE, [INTERLEAVED], **common)
    paths["doubled"] = write_runs(directory, LARGE, [{"dp": 2, "accumulation_steps": 2}], **common)
    effects = {"powersgd": {"compression": "powersgd"}, "local": {"average_every": 3}}
    for name, recipe in effects.items():
        paths[name] = write_runs(directory, SMALL, [{"dp": 2}], recipe=recipe, measure=LONGER)
    paths["both"] = write_runs(directory, SMALL, [{"dp": 2}], ("bf16",), effects["powersgd"], measure=LONGER)
    compute_references([path for each in paths.values() for path in each])
    faults = {"doubled": "gradient_doubled"}
    check(
        mpirun(
            2, [SCRIPT, *(f"{faults.get(k, '')}={p}" for k, v in paths.items() for p in v)], 280, HPC_ACCEL_TESTING="1"
        )
    )
    return {kind: [summary_in(Path(path).parent) for path in each] for kind, each in paths.items()}


@pytest.mark.mpi
def test_layouts_of_a_model_too_large_are_shown_on_its_twin(summaries):
    for summary in [*summaries["twin"], *summaries["halved"]]:
        parity = summary.parity
        assert (summary.status, parity.passed) == ("completed", True), (summary.run_id, parity)
        assert (parity.found.twin.blocks, parity.found.twin.of) == (3, 6)
        assert parity.reference.endswith("; shown on a twin of 3 of 6 blocks")
        assert "parity: shown on a twin of 3 of 6 blocks: the whole model does not fit on one rank" in summary.warnings
        assert compared(parity) == ("completed", None)
        assert summary.flops.per_step.value is None
        assert "twin" in summary.flops.per_step.reason


@pytest.mark.mpi
def test_a_fault_shows_on_the_twin(summaries):
    [summary] = summaries["doubled"]
    assert summary.status == "wrong"
    assert "every gradient is 2.00 times the serial one" in summary.parity.reason


@pytest.mark.mpi
def test_fewer_blocks_than_stages_leave_a_run_unchecked(summaries):
    [summary] = summaries["stages"]
    assert summary.parity.steps == 0
    assert summary.parity.reason.endswith("3 blocks on 4 stages: each has at least one")
    assert compared(summary.parity)[0] == "unchecked"


@pytest.mark.mpi
def test_the_effect_of_powersgd_is_told_and_makes_no_run_wrong(summaries):
    for summary in [*summaries["powersgd"], *summaries["both"]]:
        found = summary.parity.found
        assert (summary.status, summary.parity.passed) == ("completed", True), summary.parity
        [effect] = found.effects
        assert 0.01 < effect.gradient_distance < 1.5, "four ranks of a matrix are not the matrix"
        assert 0.001 < effect.update_distance < 1.5
        assert effect.replica_drift is None
        assert f"parity: {effect.told}" in summary.warnings
    assert found.recipe_effect != effect.update_distance, "a recipe of 16 bits has a serial run, which says its effect"
    [alone] = summaries["powersgd"]
    assert alone.parity.found.recipe_effect == alone.parity.found.effects[0].update_distance


@pytest.mark.mpi
def test_the_effect_of_local_sgd_is_the_drift_of_its_period(summaries):
    [summary] = summaries["local"]
    found = summary.parity.found
    assert (summary.status, summary.parity.passed) == ("completed", True), summary.parity
    [effect] = found.effects
    assert effect.num_steps == 3
    assert effect.replica_drift > 0.01, "replicas see other samples"
    assert 0 < effect.update_distance < effect.replica_drift * 10
    assert "over 3 steps" in effect.told
