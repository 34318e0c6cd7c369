"""One attempt at a time in a run's directory: two would spoil each other's figures and checkpoints.

The lock is the kernel's (flock), so it is free again however its holder dies; `.lock` names the holder for people.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hpc_accel.errors import RetryableError

LOCK = ".lock"
NO_LOCKS = {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP}
"""What file systems without locks answer, for example Lustre mounted without flock."""


@contextmanager
def only_attempt(run_dir: Path, tell: Callable[[str], None]) -> Iterator[None]:
    """Hold the run's directory. Raises RetryableError, naming the holder, while another process holds it."""
    with (run_dir / LOCK).open("a+") as file:  # closed in the launcher's processes, so that they do not hold it
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RetryableError(
                f"{run_dir}: {_holder(file.name)} is at this run",
                "one attempt at a time writes into the directory of a run",
                "wait for its end, or stop that process first",
            ) from None
        except OSError as error:
            if error.errno not in NO_LOCKS:
                raise
            tell(f"{run_dir}: this file system has no locks, so a second start at the same time is not noticed")
        if _holder(file.name):
            tell(f"{_holder(file.name)} ended without a word; this attempt takes its place")
        _write(file.name, f"process {os.getpid()} on {socket.gethostname()}, since {time.strftime('%F %T')},")
        try:
            yield
        finally:
            _write(file.name, "")


def _holder(path: str) -> str:
    return Path(path).read_text(errors="replace")[:300].strip()


def _write(path: str, text: str) -> None:
    """In place: a renamed file would be another lock."""
    with Path(path).open("r+") as file:
        file.truncate()
        file.write(text)
