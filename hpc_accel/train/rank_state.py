"""What else a rank must remember to go on as if it had never stopped, as JSON: random states, loss scale, position.

Generators are each rank's own. In the layout they were saved in they go on bit for bit; in another layout they are
seeded from (seed, step, replica, stage), because no state of the old ranks is that of a new one.
"""

from __future__ import annotations

import base64
import random
from typing import Any

import numpy as np
import torch

from hpc_accel.mpi import between_nodes
from hpc_accel.runtime.randomness import seed_all, seed_of
from hpc_accel.runtime.step import Stepper

SEEDED_ANEW = "another layout: random numbers (dropout) are drawn from generators seeded by seed, step and rank"


def values_of(stepper: Stepper) -> dict[str, Any]:
    """Random states, the loss scale, and where a stream is read."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    states = {"cpu": torch.get_rng_state()}
    if stepper.device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(stepper.device)
    return {
        "scaler": dict(stepper.loss.scaler.state_dict()) if stepper.loss.scaler is not None else {},
        "between_nodes": between_nodes.all_known(),
        "stream": stepper.stream.position() if stepper.stream is not None else None,
        "random": {
            "torch": {key: base64.b64encode(value.numpy().tobytes()).decode() for key, value in states.items()},
            "python": [version, list(internal), gauss],
            "numpy": [name, np.asarray(keys).tolist(), position, has_gauss, cached],
        },
    }


def restore(stepper: Stepper, values: dict[str, Any], *, step: int, seed: int, is_same_layout: bool) -> None:
    """Put them back: another layout takes those that all ranks have alike from any rank's `values`."""
    if stepper.loss.scaler is not None and values["scaler"]:
        stepper.loss.scaler.load_state_dict(values["scaler"])
    if stepper.stream is not None:
        stepper.stream.from_position = values["stream"]
    if is_same_layout:
        _restore_random(stepper.device, values["random"])
    else:
        place = stepper.place
        seed_all(seed_of(seed, "step", step, "replica", place.dp_rank, "stage", place.pp_rank))


def _restore_random(device: torch.device, states: dict[str, Any]) -> None:
    def decoded(text: str) -> torch.Tensor:
        return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)

    torch.set_rng_state(decoded(states["torch"]["cpu"]))
    on_device = states["torch"].get("cuda")  # an attempt on a CPU had none: this one's seeded state is as good
    if device.type == "cuda" and on_device is not None:
        torch.cuda.set_rng_state(decoded(on_device), device)
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
