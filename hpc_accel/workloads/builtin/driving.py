"""Driving by imitation: from a camera image, a lidar and the vehicles around, predict what the expert did.

Recorded episodes of highway-env (driving_record.py) driven by a rule-based expert (driving_expert.py). Behaviour
cloning after D. Pomerleau, "ALVINN: an autonomous land vehicle in a neural network", 1989. Whole episodes are held
out, never single frames: neighbouring frames are nearly the same.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.data import Dataset

from hpc_accel.errors import ConfigError
from hpc_accel.workloads.builtin.metrics import accuracy, majority_share
from hpc_accel.workloads.builtin.optional_packages import check_installed
from hpc_accel.workloads.chain import Chain
from hpc_accel.workloads.workload import Metric, Workload

NUM_ACTIONS = 5
NUM_GROUPS = 4
HELD_OUT_SHARE = 0.2
Sensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def build(
    samples: int = 800, height: int = 32, width: int = 64, lidar_cells: int = 32, vehicles: int = 6, hidden: int = 128
) -> Workload:
    """A branch for each sensor and a perceptron of width `hidden` on all three.

    `samples` decisions are recorded on first use, each with an image of `height` x `width` pixels, `lidar_cells`
    directions and the nearest `vehicles`. Raises ConfigError for sizes that cannot be and without the extra.
    """
    check_installed("driving", "driving", "highway_env", "gymnasium", "pygame")
    _check_sizes(samples=samples, height=height, width=width, lidar_cells=lidar_cells, vehicles=vehicles, hidden=hidden)
    from hpc_accel.workloads.builtin.driving_record import recorded

    record = recorded(samples, height, width, lidar_cells, vehicles)
    num_episodes = int(record["episode"].max()) + 1
    held_out = record["episode"] >= num_episodes - max(1, round(HELD_OUT_SHARE * num_episodes))
    model = Chain(
        Sensing(height, width, lidar_cells, vehicles, hidden),
        nn.Linear(3 * hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, NUM_ACTIONS),
    )
    return Workload(
        model=model,
        loss=nn.functional.cross_entropy,
        dataset=Frames(record, ~held_out),
        tensor_plan={"1": "columns", "3": "rows"},
        metric=Metric(
            name="accuracy",
            compute=accuracy,
            higher_is_better=True,
            dataset=Frames(record, held_out),
            also={"majority_share": majority_share},
        ),
    )


class Frames(Dataset[tuple[Sensors, torch.Tensor]]):
    """The decisions that `chosen` marks: ((camera, lidar, kinematics), action), the camera scaled to -1 to 1."""

    def __init__(self, record: dict[str, torch.Tensor], chosen: torch.Tensor) -> None:
        self.record = {name: values[chosen] for name, values in record.items()}

    def __len__(self) -> int:
        return len(self.record["action"])

    def __getitem__(self, index: int) -> tuple[Sensors, torch.Tensor]:
        camera = self.record["camera"][index].float() / 127.5 - 1
        return (camera, self.record["lidar"][index], self.record["kinematics"][index]), self.record["action"][index]


class Sensing(nn.Module):
    """One branch a sensor, their features side by side: camera, lidar, kinematics -> [n, 3 x hidden].

    Norms are over groups of channels of one sample: a norm over the batch would make a sample's result depend on which
    others share its rank.
    """

    def __init__(self, height: int, width: int, lidar_cells: int, vehicles: int, hidden: int) -> None:
        super().__init__()
        self.camera = nn.Sequential(
            nn.Conv2d(1, 16, 5, stride=2, padding=2),  # [n, 1, height, width] -> [n, 16, height/2, width/2]
            nn.GroupNorm(NUM_GROUPS, 16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),  # -> [n, 32, height/4, width/4]
            nn.GroupNorm(NUM_GROUPS, 32),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, stride=2, padding=1),  # -> [n, 32, height/8, width/8]
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * (height // 8) * (width // 8), hidden),
        )
        self.lidar = nn.Sequential(
            nn.Conv1d(2, 16, 5, padding=2, padding_mode="circular"),  # the first direction is beside the last
            nn.ReLU(),
            nn.Conv1d(16, 32, 5, stride=2, padding=2, padding_mode="circular"),  # -> [n, 32, lidar_cells/2]
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * (lidar_cells // 2), hidden),
        )
        self.kinematics = nn.Sequential(
            nn.Flatten(),
            nn.Linear(5 * vehicles, hidden),
            nn.ReLU(),
            nn.Linear(hidden, hidden),
        )

    def forward(self, camera: torch.Tensor, lidar: torch.Tensor, kinematics: torch.Tensor) -> torch.Tensor:
        features = (self.camera(camera), self.lidar(lidar), self.kinematics(kinematics))
        return nn.functional.relu(torch.cat(features, dim=1))


def _check_sizes(**sizes: int) -> None:
    multiples = {"samples": 1, "height": 8, "width": 8, "lidar_cells": 2, "vehicles": 1, "hidden": 1}
    for name, multiple in multiples.items():
        if sizes[name] < multiple or sizes[name] % multiple:
            raise ConfigError(
                f"workload driving with {name} {sizes[name]}",
                f"{name} is a positive multiple of {multiple}",
                f"set {name} to {max(1, round(sizes[name] / multiple)) * multiple}",
            )
    if sizes["samples"] < 80:
        raise ConfigError(
            f"workload driving with {sizes['samples']} samples",
            "there is at least one episode to train on and one held out",
            "set samples >= 80 (an episode has up to 40)",
        )
