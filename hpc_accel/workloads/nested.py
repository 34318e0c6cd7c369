"""Nested values: tensors in tuples, lists, dicts and the outputs of Hugging Face, in any depth, treated as one.

Whatever handles a batch, targets or outputs does it through this file. A value is cut along the samples it holds:
tensors along their first dimension, and lists, where `lists` says that they hold one element per sample.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch.utils import _pytree as pytree

from hpc_accel.errors import ConfigError

Part = slice | torch.Tensor
"""Which samples: a range, or indices [n]."""
_WHOLE = (str, bytes, int, float, bool, complex, type(None))
"""Leaves that hold nothing of single samples."""


HALVES = (torch.float16, torch.bfloat16)


def raised(tensor: torch.Tensor) -> torch.Tensor:
    """In fp32 if it is of 16 bits."""
    return tensor.float() if tensor.dtype in HALVES else tensor


def all_raised(value: Any) -> Any:
    """With all tensors of 16 bits in fp32, as a loss gets its outputs; `value` itself where it holds none."""
    return mapped(raised, value) if any(each.dtype in HALVES for each in tensors_of(value)) else value


def mapped(function: Callable[[torch.Tensor], Any], value: Any) -> Any:
    """`value` with each tensor replaced by what `function` makes of it; one that stands there twice, once."""
    seen: dict[int, Any] = {}

    def once(tensor: torch.Tensor) -> Any:
        if id(tensor) not in seen:
            seen[id(tensor)] = function(tensor)
        return seen[id(tensor)]

    return pytree.tree_map_only(torch.Tensor, once, value)


def moved(value: Any, device: torch.device, *, non_blocking: bool = False) -> Any:
    """`value` with its tensors on `device`, and so all else that has a method `to`."""

    def move(leaf: Any) -> Any:
        if isinstance(leaf, torch.Tensor):
            return leaf.to(device, non_blocking=non_blocking)
        return leaf.to(device) if callable(getattr(leaf, "to", None)) else leaf

    return pytree.tree_map(move, value)


def tensors_of(value: Any) -> list[torch.Tensor]:
    """All tensors inside, in order."""
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, torch.Tensor)]


def floats_of(value: Any) -> list[torch.Tensor]:
    """All tensors inside of floating type, in order."""
    return [each for each in tensors_of(value) if each.is_floating_point()]


def flattened(value: Any) -> tuple[tuple[torch.Tensor, ...], Callable[[Sequence[torch.Tensor]], Any]]:
    """The tensors inside, and what puts others into their places. Raises ValueError where a leaf is no tensor."""
    leaves, structure = pytree.tree_flatten(value)
    other = next((leaf for leaf in leaves if not isinstance(leaf, torch.Tensor)), None)
    if other is not None or not leaves:
        raise ValueError(f"holds {type(other).__name__}" if leaves else "holds no tensor")
    return tuple(leaves), partial(_unflattened, structure)


def tensors_alone(value: Any) -> torch.Tensor | tuple[torch.Tensor, ...]:
    """A tensor as it is; of anything else the tensors inside. Raises ValueError as `flattened` does."""
    return value if isinstance(value, torch.Tensor) else flattened(value)[0]


def in_their_places(value: Any) -> Callable[[Any], Any]:
    """What puts other tensors into the places of those that `tensors_alone` took out of `value`."""
    return (lambda tensor: tensor) if isinstance(value, torch.Tensor) else flattened(value)[1]


def _unflattened(structure: Any, leaves: Sequence[torch.Tensor]) -> Any:
    return pytree.tree_unflatten(list(leaves), structure)


def num_bytes(value: Any) -> int:
    """Of all tensors inside."""
    return sum(each.numel() * each.element_size() for each in tensors_of(value))


def shapes_of(value: Any) -> list[list[int]]:
    """Of all leaves, in order; a leaf that is no tensor has the shape []."""
    return [list(getattr(leaf, "shape", ())) for leaf in pytree.tree_leaves(value)]


def is_cuttable(value: Any, count: int, *, lists: bool = False) -> bool:
    """Whether `value` holds `count` samples along each of its tensors and lists, and so can be cut between them."""
    leaves = pytree.tree_leaves(value, is_leaf=lambda each: _is_by_sample(each, count, lists=lists))
    held = [each for each in leaves if not isinstance(each, _WHOLE)]
    return bool(held) and all(isinstance(each, list) or _leads(each, count) for each in held)


def cut(value: Any, part: Part, count: int, *, lists: bool = False) -> Any:
    """The samples `part` of a value that holds `count`. What does not belong to single samples stays whole.

    Raises ConfigError for an object of which that cannot be known.
    """

    def of(leaf: Any) -> Any:
        if isinstance(leaf, list):
            return leaf[part] if isinstance(part, slice) else [leaf[index] for index in part.tolist()]
        if isinstance(leaf, torch.Tensor):
            return (
                leaf[part.to(leaf.device) if isinstance(part, torch.Tensor) else part] if _leads(leaf, count) else leaf
            )
        if isinstance(leaf, _WHOLE):
            return leaf
        raise ConfigError(
            f"a batch that holds {type(leaf).__name__}",
            "what is cut by sample is made of tensors, tuples, lists and dicts",
            "let collate return tensors in tuples, lists or dicts; with last_batch: drop training cuts nothing",
        )

    return pytree.tree_map(of, value, is_leaf=lambda each: _is_by_sample(each, count, lists=lists))


def joined(values: Sequence[Any], counts: Sequence[int]) -> Any:
    """Values of several batches as one, sample after sample; the inverse of cutting. Single numbers are stacked.

    Raises ValueError where the batches are of other structure or shapes, padded to other lengths for example.
    """
    columns, structures = [], []
    for value, count in zip(values, counts, strict=True):
        leaves, structure = pytree.tree_flatten(value, is_leaf=lambda each, n=count: _is_by_sample(each, n, lists=True))  # type: ignore[misc]
        columns.append(leaves)
        structures.append(structure)
    if any(each != structures[0] for each in structures):
        raise ValueError("batches of different structure cannot be joined")
    return pytree.tree_unflatten([_joined(column) for column in zip(*columns, strict=True)], structures[0])


def _joined(leaves: Sequence[Any]) -> Any:
    first = leaves[0]
    if isinstance(first, list):
        return [each for leaf in leaves for each in leaf]
    if not isinstance(first, torch.Tensor):
        return first
    try:
        return torch.cat(tuple(leaves)) if first.dim() else torch.stack(tuple(leaves))
    except RuntimeError as error:
        shapes = sorted({tuple(each.shape[1:]) for each in leaves})
        raise ValueError(f"batches of different shapes {shapes} cannot be joined") from error


def _leads(leaf: Any, count: int) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.dim() > 0 and leaf.shape[0] == count


def _is_by_sample(value: Any, count: int, *, lists: bool) -> bool:
    """Whether `value` is a list with one element per sample: such are lists of texts in any case."""
    if not isinstance(value, list) or len(value) != count:
        return False
    return lists or (bool(value) and all(isinstance(each, str | bytes) for each in value))
