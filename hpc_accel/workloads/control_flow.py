"""Which parameters a step may leave idle: found by watching two samples, and never concluded from them alone.

A model whose branches follow from shapes uses the same parameters for every sample, so two samples show which stay
idle. One that looks at values (a mixture of experts, layers dropped at random) may use others for others: that it looks
is seen, and which parameters it uses is left open. Whether its blocks all run is tried on further samples.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
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
from hpc_accel.workloads.deferred import stand_in
from hpc_accel.workloads.nested import HALVES, all_raised, raised
from hpc_accel.workloads.stream import spread_over
from hpc_accel.workloads.workload import Workload

NUM_SAMPLES = 2
NUM_FURTHER = 6
"""Further samples that a model which looks at values is followed on, each alone."""
LARGEST_WITH_VALUES_BYTES = 100 * 10**6
"""Parameters up to which samples are computed; larger models are followed on tensors without values."""
_PLAIN = (int, float, str, type(None))
LOOKS = (DataDependentOutputException, DynamicOutputShapeException)
"""What tensors without values raise where a model looks at values."""


@dataclass(frozen=True, kw_only=True)
class ControlFlow:
    """What was seen of a model. `unused` parameters are trainable and the loss does not depend on them."""

    unused: tuple[str, ...] = ()
    looks_at_values: bool = False
    """So the parameters that a step uses may differ between steps and between ranks."""
    skips_blocks: bool = False
    """Whether some block ran for some samples only, or whether blocks run could not be followed."""
    varies: bool = False
    """Whether samples were seen to use different parameters."""
    reentrant: bool = False
    """Whether a part runs backward of its own (torch's checkpoint with use_reentrant=True)."""

    @property
    def may_idle(self) -> bool:
        """Whether a step may leave a trainable parameter without a gradient."""
        return self.looks_at_values or bool(self.unused)


class Looks(TorchDispatchMode):
    """Sees operations whose result's shape, or whose result in Python, follows from values; and which blocks run.

    `guess` is what Python is told of a tensor that has no values.
    """

    def __init__(self, model: nn.Module, guess: bool) -> None:
        super().__init__()
        self.any = False
        self.order: list[int] = []
        self.inside = 0
        self._guess = guess
        self._handles = []
        blocks = [block for _, block in blocks_of(model) if block is not model]
        self.num_blocks = len(blocks)
        for index, block in enumerate(blocks):
            self._handles.append(block.register_forward_pre_hook(partial(self._enter, index)))
            self._handles.append(block.register_forward_hook(self._leave))

    def close(self) -> None:
        """Leave the model as it was."""
        for handle in self._handles:
            handle.remove()

    def _enter(self, index: int, *_: Any) -> None:
        self.order.append(index)
        self.inside += 1

    def _leave(self, *_: Any) -> None:
        self.inside -= 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if _looks(func, args):
            self.any = True
            if func is torch.ops.aten._local_scalar_dense.default and isinstance(args[0], FakeTensor):
                return self._guess if args[0].dtype == torch.bool else int(self._guess)
        return func(*args, **(kwargs or {}))


def _looks(func: Any, args: Any) -> bool:
    if func.overloadpacket is torch.ops.aten.index:  # an index of whole numbers says its shape; a mask does not
        return any(each is not None and each.dtype in (torch.bool, torch.uint8) for each in args[1])
    return torch.Tag.data_dependent_output in func.tags or torch.Tag.dynamic_output_shape in func.tags


@dataclass(frozen=True, kw_only=True)
class _Pass:
    """What one pass showed. `unused` is None where it could not be followed to its end."""

    looks: bool
    unused: tuple[str, ...] | None
    reentrant: bool
    runs_all_blocks: bool


def control_flow_of(workload: Workload) -> ControlFlow:
    """Follow two samples through model and loss. The model is on the CPU and is left as it was, without gradients."""
    with _left_alone(workload.model):
        first = _follow(workload, spread_over(workload.dataset, NUM_SAMPLES))
        passes = [first]
        if first.looks:
            # Each twice: a norm over the batch wants two.
            spread = spread_over(workload.dataset, NUM_FURTHER)
            passes += [_follow(workload, (index, index), guess=False) for index in spread]
    return ControlFlow(
        unused=first.unused or (),
        looks_at_values=first.looks,
        skips_blocks=first.looks and not all(each.runs_all_blocks for each in passes),
        varies=len({each.unused for each in passes}) > 1,
        reentrant=first.reentrant,
    )


def _follow(workload: Workload, samples: Sequence[int], *, guess: bool = True) -> _Pass:
    model = workload.model
    batch = workload.batch_of(samples)
    parameters = dict(model.named_parameters())
    fake = _fake_mode(parameters.values())
    if not any(each.dtype in HALVES for each in parameters.values()):
        # Weights were raised for a proof in fp32, or autocast is to come: samples of 16 bits would not fit.
        batch = batch.mapped(raised)
    looks, drew = Looks(model, guess), _Drew()
    unused: tuple[str, ...] | None = None
    reentrant = False
    try:
        with fake or nullcontext(), looks:
            states = {name: _copy(each, fake) for name, each in parameters.items()}
            buffers = {name: _copy(each, fake) for name, each in model.named_buffers()}
            outputs = torch.func.functional_call(model, {**states, **buffers}, batch.args, batch.kwargs)
            unused, reentrant = _unused(_loss_of(workload, outputs, batch), states)
    except LOOKS:
        looks.any = True
    finally:
        looks.close()
    # What ended inside a block ran all before it.
    last = looks.num_blocks if unused is not None else len(looks.order)
    runs_all = looks.order == list(range(last)) and (unused is not None or looks.inside > 0)
    return _Pass(looks=looks.any or drew.any(), unused=unused, reentrant=reentrant, runs_all_blocks=runs_all)


def _fake_mode(parameters: Iterable[torch.Tensor]) -> FakeTensorMode | None:
    """One for a large model; none for a small one, or for one that has no values already, which is in its own mode."""
    own = list(parameters)
    if any(isinstance(each, FakeTensor) for each in own):
        return None
    large = (
        any(each.is_meta for each in own)
        or sum(each.numel() * each.element_size() for each in own) > LARGEST_WITH_VALUES_BYTES
    )
    return FakeTensorMode(allow_non_fake_inputs=True) if large else None


def _loss_of(workload: Workload, outputs: Any, batch: Batch) -> torch.Tensor:
    return own_loss(outputs) if workload.loss is None else workload.loss(all_raised(outputs), batch.targets)


def _copy(tensor: torch.Tensor, fake: FakeTensorMode | None) -> torch.Tensor:
    """Another leaf of the same values, or of none."""
    if fake is not None:
        return stand_in(tensor).requires_grad_(tensor.requires_grad) if tensor.is_meta else fake.from_tensor(tensor)
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
        self._before = self._states()

    def any(self) -> bool:
        """Whether numbers were drawn since."""
        return self._before != self._states()

    def _states(self) -> tuple[Any, ...]:
        name, keys, position, *_ = np.random.get_state()
        return random.getstate(), name, np.asarray(keys).tobytes(), position


@contextmanager
def _left_alone(model: nn.Module) -> Iterator[None]:
    """Generators, and the numbers and words that modules hold (counters), are afterwards as before."""
    held = [(each, {k: v for k, v in vars(each).items() if isinstance(v, _PLAIN)}) for each in model.modules()]
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])
        for module, values in held:
            vars(module).update(values)
