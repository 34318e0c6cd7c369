"""What follows from an energy figure, and the scheduler's figure: unknown stays unknown, nothing counted twice."""

from __future__ import annotations

import subprocess
from array import array
from dataclasses import dataclass

import pytest

from hpc_accel.measure.energy import derived, slurm
from hpc_accel.measure.energy import power_samples as samples_module
from hpc_accel.measure.energy.counter import Mark
from hpc_accel.measure.energy.power_samples import PowerSeries, Series, on_common_clock, thinned, write_parquet

SECOND = 1_000_000_000


@dataclass(frozen=True)
class Span:
    name: str
    start_ns: int
    end_ns: int


def series(powers_w: list[float], name: str = "s") -> PowerSeries:
    times = array("q", [index * SECOND for index in range(len(powers_w))])
    return PowerSeries(name=name, node="n", scope="cpu-package", times_ns=times, powers_w=array("d", powers_w))


def test_nothing_is_divided_by_or_from_the_unknown():
    assert derived.per(None, 10) is None
    assert derived.per(5.0, 0) is None
    assert derived.per(5.0, None) is None
    assert derived.energy_delay_product_js(None, 1) is None
    assert derived.carbon_g(5.0, None) is None
    assert derived.electricity_cost(None, 0.3) is None


def test_factors():
    assert derived.per(50.0, 10) == 5.0
    assert derived.energy_delay_product_js(10.0, 2.0) == 20.0
    assert derived.carbon_g(3.6e6, 400.0) == pytest.approx(400.0)
    assert derived.electricity_cost(7.2e6, 0.30) == pytest.approx(0.60)


def test_an_estimate_has_names_of_its_own():
    estimate = derived.estimate(400.0, 4, 10.0)
    assert set(estimate) == {"estimated_energy_j", "estimated_method"}
    assert estimate["estimated_energy_j"] == 16_000
    assert "not measured" in estimate["estimated_method"]


def test_joules_go_to_the_phases_they_were_used_in():
    power = [series([0, 100, 100, 300, 300]), series([0, 10, 10, 10, 10], "dram")]
    spans = [Span("forward", 0, 2 * SECOND), Span("backward", 2 * SECOND, 4 * SECOND)]
    phases = derived.by_phase(power, spans)
    assert phases["forward"]["energy_j"] == pytest.approx(220)
    assert phases["backward"]["energy_j"] == pytest.approx(620)
    assert phases["backward"]["mean_power_w"] == pytest.approx(310)
    assert phases["forward"]["is_resolved"] is True


def test_phases_shorter_than_a_sample_share_it_by_time_and_say_so():
    spans = [Span("a", SECOND // 4, SECOND // 2), Span("b", SECOND // 2, SECOND)]
    phases = derived.by_phase([series([0, 100])], spans)
    assert phases["a"]["energy_j"] == pytest.approx(25)
    assert phases["b"]["energy_j"] == pytest.approx(50)
    assert phases["a"]["is_resolved"] is False


def test_phases_outside_the_samples_have_no_figure():
    spans = [Span("early", -3 * SECOND, SECOND), Span("inside", 0, SECOND)]
    phases = derived.by_phase([series([0, 100])], spans)
    assert phases["early"]["energy_j"] is None
    assert phases["inside"]["energy_j"] == pytest.approx(100)
    assert derived.by_phase([], spans)["inside"]["energy_j"] is None


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


SACCT = """77|5000|130|2|COMPLETED
77.batch|2600|128|1|COMPLETED
77.extern|5200|130|2|COMPLETED
77.0|4800|120|2|COMPLETED
77.1|100|2|2|COMPLETED
"""


def test_concurrent_steps_are_not_added():
    energy = slurm.job_energy("77", is_exclusive=True, sacct=lambda _job: SACCT)
    assert (energy["energy_j"], energy["window_s"], energy["method"]) == (5200.0, 130.0, "slurm-accounting")
    assert energy["scope"] == "whole nodes"


@pytest.mark.parametrize(("is_exclusive", "words"), [(False, "shares its nodes"), (None, "not known")])
def test_a_shared_nodes_energy_is_not_the_jobs(is_exclusive, words):
    energy = slurm.job_energy("77", is_exclusive=is_exclusive, sacct=lambda _job: SACCT)
    assert energy["energy_j"] is None
    assert words in energy["reason"]


@pytest.mark.parametrize("value", ["", "0", "4294967294", "18446744073709551614", "-"])
def test_an_accounting_without_energy_is_unknown(value):
    energy = slurm.job_energy(
        "77", is_exclusive=True, sacct=lambda _job: f"77|{value}|9|1|COMPLETED\n77.0|{value}|9|1|COMPLETED"
    )
    assert energy["energy_j"] is None
    assert "AcctGatherEnergyType" in energy["remedy"]


def test_a_failing_sacct_is_a_reason():
    def broken(_job: str) -> str:
        raise subprocess.TimeoutExpired("sacct", 20)

    energy = slurm.job_energy("77", is_exclusive=True, sacct=broken)
    assert energy["energy_j"] is None
    assert "sacct" in energy["reason"]


def test_a_little_beyond_the_samples_the_power_goes_on():
    spans = [Span("whole", -SECOND // 2, 3 * SECOND + SECOND // 2)]
    assert derived.by_phase([series([0, 100, 100, 200])], spans)["whole"]["energy_j"] == pytest.approx(400 + 50 + 100)
