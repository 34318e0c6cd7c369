"""Tensors read from the files of a checkpoint by name and part, however another layout cut them over its files.

`torch.distributed.checkpoint` can do so over safetensors as well, and is not used: its plans travel as pickles, a
missing middle slice leaves old values in place without an error, of two slices of one tensor on a rank it keeps the
last one only, and its failures are no `Exception`. Here what is asked for is covered exactly, or DataError is raised.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from hpc_accel.errors import DataError
from hpc_accel.train.tensor_file import DTYPES, name_and_start

Index = tuple[int, ...]
BY_NAME = {name: dtype for dtype, name in DTYPES.items()}
MOST_OPEN = 64
"""Files that stay mapped."""


class Slices:
    """The tensors of `files` in `directory`. `told` is what each file's header tells."""

    def __init__(self, directory: Path, files: Iterable[str]) -> None:
        self.directory = directory
        self.told: list[dict[str, Any]] = []
        self.shapes: dict[str, Index] = {}
        self.dtypes: dict[str, torch.dtype] = {}
        self._entries: dict[str, set[str]] = {}
        self._boxes: dict[str, dict[tuple[Index, Index], tuple[str, str]]] = {}
        self._open = lru_cache(MOST_OPEN)(lambda name: safe_open(directory / name, "pt"))
        for name in files:
            self._index(name)

    def _index(self, name: str) -> None:
        file: Any = self._open(name)
        told = json.loads((file.metadata() or {}).get("hpc_accel", "{}"))
        self.told.append(told)
        shapes: Mapping[str, Sequence[int]] = told.get("shapes", {})
        for key in file.keys():  # noqa: SIM118 - the library's file is no mapping
            size = tuple(file.get_slice(key).get_shape())
            whole, start = name_and_start(key)
            if start is None or whole not in shapes:
                whole, start = key, (0,) * len(size)
            self.shapes[whole] = tuple(shapes.get(whole, size))
            self.dtypes[whole] = BY_NAME[file.get_slice(key).get_dtype()]
            self._entries.setdefault(whole.rpartition("/")[0], set()).add(whole)
            self._boxes.setdefault(whole, {}).setdefault((start, size), (name, key))

    def entries(self, parameter: str) -> list[str]:
        """What the optimizer keeps of a parameter."""
        return sorted(self._entries.get(parameter, ()))

    def whole(self, name: str) -> torch.Tensor:
        """All of a tensor. Raises DataError as `part`."""
        shape = self.shapes.get(name, ())
        return self.part(name, (0,) * len(shape), shape)

    def part(self, name: str, start: Index, size: Index) -> torch.Tensor:
        """The elements of `name` from `start` on, on the host.

        Raises DataError where the files do not hold all of them.
        """
        boxes = self._boxes.get(name, {})
        if (start, size) in boxes:
            file, key = boxes[start, size]
            found: torch.Tensor = self._open(file).get_tensor(key)
            return found
        result: torch.Tensor | None = None
        num_elements = 0
        for (begin, count), (file, key) in boxes.items():
            low = [max(pair) for pair in zip(start, begin, strict=True)]
            high = [min(a + b, c + d) for a, b, c, d in zip(start, size, begin, count, strict=True)]
            if any(first >= last for first, last in zip(low, high, strict=True)):
                continue
            theirs = tuple(slice(a - c, b - c) for a, b, c in zip(low, high, begin, strict=True))
            ours = tuple(slice(a - c, b - c) for a, b, c in zip(low, high, start, strict=True))
            values = self._open(file).get_slice(key)[theirs]
            result = torch.empty(size, dtype=values.dtype) if result is None else result
            result[ours] = values
            num_elements += values.numel()
        if result is None or num_elements != result.numel():
            raise DataError(
                f"{self.directory.name}: {name} from {list(start)}, {list(size)} elements, is not there",
                "a run goes on from a checkpoint of the same model and optimizer",
                "use the workload and the optimizer that the checkpoint was saved with",
            )
        return result
