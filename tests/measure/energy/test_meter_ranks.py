"""Ranks that share sensors, under real MPI: each physical sensor once, whatever the ranks see of it."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from hpc_accel.measure.energy.figure import EnergyFigure
from tests.measure import trees
from tests.mpirun import check, mpirun

pytestmark = pytest.mark.mpi
HERE = Path(__file__).parent


@pytest.fixture(scope="module", params=[1, 2, 4])
def energy(request, tmp_path_factory):
    root = tmp_path_factory.mktemp("trees")
    (root / "empty").mkdir()
    with trees.Rising() as tree:
        trees.server(tree, root / "shared")
        trees.server(tree, root / "first")
        trees.rapl_zone(tree, root / "second", "intel-rapl:0", "package-0", 60.0)
        trees.rapl_zone(tree, root / "second", "intel-rapl:0:0", "dram", 5.0)
        output = check(mpirun(request.param, [HERE / "meter_ranks.py", root], timeout_s=90))
    found = json.loads(output.strip().splitlines()[-1])
    assert found.pop("equal"), "ranks hold different results"
    figures = {name: EnergyFigure.from_dict(figure) for name, figure in found.pop("figures").items()}
    return found | figures | {"num_ranks": request.param, "root": root}


def test_one_counter_gives_one_total_for_any_number_of_ranks(energy):
    shared = energy["shared"]
    assert shared.power_w == pytest.approx(110.0, rel=0.01)
    assert shared.scope == "CPU packages + DRAM"
    assert shared.coverage.ranks == energy["num_ranks"]
    assert shared.coverage.nodes == 1
    assert len([sensor for sensor in shared.sensors if sensor.is_counted]) == 2


def test_two_nodes_of_one_name_are_two(energy):
    nodes = energy["two nodes, one name"]
    expected_w = 110.0 if energy["num_ranks"] == 1 else 175.0
    assert nodes.power_w == pytest.approx(expected_w, rel=0.01)
    assert nodes.coverage.nodes == min(2, energy["num_ranks"])


def test_a_node_without_sensors_makes_it_partial(energy):
    nodes = energy["one node without"]
    assert nodes.power_w == pytest.approx(110.0, rel=0.01)
    assert nodes.is_partial is (energy["num_ranks"] > 1)
    assert nodes.coverage.nodes == 1
    assert nodes.coverage.nodes_expected == min(2, energy["num_ranks"])


def test_ranks_that_see_only_their_own_gpu_are_joined(energy):
    gpus = energy["own gpu each"]
    assert gpus.power_w == pytest.approx(300.0 * min(2, energy["num_ranks"]), rel=0.01)
    assert gpus.scope == "GPU boards"


def test_gpus_no_rank_computes_on_are_no_part_of_the_total(energy):
    gpus = energy["one gpu of two"]
    assert gpus.power_w == pytest.approx(300.0, rel=0.01)
    assert gpus.unused_gpus_j / gpus.window_s == pytest.approx(300.0, rel=0.01)
    assert gpus.is_partial is False


def test_a_library_broken_on_one_rank_is_read_by_another(energy):
    found = energy["broken on one rank"]
    expected_w = 110.0 if energy["num_ranks"] == 1 else 710.0
    assert found.power_w == pytest.approx(expected_w, rel=0.01)


def test_an_exception_in_the_window_passes_and_measures_nothing(energy):
    assert energy["failing"].energy_j is None
    assert "has not been closed" in energy["failing"].reason


def test_samples_of_a_shared_sensor_are_written_once(energy):
    assert energy["samples"]["reason"] == energy["samples"]["none"] == ""
    assert "energy.parquet" in energy["samples"]["nowhere"]
    table = pl.read_parquet(energy["root"] / "energy.parquet")
    packages = table.filter(pl.col("sensor") == "intel-rapl:0 package-0").sort("time_ns")
    assert table["sensor"].n_unique() == 4
    seconds = (packages["time_ns"][-1] - packages["time_ns"][0]) * 1e-9
    assert seconds > 2.5
    assert 6 < packages.height / seconds < 12, "ten a second, whatever the number of ranks"
    # Each value is the mean since the time before: weighted by it, or two reads in a row would count like a long one.
    since_s = packages["time_ns"].diff().drop_nulls() * 1e-9
    assert since_s.min() > 0
    assert (packages["value"][1:] * since_s).sum() / seconds == pytest.approx(100.0, rel=0.02)
    assert pl.read_parquet(energy["root"] / "none.parquet").height == 0
