"""What a rank must remember to go on as if it had never stopped: weights, optimizer, scaler, random states.

Tensors and plain values are kept apart, because only tensors enter a safetensors file and only values a JSON file.
"""

from __future__ import annotations

import base64
import random
from typing import Any

import numpy as np
import torch
from torch import nn

from hpc_accel.runtime.step import Stepper
from hpc_accel.train.checkpoint_files import CheckpointFile

Tensors = dict[str, torch.Tensor]


def tensors_of(stepper: Stepper, part: CheckpointFile) -> Tensors:
    """What `part` holds of this rank's model and of its optimizer, as copies on the host."""
    found: dict[str, torch.Tensor] = {}
    if part.has_model:
        for stage, module in stepper.model.modules.items():
            found |= {f"{_prefix(stepper, stage)}{name}": value for name, value in module.state_dict().items()}
    if part.has_optimizer:
        for index, entries in _optimizer_state(stepper).items():
            found |= {f"optimizer.{index}.{key}": value for key, value in entries.items() if torch.is_tensor(value)}
    # A copy each: two names of one tensor (tied weights) and views are refused by the format.
    return {name: _local(value.detach()).to("cpu", copy=True).contiguous() for name, value in found.items()}


def _prefix(stepper: Stepper, stage: int) -> str:
    return "model." if len(stepper.model.modules) == 1 else f"model.{stage}."


def _local(value: torch.Tensor) -> torch.Tensor:
    """This rank's shard of a tensor that FSDP divided; any other tensor as it is."""
    return value.to_local() if hasattr(value, "to_local") else value


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
        "stream": stepper.stream.position() if stepper.stream is not None else None,
        "random": {
            "torch": {key: base64.b64encode(value.numpy().tobytes()).decode() for key, value in states.items()},
            "python": [version, list(internal), gauss],
            "numpy": [name, np.asarray(keys).tolist(), position, has_gauss, cached],
        },
    }


def restore(stepper: Stepper, tensors: Tensors, values: dict[str, Any]) -> None:
    """Put both back. Raises KeyError or RuntimeError when they belong to another model."""
    for stage, module in stepper.model.modules.items():
        prefix = _prefix(stepper, stage)
        mine = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        _load(module, mine)
    optimizer = _optimizer(stepper)
    if optimizer is not None:
        state: dict[int, dict[str, Any]] = {int(index): dict(each) for index, each in values["optimizer"].items()}
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".", 2)
                state.setdefault(int(index), {})[key] = value
        _load_optimizer(optimizer, state)
    if stepper.loss.scaler is not None:
        stepper.loss.scaler.load_state_dict(values["scaler"])
    if stepper.stream is not None:
        stepper.stream.from_position = values.get("stream")
    _restore_random(stepper.device, values["random"])


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


def _load(module: nn.Module, tensors: Tensors) -> None:
    """Put `tensors` into the module's own; a shard into the shard that is here."""
    present = module.state_dict()
    if not any(hasattr(value, "to_local") for value in present.values()):
        module.load_state_dict(tensors)
        return
    if set(present) != set(tensors):
        raise KeyError(f"tensors differ: {', '.join(sorted(set(present) ^ set(tensors)))}")
    with torch.no_grad():
        for name, value in present.items():
            _local(value).copy_(tensors[name])


def _load_optimizer(optimizer: torch.optim.Optimizer, state: dict[int, dict[str, Any]]) -> None:
    """A plain shard of the state becomes one of a divided tensor again where the parameter is divided."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, entries in state.items():
        parameter = parameters[index]
        for key, value in entries.items():
            if hasattr(parameter, "to_local") and torch.is_tensor(value) and value.dim():
                whole = torch.empty_like(parameter)
                _local(whole).copy_(value)
                entries[key] = whole
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def _optimizer(stepper: Stepper) -> torch.optim.Optimizer | None:
    """What holds this rank's state: of a ZeRO optimizer the one inside, which has this rank's parameters only."""
    return getattr(stepper.optimizer, "optim", stepper.optimizer)


def _optimizer_state(stepper: Stepper) -> dict[int, dict[str, Any]]:
    optimizer = _optimizer(stepper)
    return optimizer.state_dict()["state"] if optimizer is not None else {}
