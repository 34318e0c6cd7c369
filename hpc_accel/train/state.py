"""Weights and optimizer as a checkpoint holds them: by the whole model's names, and put back into any layout.

An entry of the optimizer's state is called after its parameter, `layers.0.weight/exp_avg`. One of the parameter's
shape is divided as the parameter is; a counter is whole on every rank. Options of parameter groups, and values that
are no tensors, stand in the files' headers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from hpc_accel.errors import ConfigError
from hpc_accel.parallel.holdings import Holdings
from hpc_accel.parallel.pieces import Piece
from hpc_accel.parallel.powersgd import ErrorFeedback, feedback_of
from hpc_accel.runtime.optimizer import held_here
from hpc_accel.runtime.step import Stepper
from hpc_accel.train.checkpoint_files import CheckpointFile
from hpc_accel.train.slices import Slices
from hpc_accel.train.tensor_file import Slice
from hpc_accel.workloads.optimizers import parts_of


class State:
    """The state of one rank's stepper."""

    def __init__(self, stepper: Stepper) -> None:
        self.stepper = stepper
        self.holdings = Holdings(stepper.model)

    def slices(self, file: CheckpointFile) -> tuple[dict[str, Slice], dict[str, Any]]:
        """What `file` is to hold of this rank, by key, and what its header tells. The tensors are those in use."""
        if file.holds == "model":
            return {each.key: each for each in self._model()}, {}
        if file.holds == "feedback":
            return {each.key: each for each in self._feedback()}, {"averaged_steps": self._averaged_steps()}
        local: list[str] = []
        found = {each.key: each for each in self._optimizer(local)}
        return found, {**self._plain(), "local": local}

    def _model(self) -> Iterator[Slice]:
        for stage, module in self.stepper.model.modules.items():
            for key, value in module.state_dict().items():
                for piece in self.holdings.by_key.get((stage, key), ()):
                    yield from _sliced(piece, piece.name, value)

    def _feedbacks(self) -> list[ErrorFeedback]:
        found = [feedback_of(module) for module in self.stepper.model.modules.values()]
        return [each for each in found if each is not None]

    def _averaged_steps(self) -> int:
        return max((each.num_steps for each in self._feedbacks()), default=0)

    def _feedback(self) -> Iterator[Slice]:
        for feedback in self._feedbacks():
            for parameter, (error, factor) in feedback.by_parameter():
                name = self._name(parameter)
                # Each replica's own, and read in the same layout only: whole, as this rank has it.
                yield Slice(name=f"error:{name}", start=(0,) * error.dim(), shape=tuple(error.shape), values=error)
                if factor is not None:
                    yield Slice(name=f"factor:{name}", start=(0, 0), shape=tuple(factor.shape), values=factor)

    def restore_feedback(self, slices: Slices) -> bool:
        """Put back what PowerSGD remembered, in the layout that saved it; whether it was there."""
        steps = [told["averaged_steps"] for told in slices.told if "averaged_steps" in told]
        for feedback in self._feedbacks() if steps else ():
            memory = {}
            for parameter in feedback.parameters:
                error, factor = (f"{kind}:{self._name(parameter)}" for kind in ("error", "factor"))
                if error in slices.shapes:
                    own = slices.whole(factor).clone() if factor in slices.shapes else None
                    memory[id(parameter)] = (slices.whole(error).clone(), own)
            feedback.restore(steps[0], memory)
        return bool(steps)

    def _optimizer(self, local: list[str]) -> Iterator[Slice]:
        """Adds to `local` what only this layout can use: another shape than that of its parameter, which is divided."""
        for part in self._parts():
            for parameter, entries in part.state.items():
                pieces = self.holdings.by_parameter[id(parameter)]
                for key, value in entries.items():
                    if not torch.is_tensor(value):
                        continue
                    name = f"{pieces[0].name}/{key}"
                    if _local(value).shape == _local(parameter).shape:
                        for piece in pieces:
                            yield from _sliced(piece, name, value)
                        continue
                    own, shape = _local(value).detach(), tuple(_local(value).shape)
                    if own.numel() > 1 and tuple(_local(parameter).shape) != pieces[0].shape:
                        local.append(name)
                    yield Slice(name=name, start=(0,) * own.dim(), shape=shape, values=own)

    def _parts(self) -> list[torch.optim.Optimizer]:
        """What holds this rank's state, one for each optimizer that steps."""
        return [held_here(part) for part in parts_of(self.stepper.optimizer)]

    def _name(self, parameter: Any) -> str:
        return self.holdings.by_parameter[id(parameter)][0].name

    def _plain(self) -> dict[str, Any]:
        """What of the optimizer is no tensor, by parameter; and which tensors lie on the host although it does not.

        Options are those of the whole optimizer: a divided one passes on what a schedule changed with its next step.
        """
        values: dict[str, dict[str, Any]] = {}
        on_host: dict[str, list[str]] = {}
        course = self.stepper.course
        for part in self._parts():
            for parameter, entries in part.state.items():
                name, device = self._name(parameter), _local(parameter).device
                tensors = {key: value for key, value in entries.items() if torch.is_tensor(value)}
                if plain := {key: value for key, value in entries.items() if key not in tensors}:
                    values[name] = plain
                if apart := [key for key, value in tensors.items() if value.device != device]:
                    on_host[name] = apart
        groups = [
            [[self._name(each) for each in group["params"]], _options(group)]
            for whole in parts_of(self.stepper.optimizer)
            for group in whole.param_groups
        ]
        told = {"values": values, "on_host": on_host, "groups": groups}
        return told if course is None else {**told, "scheduled_steps": course.num_steps}

    def restore(self, slices: Slices, *, keeps_options: bool, is_same_layout: bool) -> None:
        """Put the state back. With `keeps_options` groups have the options that they were saved with.

        Raises DataError where it belongs to another model, ConfigError where this layout cannot hold it.
        """
        for stage, module in self.stepper.model.modules.items():
            _load(module, {key: self._read(slices, stage, key, value) for key, value in module.state_dict().items()})
        values: dict[str, dict[str, Any]] = {}
        on_host: dict[str, list[str]] = {}
        options: dict[str, dict[str, Any]] = {}
        local: set[str] = set()
        scheduled_steps = 0
        for told in slices.told:
            values |= told.get("values", {})
            on_host |= told.get("on_host", {})
            local |= set(told.get("local", ()))
            options |= {name: known for names, known in told.get("groups", ()) for name in names}
            scheduled_steps = told.get("scheduled_steps", scheduled_steps)
        if self.stepper.course is not None:
            self.stepper.course.go_to(scheduled_steps)
        for part in self._parts():
            on_device = any(group.get("capturable") or group.get("fused") for group in part.param_groups)
            for parameter in [each for group in part.param_groups for each in group["params"]]:
                pieces = self.holdings.by_parameter[id(parameter)]
                name = pieces[0].name
                for entry in slices.entries(name):
                    key = entry.removeprefix(f"{name}/")
                    stays = key in on_host.get(name, ()) or (key == "step" and not on_device)
                    part.state[parameter][key] = _entry(slices, entry, parameter, pieces, stays=stays)
                    if not is_same_layout and (entry in local or _is_undivided(slices, entry, parameter, pieces)):
                        raise ConfigError(
                            f"optimizer state {entry}",
                            "a state of another shape than its parameter's is not divided anew",
                            "go on in the layout of the checkpoint, or with an optimizer like adamw or sgd",
                        )
                part.state[parameter].update(values.get(name, {}))
                if not part.state[parameter]:
                    del part.state[parameter]  # it has had no gradient yet
        for whole in parts_of(self.stepper.optimizer) if keeps_options else ():
            for group in whole.param_groups:
                known = options.get(self._name(group["params"][0]), {}) if group["params"] else {}
                group.update({key: tuple(value) if isinstance(value, list) else value for key, value in known.items()})

    def _read(self, slices: Slices, stage: int, key: str, value: Any) -> Any:
        """A tensor like `value`, this rank's of what FSDP divided; what is no state of the whole model, as it is."""
        pieces = self.holdings.by_key.get((stage, key))
        if pieces is None:
            return value
        whole = torch.empty_like(_local(value), device="cpu")
        for piece in pieces:
            _fill(slices, piece, piece.name, whole)
        return whole


def _local(value: Any) -> torch.Tensor:
    """This rank's shard of a tensor that FSDP divided; any other tensor as it is."""
    found: torch.Tensor = value.to_local() if hasattr(value, "to_local") else value
    return found


def _sliced(piece: Piece, name: str, value: torch.Tensor) -> Iterator[Slice]:
    """Also what has no elements: a shard may be empty, and its state all the same."""
    yield Slice(name=name, start=piece.start, shape=piece.shape, values=piece.local(value).detach())


def _fill(slices: Slices, piece: Piece, name: str, tensor: torch.Tensor) -> None:
    own = piece.local(tensor)
    if own.numel():
        own.copy_(slices.part(name, piece.start, tuple(own.shape)))


def _entry(slices: Slices, name: str, parameter: Any, pieces: list[Piece], *, stays: bool) -> torch.Tensor:
    """One tensor of the optimizer's state, where it belongs: torch's load_state_dict would round what is wider than
    its parameter.
    """
    shape = slices.shapes[name]
    if shape == pieces[0].shape:
        dtype = slices.dtypes[name]
        whole = torch.empty_like(parameter, dtype=dtype, device="cpu" if stays else None, requires_grad=False)
        for piece in pieces:
            _fill(slices, piece, name, _local(whole))
        return whole
    found = slices.whole(name).clone()
    return found if stays else found.to(_local(parameter).device)


def _is_undivided(slices: Slices, name: str, parameter: Any, pieces: list[Piece]) -> bool:
    """Whether an entry that is no counter would have to be divided here, and nobody knows how."""
    shape = slices.shapes[name]
    is_divided = tuple(_local(parameter).shape) != pieces[0].shape
    return is_divided and shape != pieces[0].shape and math.prod(shape) > 1


def _load(module: nn.Module, tensors: dict[str, Any]) -> None:
    """Put `tensors` into the module's own; a shard into the shard that is here."""
    present = module.state_dict()
    if not any(hasattr(value, "to_local") for value in present.values()):
        module.load_state_dict(tensors)
        return
    with torch.no_grad():
        for name, value in present.items():
            if tensors[name] is not value:
                _local(value).copy_(tensors[name])


def _options(group: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key not in ("params", "param_names") and _is_plain(value)}


def _is_plain(value: Any) -> bool:
    """Whether JSON holds an option of a group, which a schedule or the optimizer may have changed."""
    if isinstance(value, list | tuple):
        return all(isinstance(each, int | float) for each in value)
    return value is None or isinstance(value, int | float | str)
