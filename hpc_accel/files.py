"""Writing a file whole or not at all: into a `.part` file of this process, forced to disk, renamed over the target.

A job can be killed at any time, can run twice at the same time, and can meet a full disk; the old file stays until the
new one is complete. `read_object` reads JSON that may be missing or broken, `end_of` the end of a log.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from hpc_accel.errors import CannotCreateError, InputOutputError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replace `path`; its directory is made when it is missing. Raises what `atomic_file` raises."""
    with atomic_file(path) as file:
        file.write(content if isinstance(content, bytes) else content.encode("utf-8", "replace"))


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write into, which replaces `path` when the block ends without an error.

    Raises InputOutputError when the disk is full or broken, CannotCreateError when writing is not allowed there.
    """
    # The job id keeps two tries of one job apart, the process id two processes of one job.
    part = path.with_name(f"{path.name}.part.{os.environ.get('SLURM_JOB_ID', 'local')}.{os.getpid()}")
    with writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):  # the error on its way says why
                part.unlink(missing_ok=True)
            raise


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """While `path` is written whole or not at all, what the system refuses is said as value, rule, remedy.

    Raises InputOutputError when the disk is full or broken, CannotCreateError when writing is not allowed there.
    """
    try:
        yield
    except OSError as error:
        kind = InputOutputError if error.errno in NO_ROOM else CannotCreateError
        raise kind(
            f"{path}: {error.strerror or error}",
            "a file is written whole or not at all",
            f"make room in {path.parent}, or make it writable, and start again: what is done is kept",
        ) from error


def read_object(path: Path) -> dict[str, Any] | str:
    """The JSON object in a file, or what is wrong with the file. Never raises for what is in it."""
    try:
        content = json.loads(path.read_bytes().decode("utf-8", "replace"))
    except FileNotFoundError:
        return f"{path.name} is missing"
    except OSError as error:
        return f"{path.name} cannot be read: {error.strerror or error}"
    except (ValueError, RecursionError) as error:
        return f"{path.name} is not valid JSON ({error})"
    return content if isinstance(content, dict) else f"{path.name} holds no JSON object"


def end_of(path: Path, num_bytes: int, *, start: int = 0) -> str:
    """The last bytes of a text that grows, as far as they lie behind `start`; empty where there is none."""
    try:
        with path.open("rb") as file:
            file.seek(max(start, path.stat().st_size - num_bytes))
            return file.read().decode("utf-8", "replace")
    except OSError:
        return ""


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file; empty when the file is missing, broken, or holds something else."""
    content = read_object(path)
    return {} if isinstance(content, str) else content


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Replace `path` by `data`. Raises what `write_atomically` raises."""
    write_atomically(path, json.dumps(data, indent=2) + "\n")
