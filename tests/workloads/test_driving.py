"""The recorded drive: a sensible expert, sensors that saw something, episodes kept apart."""

import math

import pytest
import torch

from hpc_accel.errors import ConfigError
from hpc_accel.workloads.builtin import driving, driving_expert


def test_the_model_of_the_expert_is_that_of_the_paper():
    desired = driving_expert.DESIRED_SPEED_M_PER_S
    assert driving_expert.acceleration(desired, math.inf, 0) == 0
    assert driving_expert.acceleration(0, math.inf, 0) == driving_expert.MAX_ACCELERATION_M_PER_S2
    gap = driving_expert.STANDSTILL_GAP_M + 20 * driving_expert.HEADWAY_S
    # At its wanted gap behind a vehicle of its own speed, only the free term is left over the unit of braking.
    assert driving_expert.acceleration(20, gap, 20) == pytest.approx(
        -driving_expert.MAX_ACCELERATION_M_PER_S2 * (20 / desired) ** 4
    )
    assert driving_expert.acceleration(30, 10, 20) < -driving_expert.SAFE_BRAKING_M_PER_S2


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    pytest.importorskip("highway_env", reason="highway-env is not installed (make extras)")
    from hpc_accel.workloads.builtin.driving_record import recorded

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        first = recorded(50, 16, 32, 8, 3)
        patch.setattr("hpc_accel.workloads.builtin.driving_record._record", None)  # the second time it is read
        again = recorded(50, 16, 32, 8, 3)
    assert all(torch.equal(first[name], again[name]) for name in first)
    return first


def test_the_expert_drives_whole_episodes_without_a_crash(record):
    assert record["episode"].bincount().tolist() == [40, 40]
    assert len(record["action"].unique()) >= 3


def test_every_sensor_sees_something(record):
    camera, lidar, kinematics = record["camera"], record["lidar"], record["kinematics"]
    assert camera.shape == (80, 1, 16, 32)
    assert lidar.shape == (80, 2, 8)
    assert kinematics.shape == (80, 3, 5)
    assert (camera.float().flatten(1).std(dim=1) > 0).all()  # no blank frame
    assert not torch.equal(camera[0], camera[1])
    assert (lidar[:, 0] < 1).any()
    assert (kinematics[:, 1, 0] == 1).any()
    for values in (lidar, kinematics):
        assert values.abs().max() <= 3


@pytest.mark.parametrize("args", [{"height": 30}, {"lidar_cells": 7}, {"samples": 8}, {"vehicles": 0}])
def test_sizes_that_cannot_be_are_refused(args, monkeypatch):
    monkeypatch.setattr(driving, "check_installed", lambda *names: None)
    with pytest.raises(ConfigError, match=next(iter(args))):
        driving.build(**args)
