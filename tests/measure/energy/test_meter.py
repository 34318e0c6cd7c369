"""The meter: windows within windows, idle power, samples, and what it does where nothing can be read."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from hpc_accel.measure.energy.meter import EnergyMeter
from hpc_accel.measure.events import Piece
from tests.measure import trees
from tests.measure.energy.measuring import measure


def test_nothing_at_all_is_null_with_reasons(sysfs, clock):
    energy = measure(clock, 0.01)
    assert energy.energy_j is None
    assert energy.method == "none"
    assert energy.reason.startswith("no energy sensor on this node")
    assert "0 J" not in json.dumps(energy.as_dict())
    meter = EnergyMeter(None)
    assert all(row["reason"] and not row["available"] for row in meter.describe())
    assert {row["source"] for row in meter.describe()} >= {"rapl", "nvml", "pm_counters", "hwmon", "intel", "zeus"}
    meter.close()


def test_threads_that_do_not_start_cost_the_figure_and_nothing_else(sysfs, clock, monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    with trees.Rising(clock) as tree:
        trees.rapl_zone(tree, sysfs, "intel-rapl:0", "package-0", 100.0)
        monkeypatch.setattr("threading.Thread.start", refuse)
        energy = measure(clock, 10.0)
    assert energy.energy_j is None
    assert "its reader did not start: can't start new thread" in energy.reason


def test_the_shortest_sensible_window_is_that_of_the_totals_sensors(sysfs):
    with EnergyMeter(None) as meter:
        assert meter.min_window_s == 0
    trees.meter(sysfs, 0, "Grace Power Socket 0", 90)
    trees.meter(sysfs, 1, "SysIO Power Socket 0", 20)
    (sysfs / "class/hwmon/hwmon1/power1_average_interval").write_text("5000\n")
    with EnergyMeter(None) as meter:
        assert meter.min_window_s == pytest.approx(10.0)


def test_windows_may_lie_within_each_other_or_be_empty(sysfs, clock):
    with trees.Rising(clock) as tree:
        trees.rapl_zone(tree, sysfs, "intel-rapl:0", "package-0", 100.0)
        with EnergyMeter(None, clock=clock) as meter, meter.window("outer") as outer:
            with meter.window("empty") as empty:
                pass
            with meter.window("inner") as inner:
                clock.sleep(10.0)
            clock.sleep(5.0)
            assert outer.elapsed_s() == pytest.approx(15.0)
    assert inner.result.energy_j == pytest.approx(1000.0, abs=1e-4)
    assert outer.result.energy_j == pytest.approx(1500.0, abs=1e-4)
    assert (empty.result.window_s, empty.result.energy_j) == (0.0, None)
    assert "did not change" in empty.result.reason


def test_the_threads_read_in_real_time(sysfs):
    """100 W on a counter of 100 J: it begins anew every second, and the thread must have looked in between."""
    with trees.Rising() as tree:
        trees.rapl_zone(tree, sysfs, "intel-rapl:0", "package-0", 100.0, wrap_j=100.0, start_j=50.0)
        with EnergyMeter(None) as meter, meter.window("timed") as window:
            time.sleep(2.5)
    assert window.result.power_w == pytest.approx(100.0, rel=0.05)


def test_idle_power_is_measured_at_the_start_and_stands_beside(sysfs, clock):
    """40 W, and from the 40th second on 100 W."""
    with trees.Rising(clock) as tree:
        path = trees.rapl_zone(tree, sysfs, "intel-rapl:0", "package-0", 0.0)
        path.unlink()
        tree.add(path, lambda s: str(round((100 + 40 * s + max(0.0, 60 * (s - 40))) * 1e6)))
        with EnergyMeter(None, clock=clock) as meter:
            meter.measure_idle()
            assert clock.seconds == pytest.approx(30.0)
            clock.sleep(10.0)
            with meter.window("timed") as timed:
                clock.sleep(20.0)
    assert timed.result.idle_power_w == pytest.approx(40.0)
    assert timed.result.idle_window_s == pytest.approx(30.0)
    assert timed.result.energy_j == pytest.approx(2000.0)
    assert timed.result.energy_above_idle_j == pytest.approx(1200.0)


def test_without_sensors_no_time_is_spent_idle(sysfs, clock):
    with EnergyMeter(None, clock=clock) as meter:
        assert meter.measure_idle() is None
    assert clock.seconds == 0.0


def test_sampled_power_of_a_counter(sysfs, clock):
    with trees.Rising(clock) as tree:
        trees.rapl_zone(tree, sysfs, "intel-rapl:0", "package-0", 100.0)
        with EnergyMeter(None, sample_hz=10, clock=clock) as meter:
            with meter.window("timed"):
                clock.sleep(15.0)
            (series,) = meter.power_series()
    assert 145 <= len(series.times_ns) <= 152
    assert list(series.powers_w) == pytest.approx([100.0] * len(series.powers_w), rel=1e-4)


def test_the_joules_of_a_window_go_to_its_phases(sysfs, clock):
    """40 W in the first half, 100 W in the second."""
    with trees.Rising(clock) as tree:
        path = trees.rapl_zone(tree, sysfs, "intel-rapl:0", "package-0", 0.0)
        path.unlink()
        tree.add(path, lambda s: str(round((100 + 40 * s + max(0.0, 60 * (s - 10))) * 1e6)))
        with EnergyMeter(None, sample_hz=10, clock=clock) as meter:
            with meter.window("timed") as window:
                clock.sleep(20.0)
            begin, end = window.interval_ns
            half = (begin + end) // 2
            spans = [Piece("idle", begin, half), Piece("compute", half, end)]
            phases = meter.attribute(window.result, spans, "").phases
    assert phases.by_phase_j == pytest.approx({"idle": 400.0, "compute": 1000.0}, rel=0.02)
    assert phases.phases_resolved is True


def test_importing_and_starting_the_sensors_takes_little_time():
    """Processor time, which other work on this machine does not change."""
    code = (
        "import time; t = time.process_time(); import sys; from hpc_accel.measure.energy.meter import EnergyMeter;"
        "assert 'pynvml' not in sys.modules and 'torch' not in sys.modules and 'zeus' not in sys.modules;"
        "EnergyMeter(None); print(time.process_time() - t)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert float(done.stdout) <= 0.3
