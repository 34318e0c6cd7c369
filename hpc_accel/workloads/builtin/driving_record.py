"""Episodes of highway-env driven by the expert: what its sensors saw, and what it did.

E. Leurent, "An Environment for Autonomous Driving Decision-Making", 2018, github.com/Farama-Foundation/HighwayEnv.
"""

from __future__ import annotations

import importlib.metadata
import os
from typing import Any

import numpy as np
import torch

from hpc_accel.workloads.builtin import driving_expert
from hpc_accel.workloads.builtin.cache import cached

FORMAT = 1
"""Changes with anything here or in the expert that changes what is recorded."""
LIDAR_RANGE_M = 60.0
SPEED_SCALE_M_PER_S = 30.0
NUM_LANES = 4


def recorded(
    samples: int, height: int, width: int, lidar_cells: int, vehicles: int, first_seed: int = 0
) -> dict[str, torch.Tensor]:
    """Decisions of whole episodes, at least `samples` of them, from the cache or recorded now.

    camera [n, 1, height, width] bytes; lidar [n, 2, lidar_cells] distances and relative speeds, kinematics
    [n, vehicles, 5] of the ego vehicle and those nearest to it, all scaled to about -1 to 1;
    action [n] and episode [n].
    """
    size = {"height": height, "width": width, "lidar_cells": lidar_cells, "vehicles": vehicles}
    versions = {name: importlib.metadata.version(name) for name in ("highway-env", "gymnasium", "numpy")}
    key = {"format": FORMAT, "samples": samples, "first_seed": first_seed, **size, **versions}
    return cached("driving", key, lambda: _record(samples, first_seed, **size))


def _record(samples: int, first_seed: int, *, height: int, width: int, lidar_cells: int, vehicles: int) -> Any:
    # No screen on a compute node. SDL's driver "dummy", the usual choice, makes highway-env draw nothing at all.
    os.environ["SDL_VIDEODRIVER"] = "offscreen"
    import gymnasium
    import highway_env  # noqa: F401 registers the environment

    env = gymnasium.make("highway-fast-v0", config=_config(height, width, lidar_cells))
    columns: dict[str, list[Any]] = {name: [] for name in ("camera", "lidar", "kinematics", "action", "episode")}
    episode = 0
    while len(columns["action"]) < samples:
        observation, _ = env.reset(seed=first_seed + episode)
        ended = False
        while not ended:
            camera, lidar = observation
            action = driving_expert.choose(env.unwrapped)
            # The screen is stored by columns; an image by rows.
            row = (np.swapaxes(camera, 1, 2), np.swapaxes(lidar, 0, 1), _kinematics(env, vehicles), action, episode)
            for values, value in zip(columns.values(), row, strict=True):
                values.append(np.array(value))
            observation, _, crashed, out_of_time, _ = env.step(action)
            ended = crashed or out_of_time
        episode += 1
    env.close()
    return {name: torch.from_numpy(np.stack(values)).contiguous() for name, values in columns.items()}


def _kinematics(env: Any, count: int) -> np.ndarray[Any, Any]:
    """[count, 5]: of the ego vehicle 1, the speed it steers to, lane, speed and 0; of those nearest to it presence,
    position and velocity relative to it.

    highway-env's own table of the same goes through pandas, which takes as long as the whole simulation.
    """
    ego = env.unwrapped.vehicle
    table = np.zeros((count, 5), dtype=np.float32)
    speed, set_speed = ego.speed / SPEED_SCALE_M_PER_S, ego.target_speed / SPEED_SCALE_M_PER_S
    table[0] = (1, set_speed, ego.lane_index[2] / NUM_LANES, speed, 0)
    near = env.unwrapped.road.close_objects_to(ego, 2 * LIDAR_RANGE_M, count=count - 1)
    for row, other in enumerate(near, start=1):
        position, velocity = other.position - ego.position, other.velocity - ego.velocity
        table[row] = (1, *position / LIDAR_RANGE_M, *velocity / SPEED_SCALE_M_PER_S)
    return table


def _config(height: int, width: int, lidar_cells: int) -> dict[str, Any]:
    camera = {
        "type": "GrayscaleObservation",
        "observation_shape": (width, height),
        "stack_size": 1,
        "weights": [0.2989, 0.5870, 0.1140],  # ITU-R BT.601 luma
        "scaling": 1.75,
    }
    lidar = {"type": "LidarObservation", "cells": lidar_cells, "maximum_range": LIDAR_RANGE_M, "normalize": True}
    return {
        "observation": {"type": "TupleObservation", "observation_configs": [camera, lidar]},
        "offscreen_rendering": True,
        "lanes_count": NUM_LANES,
        "vehicles_count": 15,
        "vehicles_density": 1.0,
        "duration": 40,  # decisions an episode, one a second
    }
