"""Models that no rank could hold: built on torch's meta device, and filled part by part where the parts are needed.

`building` runs a build() so that each parameter moves to the meta device the moment a module registers it. Buffers keep
their values: they are small, and computed in ways of their own. What becomes of parameters is noted (tape.py). A rank
cuts its stage, its slices or its shards out of the model without values, and fills those alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.nn.parameter import UninitializedParameter, is_lazy

from hpc_accel.errors import ConfigError
from hpc_accel.workloads.recorder import Recorder, Untold, whole_calls
from hpc_accel.workloads.tape import Held, Tape, never_set

NOT_FOLLOWED = "its forward pass looks at values, or has an operation that torch cannot follow without them"
_BUILDING = ContextVar("is_building", default=False)
HELD_BYTES = 64 << 20
HELD_SHARE = 0.02
"""Values that build() made itself are kept on every rank: at most so much, or this share of the model."""


class Deferred:
    """How the parameters of one model come by their values."""

    def __init__(self, seed: int) -> None:
        self.tape = Tape(seed=seed)
        self._filled: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        """By a meta tensor's id: the tensor, and what took its place where the tensor itself could not."""

    @contextmanager
    def recording(self) -> Iterator[None]:
        """What is done to parameters without values inside is done to their values later."""
        with torch.no_grad(), Recorder(self.tape):
            yield

    @contextmanager
    def building(self) -> Iterator[None]:
        """Around a build(): parameters are on the meta device from the moment they are registered."""
        kept: dict[int, nn.Parameter] = {}  # so that no id becomes another's
        recorder = Recorder(self.tape)

        def register(_module: nn.Module, _name: str, parameter: Any) -> None:
            if parameter is None or parameter.device.type == "meta" or id(parameter) in kept:
                return
            if isinstance(parameter, UninitializedParameter):
                raise ConfigError(
                    f"meta: {type(_module).__name__}.{_name} has no shape before the first forward pass",
                    "with meta: true parameters have their shapes when build() is done",
                    "use the layer without Lazy in its name, or leave meta out",
                )
            kept[id(parameter)] = parameter
            self._emptied(parameter, recorder)

        handle = register_module_parameter_registration_hook(register)
        token = _BUILDING.set(True)
        try:
            with recorder, whole_calls(self.tape), Untold():
                yield
        finally:
            _BUILDING.reset(token)
            handle.remove()

    def _emptied(self, parameter: nn.Parameter, recorder: Recorder) -> None:
        """The same object on the meta device, so that whoever holds it holds the one that is trained."""
        _refuse_hooks(parameter)
        is_blank = recorder.is_blank(parameter)
        with torch.utils._python_dispatch._disable_current_modes(), torch.no_grad():
            value = parameter.detach()
            empty = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
            _exchanged(parameter, empty)
            if not is_blank:
                self.tape.note_value(parameter, value)

    def finish(self, model: nn.Module) -> None:
        """Name what the model consists of. Raises ConfigError for parameters whose values nobody knows."""
        named = [*model.named_parameters(), *model.named_buffers()]
        empty = [(name, each) for name, each in named if each.is_meta]
        for name, each in empty:
            self.tape.names.setdefault(self.tape.view(each).key, name)
        for name, each in empty:
            _refuse_hooks(each, name)
            if -1 < self.tape.written_numbers(each) < each.numel():
                raise never_set(name)
        for name, module in model.named_modules():
            for key, value in vars(module).items():
                if isinstance(value, torch.Tensor) and value.is_meta and not isinstance(value, nn.Parameter):
                    raise ConfigError(
                        f"meta: {name}.{key}".replace(": .", ": ") + " is computed from parameters in build()",
                        "with meta: true parameters have no values when build() runs",
                        f"compute {key} in forward, or leave meta out",
                    )
        self._check_held(sum(each.numel() * each.element_size() for _, each in empty))

    def _check_held(self, num_bytes: int) -> None:
        held: dict[int, int] = {}
        largest = (0, "")
        for entry in self.tape.entries:
            for value in entry.args:
                if isinstance(value, Held):
                    size = value.tensor.untyped_storage().nbytes()
                    held[value.tensor.untyped_storage()._cdata] = size
                    key = entry.writes[0].key if entry.writes else 0
                    largest = max(largest, (size, self.tape.names.get(key, "a parameter")))
        total, most = sum(held.values()), max(HELD_BYTES, int(HELD_SHARE * num_bytes))
        if total > most:
            raise ConfigError(
                f"meta: build() itself makes values of {total / 2**20:.0f} MiB, those of {largest[1]} among them",
                f"every rank keeps what build() makes before it is a parameter, at most {most / 2**20:.0f} MiB here",
                "make parameters with torch.empty and set them afterwards (torch.nn.init), name files of weights in "
                "Workload(weights=...), or leave meta out",
            )

    def fill(self, modules: Iterable[nn.Module], device: torch.device | str = "cpu") -> None:
        """Give what `modules` hold on the meta device its values, one tensor at a time, on `device`; ties stay."""
        for module in [part for each in modules for part in each.modules()]:
            for key, parameter in list(module._parameters.items()):
                if parameter is not None and parameter.is_meta and not hasattr(parameter, "to_local"):  # FSDP2's shard
                    self._fill_parameter(module, key, parameter, device)
            for key, buffer in list(module._buffers.items()):
                if buffer is not None and buffer.is_meta:
                    module._buffers[key] = self.tape.value(buffer).to(device)

    def _fill_parameter(self, module: nn.Module, key: str, empty: nn.Parameter, device: torch.device | str) -> None:
        if id(empty) not in self._filled:
            value = self.tape.value(empty).to(device)
            try:
                _exchanged(empty, value)
                return
            except RuntimeError:  # someone watches it by a weak reference, as torch's LSTM does
                self._filled[id(empty)] = empty, nn.Parameter(value, requires_grad=empty.requires_grad)
        setattr(module, key, self._filled[id(empty)][1])


def _refuse_hooks(tensor: torch.Tensor, name: str = "a parameter") -> None:
    """A hook belongs to the tensor without values, and would never run."""
    if tensor._backward_hooks or getattr(tensor, "_post_accumulate_grad_hooks", None):
        raise ConfigError(
            f"meta: {name} has a hook on its gradient",
            "with meta: true what build() registers on a tensor does not go over to the one that is trained",
            "do in forward what the hook does, or leave meta out",
        )


def _exchanged(parameter: nn.Parameter, value: torch.Tensor) -> None:
    """Let `parameter`, the object, be `value`. Raises RuntimeError where torch cannot."""
    other = torch.Tensor._make_subclass(type(parameter), value, parameter.requires_grad)
    other.__dict__.update(parameter.__dict__)
    torch.utils.swap_tensors(parameter, other)


def is_building() -> bool:
    """Whether the model that is built now gets its values later, so that files are named and not read."""
    return _BUILDING.get()


def is_empty(model: nn.Module) -> bool:
    """Whether some of its parameters have no values."""
    return any(each.is_meta for each in model.parameters() if not is_lazy(each))


def moved(module: nn.Module, device: torch.device | str) -> None:
    """Move what has values to `device`, in place."""
    module._apply(lambda tensor: tensor if tensor.is_meta else tensor.to(device))


@contextmanager
def without_values(model: nn.Module) -> Iterator[FakeTensorMode]:
    """Torch's mode of tensors without values, in which a model on the meta device runs as if it were on the CPU."""
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        empty = [
            (module, key, each)
            for module in model.modules()
            for key, each in module._parameters.items()
            if each is not None and each.is_meta
        ]
        stand_ins: dict[int, nn.Parameter] = {}
        for module, key, each in empty:
            if id(each) not in stand_ins:
                stand_ins[id(each)] = nn.Parameter(stand_in(each), requires_grad=each.requires_grad)
            setattr(module, key, stand_ins[id(each)])
        try:
            yield mode
        finally:
            for module, key, each in empty:
                setattr(module, key, each)


def stand_in(tensor: torch.Tensor) -> torch.Tensor:
    """Inside of a mode without values: one like a meta tensor, as if on the CPU."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")


def needs_values(model: nn.Module, what: str) -> None:
    """Raise ConfigError for a model without values, where nothing goes without."""
    if is_empty(model):
        raise ConfigError(
            f"meta: {what}",
            "a model that is built without values can be divided only if its forward pass can be followed without them",
            "avoid .item(), .tolist() and `if tensor:` in forward, use a layout without stages, or leave meta out",
        )
