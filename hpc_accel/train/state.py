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

from hpc_accel.runtime.optimizer import held_here
from hpc_accel.runtime.step import Stepper
from hpc_accel.train.checkpoint_files import CheckpointFile
from hpc_accel.workloads.optimizers import parts_of

Tensors = dict[str, torch.Tensor]


def tensors_of(stepper: Stepper, part: CheckpointFile) -> Tensors:
    """What `part` holds of this rank's model and of its optimizer, as copies on the host."""
    found: dict[str, torch.Tensor] = {}
    if part.has_model:
        for stage, module in stepper.model.modules.items():
            found |= {f"{_prefix(stepper, stage)}{name}": value for name, value in module.state_dict().items()}
    if part.has_optimizer:
        for number, optimizer in enumerate(_parts(stepper)):
            for index, entries in optimizer.state_dict()["state"].items():
                tensors = {key: value for key, value in entries.items() if torch.is_tensor(value)}
                found |= {f"optimizer.{number}.{index}.{key}": value for key, value in tensors.items()}
    # A copy each: two names of one tensor (tied weights) and views are refused by the format.
    return {name: _local(value.detach()).to("cpu", copy=True).contiguous() for name, value in found.items()}


def _prefix(stepper: Stepper, stage: int) -> str:
    return "model." if len(stepper.model.modules) == 1 else f"model.{stage}."


def _local(value: torch.Tensor) -> torch.Tensor:
    """This rank's shard of a tensor that FSDP divided; any other tensor as it is."""
    return value.to_local() if hasattr(value, "to_local") else value


def values_of(stepper: Stepper) -> dict[str, Any]:
    """What else this rank needs, as JSON: the optimizer's plain values, the loss scale, random states."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    states = {"cpu": torch.get_rng_state()}
    if stepper.device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(stepper.device)
    return {
        "scheduled_steps": stepper.course.num_steps if stepper.course is not None else 0,
        "optimizer": [_plain_values(whole) for whole in parts_of(stepper.optimizer)],
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
    if stepper.course is not None:
        stepper.course.go_to(values["scheduled_steps"])
    for number, (whole, plain) in enumerate(zip(parts_of(stepper.optimizer), values["optimizer"], strict=True)):
        prefix = f"optimizer.{number}."
        own = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
        _load_optimizer(held_here(whole), own, plain)
        for group, known in zip(whole.param_groups, plain["groups"], strict=True):
            group.update({key: tuple(value) if isinstance(value, list) else value for key, value in known.items()})
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


def _parts(stepper: Stepper) -> list[torch.optim.Optimizer]:
    """What holds this rank's state, one for each optimizer that steps."""
    return [held_here(part) for part in parts_of(stepper.optimizer)]


def _plain_values(whole: torch.optim.Optimizer) -> dict[str, Any]:
    """Of each parameter and group what is no tensor; and which tensors are divided as their parameter is, or lie on
    the host although it does not. Options are those of the whole optimizer: a divided one passes on what a schedule
    changed with its next step.
    """
    part = held_here(whole)
    parameters = [parameter for group in part.param_groups for parameter in group["params"]]
    found = part.state_dict()
    state: dict[str, Any] = {}
    for index, entries in found["state"].items():
        tensors = {key: value for key, value in entries.items() if torch.is_tensor(value)}
        state[str(index)] = {
            "plain": {key: value for key, value in entries.items() if key not in tensors},
            "divided": [key for key, value in tensors.items() if hasattr(value, "to_local")],
            "on_host": [key for key, value in tensors.items() if value.device != _local(parameters[index]).device],
        }
    groups = [
        {key: value for key, value in group.items() if key not in ("params", "param_names") and _is_plain(value)}
        for group in whole.param_groups
    ]
    return {"state": state, "groups": groups}


def _is_plain(value: Any) -> bool:
    """Whether JSON holds an option of a group, which a schedule or the optimizer may have changed."""
    if isinstance(value, list | tuple):
        return all(isinstance(each, int | float) for each in value)
    return value is None or isinstance(value, int | float | str)


def _load_optimizer(part: torch.optim.Optimizer, tensors: Tensors, plain: dict[str, Any]) -> None:
    """Put both into its state as they were: torch's load_state_dict would round what is wider than its parameter."""
    parameters = [parameter for group in part.param_groups for parameter in group["params"]]
    counts_on_device = any(group.get("capturable") or group.get("fused") for group in part.param_groups)
    for name, value in tensors.items():
        index, key = name.split(".", 1)
        parameter, known = parameters[int(index)], plain["state"][index]
        if key in known["divided"]:
            whole = torch.empty_like(parameter, dtype=value.dtype)
            _local(whole).copy_(value)
            part.state[parameter][key] = whole
        else:
            stays = key in known["on_host"] or (key == "step" and not counts_on_device)
            part.state[parameter][key] = value if stays else value.to(_local(parameter).device)
    for index, known in plain["state"].items():
        part.state[parameters[int(index)]].update(known["plain"])
