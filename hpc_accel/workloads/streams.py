"""What the user's code does to this process's standard streams ends with it, if it closed them."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def open_streams() -> Iterator[None]:
    """Afterwards standard output and error can be written to again, where they could before.

    A stream that the code put in their place stays: only what was closed, or set to None, comes back.
    """
    kept: list[tuple[str, int, int]] = []
    for name, number in (("stdout", 1), ("stderr", 2)):
        with contextlib.suppress(OSError):  # closed before
            kept.append((name, number, os.dup(number)))
    try:
        yield
    finally:
        for name, number, copy in kept:
            if not _is_open(number):
                os.dup2(copy, number)
            os.close(copy)
            stream = getattr(sys, name)
            if stream is None or stream.closed:
                setattr(sys, name, os.fdopen(number, "w", closefd=False))


def _is_open(number: int) -> bool:
    with contextlib.suppress(OSError):
        os.fstat(number)
        return True
    return False
