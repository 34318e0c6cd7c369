"""Tensors written to one safetensors file, hashed and forced to disk on the way: their bytes are read once.

The format is eight bytes of length, a JSON header, and the tensors' bytes one after the other. The safetensors library
writes it too, but leaves hashing to a second reading and wants all tensors in memory at once; it is what reads the
files (slices.py). A slice of a tensor has its offsets behind its name, `layers.0.weight@128,0`; a whole one has its
name alone, so that a file of whole weights is what `load_state_dict` takes.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.complex64: "C64",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8",
    torch.uint64: "U64", torch.uint32: "U32", torch.uint16: "U16", torch.bool: "BOOL",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
}  # fmt: skip
CHUNK_BYTES = 4 * 2**20
"""Written and hashed at a time: both let other threads run meanwhile."""
MOST_WAITING = 64
"""Chunks that may wait to be hashed: the thread goes on while the disk is waited for."""


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Elements of the tensor `name` of `shape` in the whole model, from `start` on, as they are on this rank."""

    name: str
    start: tuple[int, ...]
    shape: tuple[int, ...]
    values: torch.Tensor

    @property
    def key(self) -> str:
        """What it is called in a file."""
        whole = tuple(self.values.shape) == self.shape
        return self.name if whole else f"{self.name}@{','.join(map(str, self.start))}"

    @property
    def num_bytes(self) -> int:
        """Of its values."""
        return self.values.numel() * self.values.element_size()


def name_and_start(key: str) -> tuple[str, tuple[int, ...] | None]:
    """What `Slice.key` was made of; no start where it is whole."""
    name, at, offsets = key.rpartition("@")
    if not at or not offsets.replace(",", "").isdigit():
        return key, None
    return name, tuple(map(int, offsets.split(",")))


def write_slices(
    path: Path, slices: Mapping[str, Slice], told: Mapping[str, Any], *, before_sync: Callable[[], None]
) -> dict[str, Any]:
    """Write `slices`, by their keys, and force them to disk. Size and sha256 of the file, for the manifest.

    `told` is kept in the header as JSON, beside the shapes of what is cut. Raises OSError, and ValueError for a type
    that the format does not have.
    """
    shapes = {each.name: each.shape for key, each in slices.items() if key != each.name}
    with HashedFile(path) as file:
        file.write(header(slices, {**told, "shapes": shapes}))
        for each in slices.values():
            for chunk in chunks(each.values):
                file.write(chunk)
        before_sync()
        return file.seal()


class HashedFile:
    """A new file whose bytes are hashed by a thread while they are written. They must not change meanwhile."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=0)
        self._sha256 = hashlib.sha256()
        self._hashing = ThreadPoolExecutor(1)
        self._waiting: list[Any] = []
        self._num_bytes = 0

    def __enter__(self) -> HashedFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._hashing.shutdown()
        self._file.close()

    def write(self, content: bytes | memoryview) -> None:
        """All of `content`."""
        self._waiting.append(self._hashing.submit(self._sha256.update, content))
        if len(self._waiting) > MOST_WAITING:
            self._waiting.pop(0).result()
        left = memoryview(content)
        while left:
            left = left[self._file.write(left) :]
        self._num_bytes += len(content)

    def seal(self) -> dict[str, Any]:
        """Force the file to disk; its size and digest."""
        os.fsync(self._file.fileno())
        self._hashing.shutdown()
        return {"bytes": self._num_bytes, "sha256": self._sha256.hexdigest()}


def header(slices: Mapping[str, Slice], told: Mapping[str, Any]) -> bytes:
    """What stands before the tensors: of `slices` by their keys only types and shapes count. Raises ValueError for a
    type that the format does not have.
    """
    entries: dict[str, Any] = {"__metadata__": {"format": "pt", "hpc_accel": json.dumps(told)}}
    end = 0
    for key, each in slices.items():
        if each.values.dtype not in DTYPES:
            raise ValueError(f"{key} is of {each.values.dtype}, which safetensors files do not have")
        begin, end = end, end + each.num_bytes
        entries[key] = {
            "dtype": DTYPES[each.values.dtype],
            "shape": list(each.values.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def chunks(values: torch.Tensor) -> Iterator[memoryview]:
    """The bytes of a tensor, copied to the host first where they are not there in their order."""
    flat = values.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    content = flat.numpy().data
    for begin in range(0, len(content), CHUNK_BYTES):
        yield content[begin : begin + CHUNK_BYTES]
