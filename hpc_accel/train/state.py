"""What a rank must remember to go on as if it had never stopped: weights, optimizer, scaler, random states.

Tensors and plain values are kept apart, because only tensors enter a safetensors file and only values a JSON file.
"""

from __future__ import annotations

import base64
import random
from typing import Any

import numpy as np
import torch

from hpc_accel.train.step import Stepper

Tensors = dict[str, torch.Tensor]


def tensors_of(stepper: Stepper) -> Tensors:
    """This rank's part of the model and of its optimizer, as copies on the host. Equal on all ranks of a dp group."""
    found = {f"model.{name}": value for name, value in stepper.model.module.state_dict().items()}
    for index, entries in _optimizer_state(stepper).items():
        found |= {f"optimizer.{index}.{key}": value for key, value in entries.items() if torch.is_tensor(value)}
    # A copy each: two names of one tensor (tied weights) and views are refused by the format.
    return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in found.items()}


def values_of(stepper: Stepper) -> dict[str, Any]:
    """What else this rank needs, as JSON: the optimizer's plain values, the loss scale, random states."""
    optimizer = {
        str(index): {key: value for key, value in entries.items() if not torch.is_tensor(value)}
        for index, entries in _optimizer_state(stepper).items()
    }
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    states = {"cpu": torch.get_rng_state()}
    if stepper.device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(stepper.device)
    return {
        "optimizer": optimizer,
        "scaler": dict(stepper.loss.scaler.state_dict()) if stepper.loss.scaler is not None else {},
        "random": {
            "torch": {key: base64.b64encode(value.numpy().tobytes()).decode() for key, value in states.items()},
            "python": [version, list(internal), gauss],
            "numpy": [name, np.asarray(keys).tolist(), position, has_gauss, cached],
        },
    }


def restore(stepper: Stepper, tensors: Tensors, values: dict[str, Any]) -> None:
    """Put both back. Raises KeyError or RuntimeError when they belong to another model."""
    model = {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
    stepper.model.module.load_state_dict(model)
    if stepper.optimizer is not None:
        state: dict[int, dict[str, Any]] = {int(index): dict(each) for index, each in values["optimizer"].items()}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".", 2)
                state.setdefault(int(index), {})[key] = value
        groups = stepper.optimizer.state_dict()["param_groups"]
        stepper.optimizer.load_state_dict({"state": state, "param_groups": groups})
    if stepper.loss.scaler is not None:
        stepper.loss.scaler.load_state_dict(values["scaler"])
    _restore_random(stepper.device, values["random"])


def _restore_random(device: torch.device, states: dict[str, Any]) -> None:
    def decoded(text: str) -> torch.Tensor:
        return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)

    torch.set_rng_state(decoded(states["torch"]["cpu"]))
    if device.type == "cuda":
        torch.cuda.set_rng_state(decoded(states["torch"]["cuda"]), device)
    version, internal, gauss = states["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, cached))


def _optimizer_state(stepper: Stepper) -> dict[int, dict[str, Any]]:
    return stepper.optimizer.state_dict()["state"] if stepper.optimizer is not None else {}
