"""PowerSGD (Vogels et al., arXiv 1905.13727) by torch's hook, with a memory by parameter that a checkpoint can hold.

Torch keeps what compression left out of the last gradients (the error feedback) and the factors that the next step
begins with by number of DDP's bucket. DDP makes its buckets anew after its first step, so after a restart the same
number means other parameters. Here the memory follows the parameters from bucket to bucket.
"""
# No postponed annotations: DistributedDataParallel compares the hook's with the types themselves.

from collections import defaultdict
from collections.abc import Iterator, Mapping
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook
from torch.nn.parallel import DistributedDataParallel

from hpc_accel.errors import ConfigError

POWERSGD_RANK = 4
POWERSGD_START = 2
"""Steps with whole gradients before PowerSGD begins; its error feedback wants at least 2."""
_feedbacks: WeakKeyDictionary[nn.Module, "ErrorFeedback"] = WeakKeyDictionary()
Memory = tuple[torch.Tensor, torch.Tensor | None]
"""Of a parameter: its error, in its shape, and its factor, (elements / rows, rank); None where it is sent whole."""


class ErrorFeedback:
    """What PowerSGD remembers of the parameters of one DistributedDataParallel module."""

    def __init__(self, wrapped: DistributedDataParallel, group: dist.ProcessGroup | None) -> None:
        """Becomes the module's hook. Raises ConfigError for a parameter that is a scalar."""
        self._state = powerSGD_hook.PowerSGDState(
            process_group=group, matrix_approximation_rank=POWERSGD_RANK, start_powerSGD_iter=POWERSGD_START
        )
        trained = {name: each for name, each in wrapped.module.named_parameters() if each.requires_grad}
        if scalars := [name for name, each in trained.items() if each.dim() == 0]:
            raise ConfigError(
                f"compression: powersgd, but {scalars[0]} is a scalar",
                "torch's PowerSGD takes parameters of one dimension and more",
                "give it shape (1,), or use compression: bf16",
            )
        self.parameters = list(trained.values())
        self._number_of = {id(each): number for number, each in enumerate(self.parameters)}
        self._buckets: dict[int, list[torch.Tensor]] = {}
        """The parameters that torch's memory of this bucket is of."""
        self._prepared_at: dict[int, int] = {}
        self._collected_at = -1
        self._kept: dict[int, Memory] = {}
        """Of parameters that are in no bucket now, by `id`."""
        _feedbacks[wrapped] = self
        wrapped.register_comm_hook(self, _compress)

    @property
    def num_steps(self) -> int:
        """Steps that gradients were averaged in; compression begins after POWERSGD_START."""
        return int(self._state.iter)

    def by_parameter(self) -> Iterator[tuple[torch.Tensor, Memory]]:
        """What is remembered between two steps. The tensors are those in use."""
        for index, parameters in self._buckets.items():
            yield from self._split(index, parameters)

    def restore(self, num_steps: int, memory: Mapping[int, Memory]) -> None:
        """Go on after `num_steps` steps with what `by_parameter` gave then, by `id` of the parameter."""
        self._state.iter = num_steps
        self._kept = dict(memory)

    def prepare(self, bucket: dist.GradBucket) -> None:
        """Before torch's hook: give it the memory of this bucket's parameters, under the bucket's number."""
        state, index, parameters = self._state, bucket.index(), bucket.parameters()
        if state.iter < state.start_powerSGD_iter:
            return
        known = self._buckets.get(index)
        if known is None or list(map(id, known)) != list(map(id, parameters)):
            self._collect()
            self._fill(index, parameters, bucket.buffer())
        self._prepared_at[index] = state.iter

    def _collect(self) -> None:
        """Take the memory out of all buckets of the last step, once a step: others have been filled since."""
        now = self._state.iter
        if self._collected_at == now:
            return
        self._collected_at = now
        for index in [each for each in self._buckets if self._prepared_at[each] != now]:
            for parameter, memory in self._split(index, self._buckets.pop(index)):
                self._kept[id(parameter)] = memory
            self._state.error_dict.pop(index)

    def _fill(self, index: int, parameters: list[torch.Tensor], buffer: torch.Tensor) -> None:
        state = self._state
        memory = {
            id(each): self._kept.pop(id(each)) if id(each) in self._kept else self._new(each, buffer)
            for each in parameters
        }
        state.error_dict[index] = torch.cat([memory[id(each)][0].to(buffer).reshape(-1) for each in parameters])
        factors = [memory[id(each)][1] for each in _compressed(parameters)]
        flat = [each.to(buffer).reshape(-1) for each in factors if each is not None]
        state.q_memory_dict[index] = torch.cat(flat) if flat else buffer.new_empty(0)
        # Torch computes the other factor anew; it wants the room alone.
        rows = sum(each.shape[0] * _rank(each) for each in _compressed(parameters))
        state.p_memory_dict[index] = buffer.new_empty(rows)
        self._buckets[index] = parameters

    def _new(self, parameter: torch.Tensor, buffer: torch.Tensor) -> Memory:
        """No error yet; a factor that is the same on all replicas, however the parameters share buckets."""
        error = torch.zeros(parameter.shape, dtype=buffer.dtype)
        if not _is_compressed(parameter):
            return error, None
        generator = torch.Generator().manual_seed(self._number_of[id(parameter)])
        shape = (parameter[0].numel(), _rank(parameter))
        return error, torch.randn(shape, generator=generator).to(buffer.dtype)

    def _split(self, index: int, parameters: list[torch.Tensor]) -> Iterator[tuple[torch.Tensor, Memory]]:
        state = self._state
        sizes = [each.numel() for each in parameters]
        errors = dict(zip(map(id, parameters), state.error_dict[index].split(sizes), strict=True))
        compressed = _compressed(parameters)
        shapes = [(each[0].numel(), _rank(each)) for each in compressed]
        flat = state.q_memory_dict[index].split([rows * rank for rows, rank in shapes])
        factors = {id(each): own.view(shape) for each, own, shape in zip(compressed, flat, shapes, strict=True)}
        for each in parameters:
            yield each, (errors[id(each)].view(each.shape), factors.get(id(each)))


def _compress(feedback: ErrorFeedback, bucket: dist.GradBucket) -> torch.futures.Future[torch.Tensor]:
    feedback.prepare(bucket)
    future: torch.futures.Future[torch.Tensor] = powerSGD_hook.powerSGD_hook(feedback._state, bucket)
    # Torch starts a bucket's second and third all-reduce when the one before has ended, in another thread. With
    # several buckets under way each rank would start them in an order of its own, and sums would be of different ones.
    future.wait()
    return future


def feedback_of(module: nn.Module) -> ErrorFeedback | None:
    """The memory of a module that an ErrorFeedback was made for."""
    return _feedbacks.get(module)


def _rank(parameter: torch.Tensor) -> int:
    return min(parameter.shape[0], parameter[0].numel(), POWERSGD_RANK)


def _is_compressed(parameter: torch.Tensor) -> bool:
    """Torch's rule, with its default: the two factors have at most half of the elements."""
    rows, columns = parameter.shape[0], parameter[0].numel()
    return (rows + columns) * _rank(parameter) * 2 < rows * columns


def _compressed(parameters: list[torch.Tensor]) -> list[torch.Tensor]:
    """Those that are compressed, in torch's order: by shape, and shapes as they first come."""
    by_shape: defaultdict[tuple[int, int], list[torch.Tensor]] = defaultdict(list)
    for each in parameters:
        if _is_compressed(each):
            by_shape[each.shape[0], each[0].numel()].append(each)
    return [each for alike in by_shape.values() for each in alike]
