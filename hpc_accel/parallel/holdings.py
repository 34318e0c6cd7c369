"""What a rank holds of the whole model's state: every parameter and buffer, by its name there, and which part of it.

A checkpoint is written and read by this mapping, so that any layout finds what it needs in the files of any other.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import torch

from hpc_accel.parallel.apply import ParallelModel
from hpc_accel.parallel.pieces import Piece, pieces_of_parameter
from hpc_accel.parallel.ties import plain

AGAIN = re.compile(r"@\d+(?=\.|$)")


class Holdings:
    """The pieces of `model`'s state that are here. A tensor with several names has the first that the model lists.

    `by_key` has them by stage and key of that stage's `state_dict`; `by_parameter` by `id` of the parameter.
    """

    def __init__(self, model: ParallelModel) -> None:
        self.by_key: dict[tuple[int, str], list[Piece]] = {}
        self.by_parameter: dict[int, list[Piece]] = {}
        for stage, module in model.modules.items():
            parameters = dict(module.named_parameters(remove_duplicate=False))
            for key, value in module.state_dict(keep_vars=True).items():
                if torch.is_tensor(value) and (name := _first_use(plain(key))) in model.shapes:
                    self.by_key[stage, key] = self._pieces(model, name, value, key in parameters)
            for key, parameter in parameters.items():
                self.by_parameter[id(parameter)] = self._pieces(model, _first_use(plain(key)), parameter, True)

    def __iter__(self) -> Iterator[Piece]:
        """Every piece once, however many keys it has."""
        seen: set[tuple[str, tuple[int, ...]]] = set()
        for pieces in self.by_key.values():
            for piece in pieces:
                if (piece.name, piece.start) not in seen:
                    seen.add((piece.name, piece.start))
                    yield piece

    @staticmethod
    def _pieces(model: ParallelModel, name: str, value: torch.Tensor, is_parameter: bool) -> list[Piece]:
        if is_parameter:
            name = model.names[name]
            return list(pieces_of_parameter(name, value, model.shapes[name], model.place, model.divided.get(name)))
        start = (0,) * value.dim()  # no layout divides buffers
        return [Piece(name=name, parameter=value, start=start, shape=tuple(value.shape), counts=False, is_cut=False)]


def _first_use(name: str) -> str:
    """A traced model lists a module that it calls again as `embedding@1`, with the parameters of `embedding`."""
    return AGAIN.sub("", name)


def is_whole(piece: Piece) -> bool:
    """Whether it is all of its tensor."""
    return tuple(piece.local(piece.parameter).shape) == piece.shape
