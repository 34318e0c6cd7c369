"""Power over time: what is kept of a counter's readings, and the file they become."""

from __future__ import annotations

from array import array

import pytest

from hpc_accel.measure.energy import power_samples as samples_module
from hpc_accel.measure.energy.counter import Mark
from hpc_accel.measure.energy.power_samples import PowerSeries, Series, on_common_clock, thinned, write_parquet

SECOND = 1_000_000_000


def series(powers_w: list[float], name: str = "s") -> PowerSeries:
    times = array("q", [index * SECOND for index in range(len(powers_w))])
    return PowerSeries(name=name, node="n", scope="cpu-package", times_ns=times, powers_w=array("d", powers_w))


def test_samples_become_one_table(tmp_path):
    import polars as pl

    path = tmp_path / "energy.parquet"
    write_parquet(path, [series([1, 2]), series([3], "dram")])
    table = pl.read_parquet(path)
    assert table.columns[:4] == ["sensor", "time_ns", "value", "unit"]
    assert table["value"].to_list() == [1, 2, 3]
    assert table["unit"].unique().to_list() == ["W"]
    write_parquet(path, [])
    assert pl.read_parquet(path).height == 0
    assert [file.name for file in tmp_path.iterdir()] == ["energy.parquet"]


def test_thinning_keeps_the_energy():
    power = thinned(series([1, 2, 3, 4, 5, 6]), 3)
    assert list(power.times_ns) == [1 * SECOND, 3 * SECOND, 5 * SECOND]
    assert list(power.powers_w) == [2, 3.5, 5.5]
    assert list(thinned(series([1, 2]), 5).powers_w) == [1, 2]
    assert on_common_clock(series([1]), None).times_ns[0] == 0


def mark(seconds: float, total_j: float, num_faults: int = 0) -> Mark:
    return Mark(
        total_j=total_j, time_ns=round(seconds * SECOND), sensor_time_ns=None, freshness="", fault="",
        num_faults=num_faults,
    )  # fmt: skip


def test_a_counter_slower_than_the_sampling_shows_its_mean_power():
    samples = Series()
    for tick in range(101):
        samples.add(mark(tick / 10, 50.0 * (tick // 3) * 0.3))
    _, powers_w = samples.power()
    assert len(powers_w) == 34
    assert list(powers_w) == pytest.approx([50.0] * 34)


def test_two_close_moments_are_one():
    """The first reading and the window's beginning, a millisecond apart: a counter that moved there is no power."""
    samples = Series()
    for args in [(0, 0), (1, 100), (1.001, 110), (2, 200)]:
        samples.add(mark(*args))
    times_ns, powers_w = samples.power()
    assert list(times_ns) == [0, round(1.001 * SECOND), 2 * SECOND]
    assert list(powers_w) == pytest.approx([110 / 1.001, 110 / 1.001, 90 / 0.999])


def test_two_moments_are_a_power_and_one_is_none():
    samples = Series()
    samples.add(mark(0, 5))
    assert [list(each) for each in samples.power()] == [[], []]
    samples.add(mark(0.5, 55))
    assert [list(each) for each in samples.power()] == [[0, SECOND // 2], [100.0, 100.0]]


def test_power_of_a_window_begins_a_little_before_it():
    samples = Series()
    for tick in range(1000):
        samples.add(mark(tick, 10.0 * tick))
    times_ns, powers_w = samples.power(900 * SECOND)
    assert list(times_ns) == [tick * SECOND for tick in range(895, 1000)]
    assert list(powers_w) == pytest.approx([10.0] * 105)
    assert list(samples.power(-SECOND)[0]) == list(samples.power()[0])
    assert len(samples.power(5000 * SECOND)[0]) == 5


def test_power_across_a_fault_is_left_out():
    samples = Series()
    for args in [(0, 0), (1, 100), (2, 100, 1), (3, 200, 1)]:
        samples.add(mark(*args))
    times_ns, powers_w = samples.power()
    assert list(times_ns) == [0, SECOND, 3 * SECOND]
    assert list(powers_w) == [100.0, 100.0, 100.0]


def test_a_full_series_halves_its_rate_and_keeps_its_energy(monkeypatch):
    monkeypatch.setattr(samples_module, "MAX_SAMPLES", 64)
    samples = Series()
    for tick in range(1000):
        samples.add(mark(tick, 10.0 * tick))
    times_ns, powers_w = samples.power()
    assert 16 <= len(times_ns) <= 64
    assert list(powers_w) == pytest.approx([10.0] * len(powers_w))
    assert times_ns[-1] > 900 * SECOND
