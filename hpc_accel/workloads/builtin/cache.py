"""Data that a workload makes once and every later run reads: safetensors files under the user's cache directory.

Several ranks of a node ask at the same time: the first takes a lock and makes the file, the others wait and read it.
The file is written whole or not at all, so a rank elsewhere that cannot see the lock at worst makes the same again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save

from hpc_accel.errors import CannotCreateError
from hpc_accel.files import write_atomically


def directory() -> Path:
    """`hpc_accel` under XDG_CACHE_HOME, which is ~/.cache unless set (XDG Base Directory Specification 0.8)."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "hpc_accel"


def cached(name: str, key: Mapping[str, Any], make: Callable[[], dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """What `make` returns, made once for each `key`: all that the content depends on, versions included.

    Raises CannotCreateError or InputOutputError when the cache cannot be written.
    """
    digest = hashlib.sha256(json.dumps(dict(key), sort_keys=True).encode()).hexdigest()[:16]
    path = directory() / f"{name}-{digest}.safetensors"
    if not path.is_file():
        with _locked(path.with_suffix(".lock")):
            if not path.is_file():
                write_atomically(path, save(make(), metadata={"key": json.dumps(dict(key), sort_keys=True)}))
    return load_file(path)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError as error:
        raise CannotCreateError(
            f"{path}: {error.strerror or error}",
            "what a workload makes once is kept in the cache directory",
            "make it writable, or set XDG_CACHE_HOME to a directory that is",
        ) from error
    with file:
        with contextlib.suppress(OSError):  # a file system without locks: each rank makes the same file
            fcntl.flock(file, fcntl.LOCK_EX)
        yield  # closing the file frees the lock
