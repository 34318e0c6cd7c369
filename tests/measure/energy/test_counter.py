"""From readings to joules: exact over wraps; resets, jumps, gaps and standstill give no figure but a reason."""

from __future__ import annotations

import pytest

from hpc_accel.measure.energy.counter import EnergyCounter, interval
from hpc_accel.measure.energy.reader import period_s
from hpc_accel.measure.energy.sensors.sensor import Reading, SensorInfo

SECOND = 1_000_000_000


def info(**more) -> SensorInfo:
    return SensorInfo(
        **({"name": "s", "source": "rapl", "scope": "cpu-package", "key": "k", "max_power_w": 1500.0} | more)
    )


def window(counter: EnergyCounter, readings: list[tuple[Reading, int]]):
    counter.add(*readings[0])
    start = counter.mark()
    for reading in readings[1:]:
        counter.add(*reading)
    return interval(counter.info, start, counter.mark())


def counted(seconds: float, energy_j: float, **more) -> tuple[Reading, int]:
    return Reading(energy_j=energy_j, **more), round(seconds * SECOND)


def drawn(seconds: float, power_w: float) -> tuple[Reading, int]:
    return Reading(power_w=power_w), round(seconds * SECOND)


def test_a_counter_that_wraps_every_seven_seconds_is_exact():
    readings = [counted(t / 4, (650 + 100 * t / 4) % 700) for t in range(0, 241)]
    found = window(EnergyCounter(info(wrap_j=700.0)), readings)
    assert found.energy_j == pytest.approx(6000.0, abs=1e-6)
    assert found.window_s == pytest.approx(60.0)
    assert found.reason == ""


def test_the_reader_looks_before_a_quarter_of_the_range_can_pass():
    assert period_s(info(wrap_j=700.0), 0) == pytest.approx(700 / 1500 / 4)
    assert period_s(info(wrap_j=262_143.0), 0) == pytest.approx(30.0)
    assert period_s(info(), 0) is None
    assert period_s(info(), 10) == pytest.approx(0.1)
    assert period_s(info(), 1000) == pytest.approx(0.05)
    assert period_s(info(kind="power", update_period_s=1.0), 10) == pytest.approx(1.0)


def test_a_gap_in_which_a_counter_may_have_wrapped_unseen_has_no_figure():
    counter = EnergyCounter(info(wrap_j=700.0))
    found = window(counter, [counted(0, 0), counted(1, 100), counted(2, 200), counted(20, 300)])
    assert found.energy_j is None
    assert "wrapped unseen" in found.reason


@pytest.mark.parametrize(
    ("readings", "words"),
    [
        ([counted(0, 900), counted(10, 20)], "went back"),
        ([counted(0, 900), counted(10, 900 + 1e6)], "more than 1500 W"),
        ([counted(0, 900), counted(10, 900)], "did not change"),
        ([counted(0, 0), counted(10, 0)], "did not change"),
        ([counted(0, 1, epoch="1/7"), counted(10, 400, epoch="2/7")], "epoch 1/7 became 2/7"),
        ([counted(0, 1, freshness="5"), counted(10, 400, freshness="5")], "freshness stayed 5"),
        ([counted(10, 1), counted(9, 400)], "clock went back"),
        ([counted(10, 1), counted(10, 1)], "did not change"),
    ],
)
def test_what_cannot_be_trusted_is_unknown_with_a_reason(readings, words):
    found = window(EnergyCounter(info()), readings)
    assert found.energy_j is None
    assert words in found.reason


def test_a_fault_before_the_window_does_not_spoil_it():
    counter = EnergyCounter(info())
    counter.add(*counted(0, 900))
    counter.add(*counted(1, 10))
    assert window(counter, [counted(2, 110), counted(12, 1110)]).energy_j == pytest.approx(1000.0)


def test_power_is_integrated_between_the_marks_only():
    counter = EnergyCounter(info(kind="power"))
    counter.add(*drawn(0, 1000.0))
    readings = [drawn(t / 10, 100.0 + t) for t in range(10, 111)]
    assert window(counter, readings).energy_j == pytest.approx(1600.0)


@pytest.mark.parametrize("power_w", [-1.0, 1e6])
def test_impossible_power_has_no_figure(power_w):
    found = window(EnergyCounter(info(kind="power")), [drawn(0, 5.0), drawn(1, power_w)])
    assert found.energy_j is None


def test_a_silent_power_meter_has_no_figure():
    found = window(EnergyCounter(info(kind="power")), [drawn(0, 5.0), drawn(9, 5.0)])
    assert "no reading for 9.0 s" in found.reason


def test_the_sensors_own_clock_gives_the_duration():
    readings = [counted(0, 1, sensor_time_ns=50), counted(10, 400, sensor_time_ns=50 + 9 * SECOND)]
    assert window(EnergyCounter(info()), readings).window_s == pytest.approx(9.0)
