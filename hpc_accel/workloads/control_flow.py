"""Which parameters a step may leave idle: found by watching two samples, and never concluded from them alone.

A model whose branches follow from shapes uses the same parameters for every sample, so two samples show which stay
idle. One that looks at values (a mixture of experts, layers dropped at random) may use others for others; that it looks
is seen, where it looks too, and which parameters it uses is then left open.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode

from hpc_accel.workloads.batch import Batch, own_loss
from hpc_accel.workloads.blocks import blocks_of
from hpc_accel.workloads.nested import HALVES, raised
from hpc_accel.workloads.stream import spread_over
from hpc_accel.workloads.workload import Workload

NUM_SAMPLES = 2
LARGEST_WITH_VALUES_BYTES = 100 * 10**6
"""Parameters up to which samples are computed; larger models are followed on tensors without values."""
_PLAIN = (int, float, str, type(None))
_LOOKS = (DataDependentOutputException, DynamicOutputShapeException)


@dataclass(frozen=True, kw_only=True)
class ControlFlow:
    """What was seen of a model. `unused` parameters are trainable and the loss does not depend on them."""

    unused: tuple[str, ...] = ()
    looks_at_values: bool = False
    """So the parameters that a step uses may differ between steps and between ranks."""
    looks_between_blocks: bool = False
    """So which blocks run may differ, too."""
    reentrant: bool = False
    """Whether a part runs backward of its own (torch's checkpoint with use_reentrant=True)."""

    @property
    def may_idle(self) -> bool:
        """Whether a step may leave a trainable parameter without a gradient."""
        return self.looks_at_values or bool(self.unused)


class Looks(TorchDispatchMode):
    """Sees operations whose result's shape, or whose result in Python, follows from values. `between`: of no block."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.any = False
        self.between = False
        self._inside = 0
        self._handles = []
        for _, block in blocks_of(model) if blocks_of(model)[0][1] is not model else []:
            self._handles.append(block.register_forward_pre_hook(self._enter))
            self._handles.append(block.register_forward_hook(self._leave))

    def close(self) -> None:
        """Leave the model as it was."""
        for handle in self._handles:
            handle.remove()

    def _enter(self, *_: Any) -> None:
        self._inside += 1

    def _leave(self, *_: Any) -> None:
        self._inside -= 1

    def note(self) -> None:
        """A look at values, here."""
        self.any = True
        self.between = self.between or not self._inside

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if _looks(func, args):
            self.note()
        return func(*args, **(kwargs or {}))


def _looks(func: Any, args: Any) -> bool:
    if func.overloadpacket is torch.ops.aten.index:  # an index of whole numbers says its shape; a mask does not
        return any(each is not None and each.dtype in (torch.bool, torch.uint8) for each in args[1])
    return torch.Tag.data_dependent_output in func.tags or torch.Tag.dynamic_output_shape in func.tags


def control_flow_of(workload: Workload) -> ControlFlow:
    """Follow two samples through model and loss. The model is on the CPU and is left as it was, without gradients."""
    model = workload.model
    parameters = dict(model.named_parameters())
    fake = _fake_mode(parameters.values())
    looks = Looks(model)
    unused: tuple[str, ...] = ()
    reentrant = False
    with _left_alone(model) as drew:
        batch = workload.batch_of(spread_over(workload.dataset, NUM_SAMPLES))
        if not any(each.dtype in HALVES for each in parameters.values()):
            # Weights were raised for a proof in fp32, or autocast is to come: samples of 16 bits would not fit.
            batch = batch.mapped(raised)
        drew.clear()
        try:
            with fake or nullcontext(), looks:
                states = {name: _copy(each, fake) for name, each in parameters.items()}
                buffers = {name: _copy(each, fake) for name, each in model.named_buffers()}
                outputs = torch.func.functional_call(model, {**states, **buffers}, batch.args, batch.kwargs)
                unused, reentrant = _unused(_loss_of(workload, outputs, batch), states)
        except _LOOKS:
            looks.note()
        finally:
            looks.close()
        branches = drew.any()
    return ControlFlow(
        unused=unused,
        looks_at_values=looks.any or branches,
        looks_between_blocks=looks.between or branches,
        reentrant=reentrant,
    )


def _fake_mode(parameters: Iterable[torch.Tensor]) -> FakeTensorMode | None:
    """One for a large model; none for a small one, or for one that has no values already, which is in its own mode."""
    own = list(parameters)
    if any(isinstance(each, FakeTensor) for each in own):
        return None
    large = sum(each.numel() * each.element_size() for each in own) > LARGEST_WITH_VALUES_BYTES
    return FakeTensorMode(allow_non_fake_inputs=True) if large else None


def _loss_of(workload: Workload, outputs: Any, batch: Batch) -> torch.Tensor:
    return own_loss(outputs) if workload.loss is None else workload.loss(outputs, batch.targets)


def _copy(tensor: torch.Tensor, fake: FakeTensorMode | None) -> torch.Tensor:
    """Another leaf of the same values, or of none."""
    if fake is not None:
        return fake.from_tensor(tensor)
    return tensor.detach().clone().requires_grad_(tensor.requires_grad)


def _unused(loss: torch.Tensor, parameters: dict[str, torch.Tensor]) -> tuple[tuple[str, ...], bool]:
    """Names of the trainable parameters that `loss` does not depend on, and whether a part is reentrant."""
    leaves, reentrant = _leaves(loss)
    idle = tuple(name for name, each in parameters.items() if each.requires_grad and id(each) not in leaves)
    # What a reentrant part uses does not stand in the graph.
    return (() if reentrant else idle), reentrant


def _leaves(loss: torch.Tensor) -> tuple[set[int], bool]:
    """Ids of the tensors that the graph behind `loss` ends in."""
    seen: set[Any] = set()
    leaves: set[int] = set()
    reentrant, waiting = False, [loss.grad_fn]
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        reentrant = reentrant or node.name() == "CheckpointFunctionBackward"
        if (leaf := getattr(node, "variable", None)) is not None:
            leaves.add(id(leaf))
        waiting += [each for each, _ in node.next_functions]
    return leaves, reentrant


class _Drew:
    """Whether numbers were drawn from `random` or NumPy, which a model draws for nothing but its branches."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Look from here on."""
        self._before = self._states()

    def any(self) -> bool:
        """Whether numbers were drawn since."""
        return self._before != self._states()

    def _states(self) -> tuple[Any, ...]:
        name, keys, position, *_ = np.random.get_state()
        return random.getstate(), name, np.asarray(keys).tobytes(), position


@contextmanager
def _left_alone(model: nn.Module) -> Iterator[_Drew]:
    """Generators, and the numbers and words that modules hold (counters), are afterwards as before."""
    held = [(each, {k: v for k, v in vars(each).items() if isinstance(v, _PLAIN)}) for each in model.modules()]
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield _Drew()
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])
        for module, values in held:
            vars(module).update(values)
