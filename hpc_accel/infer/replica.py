"""The ranks that compute one batch together: their leader receives requests, the others follow what it announces.

    leader     count, inputs --> ranks of the first stage --> ... --> last stage --> answer back to the leader
    followers  wait for a count; 0 ends the window

The leader is the first stage's first rank. An answer counts when the leader has it, on the host.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch

from hpc_accel.infer.model import InferenceModel, Tensors
from hpc_accel.workloads.nested import cut, moved

T = TypeVar("T")
_TAG = 11


class Replica:
    """One replica of the model; every method is collective over its ranks unless it says otherwise."""

    def __init__(self, world: Any, model: InferenceModel, sample: Tensors) -> None:
        """`sample` is one sample of each input, by which followers know shapes. Collective over `world`."""
        place = model.place
        layout = place.layout
        self.model = model
        self.comm = world.Split(place.dp_rank, place.pp_rank * layout.tp + place.tp_rank)
        self.stage = self.comm.Split(place.pp_rank, place.tp_rank)
        self.is_leader = self.comm.Get_rank() == 0
        self._answers = (layout.pp - 1) * layout.tp
        """The rank of `comm` that has the answer."""
        self._header = np.zeros(1, dtype=np.int64)
        self._shape: tuple[int, ...] | None = None
        self._buffers = tuple(torch.empty(model.batch_size, *each.shape, dtype=each.dtype) for each in sample)

    def drive(self, work: Callable[[], T]) -> T | None:
        """The leader does `work`, which calls `run`; the others compute with it until it is done. None for them."""
        if not self.is_leader:
            while self._announce(0):
                self._compute(self._buffers)
            return None
        result = work()
        self._announce(0)
        return result

    def run(self, inputs: Tensors) -> Any:
        """Leader: the answers to at most `batch_size` samples, on the host."""
        self._announce(len(inputs[0]))
        answer = self._compute(inputs)
        assert answer is not None
        return answer

    def _announce(self, count: int) -> int:
        if self.comm.Get_size() == 1:
            return 0
        self._header[0] = count
        self.comm.Bcast(self._header, root=0)
        return int(self._header[0])

    def _compute(self, inputs: Tensors) -> Any:
        count = int(self._header[0]) if self.comm.Get_size() > 1 else len(inputs[0])
        given: Tensors = ()
        if self.model.place.is_first_stage:
            given = tuple(each[:count].contiguous() for each in inputs)
            if self.stage.Get_size() > 1:
                for each in given:
                    self.stage.Bcast(each.numpy(), root=0)
        outputs = self.model(given)
        if self._answers == 0:
            return self._on_host(outputs, count) if outputs is not None and self.is_leader else None
        return self._sent(outputs[:count] if outputs is not None else None, count)

    def _on_host(self, outputs: Any, count: int) -> Any:
        size = self.model.batch_size if self.model.fixed_size else count
        return moved(cut(outputs, slice(count), size, lists=True), torch.device("cpu"))

    def _sent(self, outputs: torch.Tensor | None, count: int) -> torch.Tensor | None:
        """The answer from the last stage to the leader, in fp32."""
        rank = self.comm.Get_rank()
        if rank == self._answers and outputs is not None:
            host = outputs.float().cpu().contiguous()
            if self._shape is None:
                self._shape = tuple(host.shape[1:])
                self.comm.send(self._shape, dest=0, tag=_TAG)
            self.comm.Send(host.numpy(), dest=0, tag=_TAG)
        if not self.is_leader:
            return None
        if self._shape is None:
            self._shape = self.comm.recv(source=self._answers, tag=_TAG)
        answer = torch.empty(count, *self._shape)
        self.comm.Recv(answer.numpy(), source=self._answers, tag=_TAG)
        return answer

    def close(self) -> None:
        """Free the communicators."""
        self.stage.Free()
        self.comm.Free()
