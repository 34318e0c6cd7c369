"""Optimizers, groups, clipping and schedules do in every layout what they do in a serial run."""

import polars as pl
import pytest

from tests.mpirun import ROOT, check, mpirun
from tests.records import summary_in
from tests.train.test_layouts import LM, SCRIPT, write_runs

SHORT = {"measure": {"warmup_steps": 1, "steps": 5, "parity_steps": 2, "metric_samples": 0, "idle_s": 0}}
CLIPPED = {
    "name": "sgd",
    "learning_rate": 0.2,
    "momentum": 0.9,
    "weight_decay": 0.1,
    "no_decay": ["norm", "bias"],
    "groups": [{"match": r"^0\.", "learning_rate": 0.02}],
    "clip_grad_norm": 0.7,
    "schedule": {"name": "cosine", "warmup_steps": 2, "min_factor": 0.1},
}
QUICK = {"measure": {**SHORT["measure"], "steps": 1, "parity_steps": 1}}
SERIAL = [{}, {"accumulation_steps": 4}]
TWO = [
    {"dp": 2},
    {"dp": 2, "accumulation_steps": 2},
    {"tp": 2},
    {"tp": 2, "sequence_parallel": True},
    {"pp": 2, "accumulation_steps": 2},
    {"pp": 2, "schedule": "zbv_zero_bubble", "accumulation_steps": 4},
    {"dp": 2, "shard": "full"},
    {"dp": 2, "shard": "full", "accumulation_steps": 2},
    {"dp": 2, "shard": "optimizer"},
]
FOUR = [
    {"dp": 2, "tp": 2},
    {"dp": 2, "tp": 2, "shard": "full"},
    {"dp": 2, "pp": 2, "accumulation_steps": 2},
    {"dp": 2, "pp": 2, "shard": "full", "accumulation_steps": 2},
    {"dp": 2, "pp": 2, "shard": "optimizer", "accumulation_steps": 2},
    {"tp": 2, "pp": 2, "accumulation_steps": 2},
    {"dp": 4, "shard": "full", "shard_ranks": 2},
]


def steps_of(path, *columns):
    """Of each step what every rank reports alike; the loss is the mean of those that have one."""
    rows = pl.read_parquet(path.parent / "steps.parquet")
    for name in ("learning_rate", "grad_norm"):
        assert rows.group_by("step").agg(pl.col(name).n_unique())[name].to_list() == [1] * 6, (path, rows)
    means = rows.group_by("step").agg(pl.col("loss").mean(), pl.col("learning_rate", "grad_norm").first()).sort("step")
    return [means[name].to_list() for name in columns]


@pytest.fixture(scope="module")
def clipped(tmp_path_factory):
    """Runs of one workload on 1, 2 and 4 ranks."""
    directory = tmp_path_factory.mktemp("clipped")
    workload = {**LM, "optimizer": CLIPPED}
    paths = {n: write_runs(directory, workload, layouts, **SHORT) for n, layouts in ((1, SERIAL), (2, TWO), (4, FOUR))}
    for n, each in paths.items():
        check(mpirun(n, [SCRIPT, *each], 190))
    return paths


@pytest.mark.mpi
@pytest.mark.timeout(600)
def test_the_norm_is_that_of_the_whole_gradient_in_every_layout(clipped):
    [serial, *others] = [path for paths in clipped.values() for path in paths]
    wanted, rates, losses = steps_of(serial, "grad_norm", "learning_rate", "loss")
    assert min(wanted) > 0.7, "it is clipped"
    assert rates == pytest.approx([0.1, 0.2, 0.2, 0.2 * 0.86819, 0.2 * 0.55, 0.2 * 0.23180], rel=1e-4)
    for path in others:
        norms, found, means = steps_of(path, "grad_norm", "learning_rate", "loss")
        assert norms == pytest.approx(wanted, rel=1e-5), path
        assert found == rates
        assert means == pytest.approx(losses, rel=1e-5), path
        parity = summary_in(path.parent).parity
        assert parity.passed, (path, parity.reason)
        assert parity.found.phases[0].optimizer_distance < 1e-3


MUON = {
    "name": "muon",
    "args": {"ns_steps": 3},
    "groups": [{"match": "norm", "name": "adamw", "learning_rate": 1e-3}, {"match": "bias|^0", "name": "Adam"}],
}
OWN = "tests.train.optimizers"
CASES = [
    ({"name": "AdaGrad"}, "dp full pp optimizer"),
    ({"name": "adamax", "no_decay": ["embedding"], "weight_decay": 0.1}, "dp full optimizer"),
    ({"name": "nadam", "schedule": {"name": "OneCycleLR", "args": {"max_lr": 0.01, "total_steps": 4}}}, "tp optimizer"),
    ({"name": "adafactor", "clip_grad_norm": 1.0}, "dp pp optimizer"),
    (MUON, "dp full pp optimizer"),
    ({"name": f"{OWN}:Sign", "groups": [{"match": "norm", "learning_rate": 1e-4}]}, "dp full tp pp optimizer"),
    ({"name": f"{OWN}:by_name", "args": {"slow": "0"}, "clip_grad_norm": 0.5}, "dp full tp pp"),
    ({"name": "rmsprop", "schedule": {"name": f"{OWN}:halves", "args": {"every": 2}}}, "dp pp full"),
]
LAYOUTS = {
    "dp": {"dp": 2},
    "full": {"dp": 2, "shard": "full"},
    "optimizer": {"dp": 2, "shard": "optimizer"},
    "tp": {"tp": 2},
    "pp": {"pp": 2, "accumulation_steps": 2},
}


@pytest.mark.mpi
def test_every_optimizer_is_plain_torch_s_in_every_layout(tmp_path):
    paths = []
    for number, (optimizer, layouts) in enumerate(CASES):
        wanted = [LAYOUTS[name] for name in layouts.split()]
        paths += write_runs(tmp_path / str(number), {**LM, "optimizer": optimizer}, wanted, **QUICK)
    wrong = write_runs(tmp_path, {**LM, "optimizer": {"name": f"{OWN}:Layerwise"}}, [LAYOUTS["tp"]], **QUICK)
    check(mpirun(2, [SCRIPT, *paths, *wrong], 280))
    for path in paths:
        parity = summary_in(path.parent).parity
        assert parity.passed, (path, parity.reason)
        assert parity.found.phases[0].optimizer_distance is not None
    told = summary_in(wrong[0].parent).parity.reason
    assert "the optimizer's update differs by" in told, "a part of a matrix has another norm than the whole"


@pytest.mark.mpi
def test_schedules_and_several_optimizers_go_on_bit_for_bit(tmp_path):
    long = {"measure": {**SHORT["measure"], "warmup_steps": 2, "steps": 12, "parity_steps": 1}}
    cycle = {"name": "OneCycleLR", "args": {"max_lr": 0.01, "total_steps": 20}}
    several = {**MUON, "clip_grad_norm": 1.0, "schedule": {"name": "ExponentialLR", "args": {"gamma": 0.9}}}
    paths = write_runs(tmp_path, {**LM, "optimizer": {"name": "nadam", "schedule": cycle}}, [LAYOUTS["full"]], **long)
    paths += write_runs(tmp_path, {**LM, "optimizer": several}, [LAYOUTS["optimizer"]], **long)
    half = {**LM, "optimizer": {**CLIPPED, "name": f"{OWN}:Sign", "momentum": None}}
    paths += write_runs(tmp_path, half, [LAYOUTS["pp"]], ("fp16",), **long)
    check(mpirun(2, [ROOT / "tests/train/resume.py", *paths], 200, HPC_ACCEL_TESTING="1"))
    columns = ["step", "rank", "loss", "learning_rate", "grad_norm"]
    for path in paths:
        broken = path.parent.with_name(path.parent.name + "-broken")
        whole, again = (pl.read_parquet(at / "steps.parquet").select(columns) for at in (path.parent, broken))
        assert whole.sort("step", "rank").equals(again.sort("step", "rank")), path
        assert summary_in(broken).attempt == 2


@pytest.mark.mpi
def test_two_types_of_parameters_under_zero_1(tmp_path):
    workload = {"name": "two", "entry": f"{OWN}:build_two_types", "global_batch_size": 8, "optimizer": CLIPPED}
    paths = write_runs(tmp_path, workload, [{"dp": 2, "shard": ["none", "optimizer"]}], **SHORT)
    check(mpirun(2, [SCRIPT, *paths], 120))
    plain, divided = (steps_of(path, "grad_norm", "loss") for path in paths)
    assert divided == [pytest.approx(each, rel=1e-5) for each in plain]
    for path in paths:
        parity = summary_in(path.parent).parity
        assert parity.passed, (path, parity.reason)
