"""Where the joules went: shares of devices and ranks, what belongs to nobody, and what is not known."""

from __future__ import annotations

from array import array
from dataclasses import replace

import pytest

from hpc_accel.measure.energy import attribution
from hpc_accel.measure.energy.figure import EnergyFigure, Phases, SensorRow
from hpc_accel.measure.energy.power_samples import PowerSeries
from hpc_accel.measure.events import Piece

SECOND = 1_000_000_000


def device(power_w: float, key: str = "k", scope: str = "cpu-package", seconds: int = 10) -> attribution.SampledDevice:
    times = array("q", [index * SECOND for index in range(seconds + 1)])
    powers = array("d", [power_w] * (seconds + 1))
    series = PowerSeries(name=key, node="n", scope=scope, times_ns=times, powers_w=powers)
    return attribution.SampledDevice(key=key, identity=("n", "source", key), scope=scope, series=series)


class Node:
    """Two ranks of one node without MPI: what the other rank would have said is given."""

    def __init__(self, rank: int, other: list[object]) -> None:
        self.node_rank = rank
        self._other = list(other)

    def within_node(self, value):
        other = self._other.pop(0)
        return [value, other] if self.node_rank == 0 else [other, value]

    def to_node(self, value):
        return value

    def across_nodes(self, value):
        return [value]

    def to_all(self, value):
        return value


COMPUTES = [Piece("compute", 0, 10 * SECOND)]
HALF = [Piece("compute", 0, 5 * SECOND), Piece("comm_exposed", 5 * SECOND, 10 * SECOND)]


def shares(devices, keys, rank, spans):
    return attribution._shares(devices, keys, rank, spans)


def test_a_shared_device_is_divided_evenly_and_adds_up():
    devices = [device(100.0)]
    other = shares(devices, ["", ""], 1, HALF)
    [row] = attribution.gather(Node(0, [([], ""), other]), devices, COMPUTES, "")
    assert row.phases_j == {"compute": pytest.approx(750), "comm_exposed": pytest.approx(250)}
    assert row.is_resolved is True


def test_a_gpu_belongs_to_its_rank_and_one_without_rank_was_idle():
    devices = [device(300.0, f"GPU-{name}", "gpu-board") for name in "abc"]
    other = shares(devices, ["GPU-a", "GPU-b"], 1, HALF)
    rows = attribution.gather(Node(0, [([], "GPU-b"), other]), devices, COMPUTES, "GPU-a")
    assert rows[0].phases_j == {"compute": pytest.approx(3000)}
    assert rows[1].phases_j == {"compute": pytest.approx(1500), "comm_exposed": pytest.approx(1500)}
    assert rows[2].phases_j == {"idle": pytest.approx(3000)}


def test_gpus_whose_names_torch_does_not_know_are_everybodys():
    devices = [device(300.0, "0000:c1:00.0", "gpu-board")]
    other = shares(devices, ["GPU-a", "GPU-b"], 1, HALF)
    [row] = attribution.gather(Node(0, [([], "GPU-b"), other]), devices, COMPUTES, "GPU-a")
    assert row.phases_j == {"compute": pytest.approx(2250), "comm_exposed": pytest.approx(750)}


def energy(*keys: str, **more) -> EnergyFigure:
    row = SensorRow(
        name="", node="n", source="source", scope="s", key="", kind="counter", update_period_s=0.1, energy_j=1000.0,
        is_counted=True,
    )  # fmt: skip
    rows = tuple(replace(row, name=key, key=key) for key in keys)
    values = {"energy_j": 1000.0 * len(keys), "window_s": 1.0, "scope": "s", "method": "counter"} | more
    return EnergyFigure(sensors=rows, **values)


def row(key: str, phases, *, is_resolved: bool = True) -> attribution.DeviceShare:
    return attribution.DeviceShare(identity=("n", "source", key), phases_j=phases, is_resolved=is_resolved)


def test_only_sensors_of_the_total_are_added():
    rows = [row("a", {"compute": 600.0, "idle": 400.0}), row("b", {"compute": 100.0}), row("psys", {"compute": 9e9})]
    found = attribution.attribute(energy("a", "b"), rows).phases
    assert found.by_phase_j == {"compute": 700.0, "idle": 400.0}
    assert [each.name for each in found.by_device] == ["a", "b"]
    assert found.phases_reason == ""


def test_equally_named_nodes_keep_their_own_rows():
    rows = [row("a", {"compute": 1.0}), row("a", {"compute": 2.0})]
    found = attribution.attribute(energy("a", "a"), rows).phases
    assert [each.phases_j for each in found.by_device] == [{"compute": 1.0}, {"compute": 2.0}]


def test_phases_shorter_than_the_sampling_are_said_to_show_the_mean():
    found = attribution.attribute(energy("a"), [row("a", {"compute": 1.0}, is_resolved=False)]).phases
    assert found.phases_resolved is False
    assert "mean power" in found.phases_note


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([], "no power was sampled"),
        ([row("a", {})], "no power was sampled"),
        ([row("a", {"compute": None, "idle": 3.0})], "do not cover"),
    ],
)
def test_what_was_not_sampled_has_a_reason_and_no_figure(rows, reason):
    found = attribution.attribute(energy("a"), rows).phases
    assert found.by_phase_j is None
    assert reason in found.phases_reason


def test_an_unknown_energy_keeps_its_own_reason():
    found = attribution.attribute(energy(energy_j=None, reason="no readable sensor"), []).phases
    assert (found.by_phase_j, found.phases_reason) == (None, "no readable sensor")


def window(**phases_j: float | None) -> Phases:
    known = None not in phases_j.values()
    return attribution.attribute(energy("a"), [row("a", phases_j)] if known else [row("a", {"compute": None})]).phases


def test_windows_that_follow_each_other_are_added():
    found = attribution.combine_phases([window(compute=1.0, idle=2.0), window(compute=10.0, comm_exposed=5.0)])
    assert found.by_phase_j == {"compute": 11.0, "idle": 2.0, "comm_exposed": 5.0}
    [device] = found.by_device
    assert (device.energy_j, device.phases_j) == (2000.0, found.by_phase_j)
    assert found.phases_reason == ""


def test_one_unknown_window_makes_the_phases_unknown():
    found = attribution.combine_phases([window(compute=1.0), window(compute=None), window(compute=1.0)])
    assert found.by_phase_j is None
    assert found.phases_reason.startswith("1 of 3 windows: the power samples do not cover")
    assert found.by_device[0].energy_j == 3000.0
    assert found.by_device[0].phases_j == {"compute": None}


def test_windows_with_other_devices_have_none_in_common():
    other = attribution.attribute(energy("b"), [row("b", {"compute": 1.0})]).phases
    found = attribution.combine_phases([window(compute=1.0), other])
    assert (found.by_phase_j, found.by_device) == ({"compute": 2.0}, ())


def test_windows_that_nobody_attributed_have_no_phases():
    assert attribution.combine_phases([None, None]) is None
    found = attribution.combine_phases([None, window(compute=1.0)])
    assert found.by_phase_j is None
    assert found.phases_reason == "1 of 2 windows: the joules of this window were not attributed to phases"
