"""EnergyFigure: the empty one says why, and what a checkpoint keeps of one loses nothing."""

from __future__ import annotations

import json
import pickle

import pytest

from hpc_accel.measure.energy import attribution
from hpc_accel.measure.energy.aggregate import aggregate
from hpc_accel.measure.energy.figure import EnergyFigure, added
from hpc_accel.measure.energy.idle import with_idle
from tests.measure.energy.test_aggregate import record, sensor


def attributed() -> EnergyFigure:
    """A partial figure with a note, an idle baseline and phases."""
    broken = sensor("gpu-board", key="GPU-2", energy_j=None, reason="GPU-2: lost")
    energy = aggregate([record(sensor("gpu-board", key="GPU-1"), broken), record(boot="b2", name="i")], 10.0, "timed")
    row = next(each for each in energy.sensors if each.is_counted)
    share = attribution.DeviceShare(identity=row.identity, phases_j={"compute": 2000.0}, is_resolved=False)
    return attribution.attribute(with_idle(energy, energy), [share])


def test_json_and_back():
    energy = attributed()
    assert energy.idle_power_w == pytest.approx(200.0)
    assert energy.phases is not None and energy.phases.by_phase_j == {"compute": 2000.0}
    assert EnergyFigure.from_dict(json.loads(json.dumps(energy.as_dict()))) == energy
    assert pickle.loads(pickle.dumps(energy)) == energy, "figures travel between ranks"


def test_another_versions_figure_is_read():
    plain = attributed().as_dict() | {"a_new_key": 1}
    for key in ("num_windows", "unused_gpus_j"):
        del plain[key]
    assert EnergyFigure.from_dict(plain) == attributed()


def test_the_empty_figure_has_its_reason_and_no_number():
    energy = EnergyFigure.missing("no sensor", "use other nodes", window_s=3.0)
    assert (energy.reason, energy.remedy, energy.method, energy.window_s) == ("no sensor", "use other nodes", "none", 3)
    assert energy.energy_j is energy.power_w is energy.scope is energy.idle_power_w is None
    assert energy.idle_reason == "no sensor"
    assert EnergyFigure.from_dict(energy.as_dict()) == energy


def test_what_is_not_known_has_no_sum():
    assert added([1.0, 2.0]) == 3.0
    assert added([1.0, None]) is None
