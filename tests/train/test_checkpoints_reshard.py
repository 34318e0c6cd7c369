"""A run goes on in another layout, on another number of ranks, from another run's checkpoint: as if in one piece."""

import polars as pl
import pytest

from tests.mpirun import ROOT, check, mpirun
from tests.records import summary_in
from tests.train.test_layouts import LM, train_all, write_runs

TESTING = {"HPC_ACCEL_TESTING": "1"}
STOPPED = ROOT / "tests/train/stopped.py"
MEASURE = {"warmup_steps": 2, "steps": 18, "parity_steps": 0, "metric_samples": 16, "idle_s": 0}
OPTIMIZER = {
    "name": "adamw",
    "learning_rate": 0.003,
    "no_decay": ["bias", "norm"],
    "clip_grad_norm": 1.0,
    "schedule": {"name": "cosine", "warmup_steps": 3},
}
MODEL = {**LM, "args": {**LM["args"], "layers": 4}, "optimizer": OPTIMIZER}
LAYOUTS = {
    "serial": {"dp": 1},
    "dp2": {"dp": 2},
    "dp4": {"dp": 4},
    "tp2": {"tp": 2},
    "pp2": {"pp": 2, "accumulation_steps": 4},
    "pp2 dp2": {"pp": 2, "dp": 2, "accumulation_steps": 2},
    "pp2 tp2": {"pp": 2, "tp": 2, "accumulation_steps": 2},
    "zero1 2": {"dp": 2, "shard": "optimizer"},
    "full 2": {"dp": 2, "shard": "full"},
    "full 4": {"dp": 4, "shard": "full"},
    "full 2 tp2": {"dp": 2, "tp": 2, "shard": "full"},
    "full 4 by 2": {"dp": 4, "shard": "full", "shard_ranks": 2},
}
MATRIX = [
    ("dp2", "dp4"),
    ("dp2", "pp2"),
    ("tp2", "serial"),
    ("full 4", "serial"),
    ("pp2 dp2", "full 4"),
    ("zero1 2", "dp2"),
    ("dp2", "zero1 2"),
    ("full 4", "full 2"),
    ("full 2 tp2", "pp2"),
    ("pp2 dp2", "pp2 tp2"),
    ("serial", "full 2 tp2"),
    ("full 4 by 2", "pp2"),
    ("full 2", "full 4 by 2"),
]


def num_ranks(name):
    layout = LAYOUTS[name]
    return layout.get("dp", 1) * layout.get("tp", 1) * layout.get("pp", 1)


def by_ranks(names):
    found = {}
    for name in names:
        found.setdefault(num_ranks(name), []).append(name)
    return sorted(found.items())


def losses(directory):
    steps = pl.read_parquet(directory / "steps.parquet").filter(pl.col("loss").is_not_null())
    return dict(steps.group_by("step").agg(pl.col("loss").mean()).sort("step").rows())


def made(directory, layout, **study):
    [path] = write_runs(directory, MODEL, [LAYOUTS[layout]], measure=MEASURE, **study)
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The whole serial run, and those that were stopped, by their layout."""
    directory = tmp_path_factory.mktemp("reshard")
    whole = made(directory / "whole", "serial")
    train_all(1, [whole], 180)
    stopped = {name: made(directory / "stopped" / name, name) for name in dict(MATRIX)}
    for ranks, names in by_ranks(stopped):
        check(mpirun(ranks, [STOPPED, *(stopped[name] for name in names)], 180, **TESTING))
    return whole.parent, {name: path.parent for name, path in stopped.items()}


@pytest.mark.mpi
@pytest.mark.timeout(900)  # seven launches, of up to four ranks on two cores
def test_every_layout_goes_on_from_every_other(runs, tmp_path):
    whole, stopped = runs
    paths = {
        pair: made(tmp_path / "-".join(pair), pair[1], checkpoint={"start_from": str(stopped[pair[0]])})
        for pair in MATRIX
    }
    expected = losses(whole)
    for ranks, names in by_ranks({to for _, to in MATRIX}):
        train_all(ranks, [path for (_, to), path in paths.items() if to in names], 300)
    for pair, path in paths.items():
        found, summary = losses(path.parent), summary_in(path.parent)
        first = summary.checkpoints.resumed_from_step.value
        assert 7 < first <= 10
        assert list(found) == list(range(first, 20)), pair
        for step, loss in found.items():
            assert loss == pytest.approx(expected[step], rel=1e-4), (pair, step)
        assert summary.checkpoints.started_from.startswith(f"step {first} of {stopped[pair[0]].name} in layout "), pair
        assert any("random numbers (dropout)" in note for note in summary.checkpoints.notes), pair
