"""Windows of one run that follow each other, as one figure."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hpc_accel.measure.energy import attribution
from hpc_accel.measure.energy.aggregate import aggregate
from hpc_accel.measure.energy.combine_windows import combine
from hpc_accel.measure.energy.figure import EnergyFigure
from hpc_accel.measure.energy.idle import with_idle
from tests.measure.energy.test_aggregate import record, sensor


def window(energy_j: float | None, window_s: float, phases_j: dict[str, float]) -> EnergyFigure:
    """What EnergyMeter gives for one window of one sensor, and where its joules went."""
    reason = "" if energy_j is not None else "the counter was reset"
    measured = sensor("node", energy_j=energy_j, window_s=window_s, reason=reason)
    energy = with_idle(aggregate([record(measured)], window_s, "timed"), None)
    [row] = energy.sensors
    share = attribution.DeviceShare(identity=row.identity, phases_j=phases_j, is_resolved=True)
    return attribution.attribute(energy, [share])


def test_what_was_measured_is_added():
    found = combine([window(100.0, 1.0, {"compute": 100.0}), window(300.0, 2.0, {"compute": 200.0, "idle": 100.0})])
    assert (found.energy_j, found.window_s, found.num_windows) == (400.0, 3.0, 2)
    assert found.phases.by_phase_j == {"compute": 300.0, "idle": 100.0}
    assert found.sensors[0].energy_j == found.phases.by_device[0].energy_j == 400.0


@pytest.mark.parametrize("lacking", [0, 1])
def test_one_unknown_window_makes_all_of_it_unknown(lacking):
    windows = [window(100.0, 1.0, {"compute": 100.0}), window(100.0, 1.0, {"compute": 100.0})]
    windows[lacking] = window(None, 1.0, {})
    found = combine(windows)
    assert found.energy_j is None
    assert found.phases.by_phase_j is None
    assert found.reason.startswith("1 of 2 windows:")
    assert "the counter was reset" in found.reason
    assert found.phases.phases_reason == found.reason
    assert found.window_s == 2.0


def test_parts_measured_over_different_scopes_have_no_sum():
    other = replace(window(100.0, 1.0, {"compute": 100.0}), scope="cpu-package")
    found = combine([window(100.0, 1.0, {"compute": 100.0}), other])
    assert found.energy_j is None
    assert "different scopes" in found.reason
    assert found.phases.phases_reason == found.reason


def test_two_nodes_of_one_name_keep_their_own_rows():
    """Their rows have the same names; each is added to its own of the window before."""
    nodes = [record(sensor("node", energy_j=joules), boot=boot) for boot, joules in (("b1", 100.0), ("b2", 7.0))]
    found = combine([aggregate(nodes, 10.0)] * 2)
    assert found.energy_j == 214.0
    assert [row.energy_j for row in found.sensors] == [200.0, 14.0]
