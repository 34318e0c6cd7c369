"""The joules of each phase from sampled power."""

from __future__ import annotations

from array import array
from dataclasses import dataclass

import pytest

from hpc_accel.measure.energy.phase_energy import by_phase
from hpc_accel.measure.energy.power_samples import PowerSeries

SECOND = 1_000_000_000


@dataclass(frozen=True)
class Span:
    name: str
    start_ns: int
    end_ns: int


def series(powers_w: list[float], name: str = "s") -> PowerSeries:
    times = array("q", [index * SECOND for index in range(len(powers_w))])
    return PowerSeries(name=name, node="n", scope="cpu-package", times_ns=times, powers_w=array("d", powers_w))


def test_joules_go_to_the_phases_they_were_used_in():
    power = [series([0, 100, 100, 300, 300]), series([0, 10, 10, 10, 10], "dram")]
    spans = [Span("forward", 0, 2 * SECOND), Span("backward", 2 * SECOND, 4 * SECOND)]
    phases = by_phase(power, spans)
    assert phases["forward"].energy_j == pytest.approx(220)
    assert phases["backward"].energy_j == pytest.approx(620)
    assert phases["forward"].is_resolved is True


def test_phases_shorter_than_a_sample_share_it_by_time_and_say_so():
    spans = [Span("a", SECOND // 4, SECOND // 2), Span("b", SECOND // 2, SECOND)]
    phases = by_phase([series([0, 100])], spans)
    assert phases["a"].energy_j == pytest.approx(25)
    assert phases["b"].energy_j == pytest.approx(50)
    assert phases["a"].is_resolved is False


def test_phases_outside_the_samples_have_no_figure():
    spans = [Span("early", -3 * SECOND, SECOND), Span("inside", 0, SECOND)]
    phases = by_phase([series([0, 100])], spans)
    assert phases["early"].energy_j is None
    assert phases["inside"].energy_j == pytest.approx(100)
    assert by_phase([], spans)["inside"].energy_j is None


def test_a_little_beyond_the_samples_the_power_goes_on():
    spans = [Span("whole", -SECOND // 2, 3 * SECOND + SECOND // 2)]
    assert by_phase([series([0, 100, 100, 200])], spans)["whole"].energy_j == pytest.approx(400 + 50 + 100)
