"""What fills parameters that lie on torch's meta device, noted when it was asked for and computed when it is wanted.

A tensor on the meta device has a shape and no values. While a `Recorder` (recorder.py) is active, every operation that
makes or writes such a tensor is noted: `torch.nn.init`, `reset_parameters`, `.data.fill_`, copies of loaded weights.
`Tape.value` computes one tensor by doing what was noted of it and of nothing else, so its value is the same whichever
others a rank computes. Random numbers are seeded from the study's seed, the parameter's name in the whole model and the
number of the draw.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map

from hpc_accel.errors import ConfigError

aten = torch.ops.aten
BLANK = (aten.empty, aten.empty_like, aten.new_empty, aten.empty_strided, aten.new_empty_strided, aten.empty_permuted)
"""Operations whose result has no values yet."""
COPIED_BYTES = 1 << 20
"""Values from outside up to this size are copied when they are noted; larger ones must not change afterwards."""


@dataclass(frozen=True)
class View:
    """Where a tensor lies: which storage, and what of it."""

    key: int
    size: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    dtype: torch.dtype


@dataclass(frozen=True)
class Held:
    """Values from outside that an operation read, and how often they had been written by then."""

    tensor: torch.Tensor
    version: int

    @property
    def value(self) -> torch.Tensor:
        """As they were. Raises ConfigError where they were overwritten since."""
        if self.tensor._version != self.version:
            raise ConfigError(
                f"meta: a tensor of {self.tensor.numel()} numbers changed after build() copied it into a parameter",
                "with meta: true a parameter gets its values when a rank needs them, not when build() runs",
                "copy from a tensor that stays as it is, or leave meta out",
            )
        return self.tensor


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One operation. `number` counts those that draw, by the storage they write."""

    func: Any
    args: Any
    kwargs: dict[str, Any]
    reads: frozenset[int]
    writes: tuple[View, ...]
    made: tuple[View | None, ...]
    number: int = 0

    @property
    def draws(self) -> bool:
        """Whether it makes random numbers."""
        return draws(self.func)

    @property
    def is_blank(self) -> bool:
        """Whether what it makes has no values yet."""
        return getattr(self.func, "overloadpacket", None) in BLANK

    @property
    def told(self) -> str:
        """Its name, alike in every process."""
        return str(getattr(self.func, "__qualname__", self.func))


@dataclass(kw_only=True)
class Tape:
    """All that was noted. `names` are those of the storages of parameters and buffers, set when the model is whole."""

    seed: int
    names: dict[int, str] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)
    _by_storage: dict[int, list[int]] = field(default_factory=dict)
    _alive: dict[int, torch.UntypedStorage] = field(default_factory=dict)
    """A storage's number is its address, which must not become another's."""
    _draws: dict[int, int] = field(default_factory=dict)

    def view(self, tensor: torch.Tensor) -> View:
        """Where a meta tensor lies."""
        storage = tensor.untyped_storage()
        self._alive.setdefault(storage._cdata, storage)
        return View(storage._cdata, tuple(tensor.shape), tensor.stride(), int(tensor.storage_offset()), tensor.dtype)

    def note(self, func: Any, args: Any, kwargs: dict[str, Any], result: Any) -> None:
        """Note an operation on meta tensors, unless its result is but another view of one."""
        reads = frozenset(self.view(each).key for each in tensors_in((args, kwargs)) if is_on_meta(each))
        if _is_operation(func):
            writes = tuple(self.view(each) for each in written(func, args, kwargs) if is_on_meta(each))
            made = tuple(self.view(each) if is_on_meta(each) else None for each in tensors_in(result))
        else:  # a function that writes into its first argument
            writes, made = (self.view(args[0]),), ()
        new = [each for each in made if each is not None and each.key not in reads]
        if not writes and not new:
            return
        targets = [each.key for each in (*writes, *new)]
        number = 0
        if draws(func):
            number = self._draws[targets[0]] = self._draws.get(targets[0], 0) + 1
        self._add(
            Entry(
                func=func,
                args=tree_map(self._kept, args),
                kwargs={key: tree_map(self._kept, value) for key, value in kwargs.items() if key != "generator"},
                reads=reads,
                writes=writes,
                made=made,
                number=number,
            ),
            targets,
        )

    def note_value(self, tensor: torch.Tensor, value: torch.Tensor) -> None:
        """A new meta tensor has these values."""
        view = self.view(tensor)
        first = value.detach().reshape(-1)[:1]
        source: Any = Held(value.detach(), value._version)
        if value.numel() > 1 and bool((value.detach() == first).all()):
            source = first.clone()  # zeros and ones need no room
            source = Held(source, source._version)
        args = (view, source)
        self._add(
            Entry(func=aten.copy_.default, args=args, kwargs={}, reads=frozenset(), writes=(view,), made=()), [view.key]
        )

    def set_by(self, function: Callable[..., None], tensor: torch.Tensor, *args: Any) -> None:
        """`function(tensor, *args)` sets all of a meta tensor, whatever was done to it so far."""
        view = self.view(tensor)
        self._by_storage.pop(view.key, None)
        self.note(function, (tensor, *args), {}, tensor)

    def _add(self, entry: Entry, targets: Iterable[int]) -> None:
        for key in set(targets):
            self._by_storage.setdefault(key, []).append(len(self.entries))
        self.entries.append(entry)

    def _kept(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        if is_on_meta(value):
            return self.view(value)
        value = value.detach()
        if value.numel() * value.element_size() <= COPIED_BYTES:
            value = value.clone()
        return Held(value, value._version)

    def steps(self, key: int) -> list[Entry]:
        """What must be done, in order, for the values of a storage."""
        found: set[int] = set()
        seen, waiting = {key}, [key]
        while waiting:
            for index in self._by_storage.get(waiting.pop(), ()):
                found.add(index)
                others = self.entries[index].reads - seen
                seen |= others
                waiting += others
        return [self.entries[index] for index in sorted(found)]

    def written_numbers(self, tensor: torch.Tensor) -> int:
        """How many numbers of `tensor`'s storage were set, at most; -1 where it was made of other tensors."""
        key = self.view(tensor).key
        parts: set[tuple[Any, ...]] = set()
        for entry in self.steps(key):
            makes = any(each is not None and each.key == key for each in entry.made)
            if makes and not entry.is_blank and not any(each.key == key for each in entry.writes):
                return -1
            parts |= {(each.size, each.stride, each.offset) for each in entry.writes if each.key == key}
        return sum(math.prod(size) for size, _, _ in parts)

    def recipe(self, tensor: torch.Tensor) -> tuple[str, list[torch.Tensor]]:
        """What fills `tensor`, in words that are alike in every process, and the values from outside it uses."""
        view, order, held = self.view(tensor), {}, []  # type: ignore[var-annotated]

        def told(value: Any) -> Any:
            if isinstance(value, View):
                place = order.setdefault(value.key, len(order))
                return place, value.size, value.stride, value.offset, str(value.dtype)
            if isinstance(value, Held):
                held.append(value.value)
                return "held"
            return str(value)

        steps = [
            (entry.told, self._name(entry), entry.number, tree_map(told, (entry.args, entry.kwargs, entry.made)))
            for entry in self.steps(view.key)
        ]
        return repr((self.seed, told(view), steps)), held

    def _name(self, entry: Entry) -> str:
        keys = [each.key for each in (*entry.writes, *entry.made) if each is not None]
        return next((self.names[key] for key in keys if key in self.names), "")

    def value(self, tensor: torch.Tensor) -> torch.Tensor:
        """The values of a meta tensor, on the CPU, in memory of its own. Raises ConfigError where some were never set.

        Generators are left as they were.
        """
        view, real = self.view(tensor), {}  # type: ignore[var-annotated]
        state = torch.default_generator.get_state()
        try:
            with torch.no_grad():
                for entry in self.steps(view.key):
                    self._do(entry, real)
        finally:
            torch.default_generator.set_state(state)
        if view.key not in real:
            real[view.key] = _blank(view, self._alive[view.key].nbytes())
        found = _placed(view, real[view.key])
        if found.untyped_storage().nbytes() > found.numel() * found.element_size():
            found = found.clone()
        if (found.is_floating_point() or found.is_complex()) and bool(torch.isnan(found).any()):
            raise never_set(self.names.get(view.key, "a tensor"))
        return found

    def _do(self, entry: Entry, real: dict[int, torch.UntypedStorage]) -> None:
        def given(value: Any) -> Any:
            if isinstance(value, View):
                if value.key not in real:
                    real[value.key] = _blank(value, self._alive[value.key].nbytes())
                return _placed(value, real[value.key])
            if isinstance(value, Held):
                return value.value
            return torch.device("cpu") if isinstance(value, torch.device) else value

        if entry.draws:
            torch.default_generator.manual_seed(_seed_of(self.seed, self._name(entry), entry.number))
        if entry.is_blank:
            made = [_placed(each, _blank(each, self._alive[each.key].nbytes())) for each in entry.made if each]
        else:
            made = tensors_in(entry.func(*tree_map(given, entry.args), **tree_map(given, entry.kwargs)))
        for view, result in zip(entry.made, made, strict=True) if entry.made else ():
            if view is not None and view.key not in real:
                real[view.key] = _as_laid_out(view, result).untyped_storage()


def never_set(name: str) -> ConfigError:
    """The refusal of a parameter without values."""
    return ConfigError(
        f"meta: {name} is made with torch.empty and never set, at least not all of it",
        "every parameter has values when build() is done: torch's own layers set theirs in reset_parameters",
        "set it after it became a parameter: torch.nn.init.normal_(self.weight, std=0.02) or self.weight.data.fill_(1)",
    )


def draws(func: Any) -> bool:
    """Whether it makes random numbers; of a function that is no operation nobody knows."""
    return not _is_operation(func) or torch.Tag.nondeterministic_seeded in func.tags


def _is_operation(func: Any) -> bool:
    return isinstance(func, torch._ops.OpOverload)


def written(func: Any, args: Any, kwargs: dict[str, Any]) -> Iterator[torch.Tensor]:
    """The tensors that an operation writes into."""
    for position, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            given = args[position] if position < len(args) else kwargs.get(argument.name)
            yield from tensors_in(given)


def is_on_meta(tensor: torch.Tensor) -> bool:
    """What is_meta says, except inside of `Untold`."""
    return tensor.device.type == "meta"


def tensors_in(values: Any) -> list[torch.Tensor]:
    """The tensors in nested `values`, in order."""
    return [each for each in tree_leaves(values) if isinstance(each, torch.Tensor)]


def _seed_of(seed: int, name: str, number: int) -> int:
    return int.from_bytes(hashlib.sha256(repr((seed, name, number)).encode()).digest()[:8], "big") >> 1


def _blank(view: View, num_bytes: int) -> torch.UntypedStorage:
    """Memory in which numbers that nobody sets can be told: NaN."""
    count = num_bytes // view.dtype.itemsize
    fill = float("nan") if view.dtype.is_floating_point or view.dtype.is_complex else 0
    return torch.full((count,), fill, dtype=view.dtype).untyped_storage()


def _placed(view: View, storage: torch.UntypedStorage) -> torch.Tensor:
    return torch.empty(0, dtype=view.dtype).set_(storage, view.offset, view.size, view.stride)


def _as_laid_out(view: View, result: torch.Tensor) -> torch.Tensor:
    """`result` in the order in memory that was noted: without values an operation may choose another."""
    own = result.storage_offset() == view.offset
    if own and result.stride() == view.stride:
        return result
    laid_out = torch.empty_strided(view.size, view.stride, dtype=view.dtype)
    return laid_out.copy_(result)
