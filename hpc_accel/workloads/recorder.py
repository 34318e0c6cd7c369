"""Watches what a build() does to tensors on the meta device, and keeps it from going other ways because of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from hpc_accel.workloads.tape import BLANK, Tape, is_on_meta, tensors_in, written

_IS_META = torch.Tensor.is_meta.__get__  # type: ignore[attr-defined]


class Recorder(TorchDispatchMode):
    """Notes on `tape` what is done to meta tensors; and knows which other tensors have no values yet."""

    def __init__(self, tape: Tape) -> None:
        super().__init__()
        self.tape = tape
        self._blank: dict[int, StorageWeakRef] = {}

    def is_blank(self, tensor: torch.Tensor) -> bool:
        """Whether nothing was written into it since it was made."""
        key = _key(tensor)
        return key is not None and key in self._blank

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        given, made = tensors_in((args, kwargs)), tensors_in(result)
        if any(is_on_meta(each) for each in (*given, *made)):
            self.tape.note(func, args, kwargs, result)
            return result
        for each in written(func, args, kwargs):
            self._blank.pop(_key(each) or 0, None)
        old = {_key(each) for each in given}
        for each in made:
            key = _key(each)
            if key is None or key in old:
                continue
            if func.overloadpacket in BLANK:
                # The reference keeps the address from becoming another storage's.
                self._blank[key] = StorageWeakRef(each.untyped_storage())
            else:
                self._blank.pop(key, None)
        return result


@contextmanager
def whole_calls(tape: Tape) -> Iterator[None]:
    """Inside, the functions of torch.nn.init that look at values are noted as a whole."""
    original = torch.nn.init._no_grad_trunc_normal_

    def noted(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if tensor.device.type != "meta":
            return original(tensor, *args, **kwargs)
        tape.note(original, (tensor, *args), kwargs, tensor)
        return tensor

    torch.nn.init._no_grad_trunc_normal_ = noted
    try:
        yield
    finally:
        torch.nn.init._no_grad_trunc_normal_ = original


class Untold(TorchFunctionMode):
    """Inside, no tensor says that it has no values: some functions of torch.nn.init would do nothing then."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return False if func == _IS_META else func(*args, **(kwargs or {}))


def _key(tensor: torch.Tensor) -> int | None:
    try:
        return int(tensor.untyped_storage()._cdata)
    except (NotImplementedError, RuntimeError):  # sparse tensors have none
        return None
