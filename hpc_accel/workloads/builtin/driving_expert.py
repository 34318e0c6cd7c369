"""The driver whose actions are learnt: speed by the Intelligent Driver Model, lanes by MOBIL, in discrete actions.

M. Treiber, A. Hennecke, D. Helbing, "Congested traffic states in empirical observations and microscopic simulations",
Physical Review E 62, 2000; A. Kesting, M. Treiber, D. Helbing, "General lane-changing model MOBIL for car-following
models", Transportation Research Record 1999, 2007. The constants are those of the papers for cars on a motorway but for
the time headway, which is short enough to find gaps in dense traffic.
"""

from __future__ import annotations

import math
from typing import Any

LEFT, KEEP, RIGHT, FASTER, SLOWER = range(5)
"""highway-env's discrete meta-actions, in its order."""
DESIRED_SPEED_M_PER_S = 30.0
MAX_ACCELERATION_M_PER_S2 = 1.4
COMFORTABLE_BRAKING_M_PER_S2 = 2.0
SAFE_BRAKING_M_PER_S2 = 4.0
HEADWAY_S = 1.0
STANDSTILL_GAP_M = 2.0
POLITENESS = 0.1
CHANGE_THRESHOLD_M_PER_S2 = 0.1
SPEED_STEP_M_PER_S2 = 0.4
"""Acceleration the model asks for beyond which the discrete speed setting is changed."""


def acceleration(speed: float, gap: float, front_speed: float) -> float:
    """IDM: acceleration in m/s2 at `speed`, `gap` metres behind a vehicle of `front_speed`; an infinite gap is free."""
    free = 1 - (speed / DESIRED_SPEED_M_PER_S) ** 4
    if math.isinf(gap):
        return MAX_ACCELERATION_M_PER_S2 * free
    braking = 2 * math.sqrt(MAX_ACCELERATION_M_PER_S2 * COMFORTABLE_BRAKING_M_PER_S2)
    wanted = STANDSTILL_GAP_M + max(0.0, speed * HEADWAY_S + speed * (speed - front_speed) / braking)
    return MAX_ACCELERATION_M_PER_S2 * (free - (wanted / max(gap, 0.1)) ** 2)


def choose(env: Any) -> int:
    """The expert's action in the present state of a highway-env environment."""
    ego, road = env.vehicle, env.road
    here = ego.lane_index
    now = _behind(ego, road.neighbour_vehicles(ego, here)[0])
    changes = {LEFT: _gain(ego, road, here, -1, now), RIGHT: _gain(ego, road, here, +1, now)}
    best = max(changes, key=lambda action: changes[action])
    if changes[best] > CHANGE_THRESHOLD_M_PER_S2 and ego.target_lane_index == here:
        return best
    # Asked against the speed it already steers to, or it would ask again before it got there.
    wanted = acceleration(ego.target_speed, *_gap_and_speed(ego, road.neighbour_vehicles(ego, here)[0]))
    if now < -SPEED_STEP_M_PER_S2 and ego.target_speed > min(ego.target_speeds):
        return SLOWER
    if wanted > SPEED_STEP_M_PER_S2 and ego.target_speed < max(ego.target_speeds):
        return FASTER
    return KEEP


def _gain(ego: Any, road: Any, here: tuple[str, str, int], side: int, now: float) -> float:
    """MOBIL's incentive in m/s2 to change lanes towards `side`; minus infinity where it is unsafe or impossible."""
    lane = (here[0], here[1], here[2] + side)
    if lane not in road.network.side_lanes(here):
        return -math.inf
    front, rear = road.neighbour_vehicles(ego, lane)
    after = _behind(ego, front)
    imposed = _behind(rear, ego) if rear else 0.0
    if after < -SAFE_BRAKING_M_PER_S2 or imposed < -SAFE_BRAKING_M_PER_S2:
        return -math.inf
    loss = _behind(rear, front) - imposed if rear else 0.0
    return after - now - POLITENESS * loss


def _behind(vehicle: Any, front: Any) -> float:
    return acceleration(vehicle.speed, *_gap_and_speed(vehicle, front))


def _gap_and_speed(vehicle: Any, front: Any) -> tuple[float, float]:
    if front is None:
        return math.inf, 0.0
    gap = vehicle.lane_distance_to(front) - (vehicle.LENGTH + front.LENGTH) / 2
    return gap, front.speed
