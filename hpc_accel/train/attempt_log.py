"""What earlier attempts measured, in a file that only grows: a line for each step and each energy window of a rank.

    checkpoints/measured-rank-0.jsonl

A checkpoint says how much of the file is its own, and with which sha256. Who goes on from it cuts off what came later.
So a save writes what is new since the last one, however long the run is.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hpc_accel.train.rows import Rows


@dataclass(kw_only=True)
class Measured:
    """Rows of steps, and energy windows as a checkpoint keeps them."""

    rows: Sequence[dict[str, Any]] = field(default_factory=Rows)
    windows: list[dict[str, Any]] = field(default_factory=list)


class AttemptLog:
    """The file of one rank. `extent` is what of it counts: its length and sha256, how many rows and windows."""

    def __init__(self, directory: Path, rank: int) -> None:
        self.path = directory / f"measured-rank-{rank}.jsonl"
        self._sha256 = hashlib.sha256()
        self._bytes = self._rows = self._windows = 0

    @property
    def extent(self) -> dict[str, Any]:
        """For a checkpoint."""
        sha256 = self._sha256.hexdigest()
        return {"bytes": self._bytes, "sha256": sha256, "rows": self._rows, "windows": self._windows}

    def read(self, extent: dict[str, Any]) -> tuple[Measured, str]:
        """What a checkpoint's `extent` names, and why it is not there; later lines are forgotten.

        What cannot be read is lost, and the training that it measured is not: weights do not depend on it.
        """
        try:
            with self.path.open("rb") as file:
                content = file.read(extent["bytes"])
        except OSError as error:
            return Measured(), f"{self.path.name}: {error.strerror}"
        if hashlib.sha256(content).hexdigest() != extent["sha256"]:
            return Measured(), f"{self.path.name} is not what was written (size or sha256 differs)"
        rows, windows = Rows(), []
        for text in io.BytesIO(content):
            line = json.loads(text)
            if "row" in line:
                rows.append(line["row"])
            elif "window" in line:
                windows.append(line["window"])
        found = Measured(rows=rows, windows=windows)
        self._sha256, self._bytes = hashlib.sha256(content), len(content)
        self._rows, self._windows = len(found.rows), len(found.windows)
        return found, ""

    def new(self, rows: Sequence[dict[str, Any]], windows: Sequence[dict[str, Any]]) -> bytes:
        """The lines that are not in the file yet, of everything measured so far."""
        lines = [{"row": row} for row in rows[self._rows :]]
        lines += [{"window": window} for window in windows[self._windows :]]
        return b"".join(json.dumps(line).encode() + b"\n" for line in lines)

    def append(self, lines: bytes, num_rows: int, num_windows: int) -> None:
        """Put them behind what counts, on disk. Raises OSError, and then nothing more counts than before."""
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        with os.fdopen(descriptor, "r+b") as file:
            if file.seek(0, os.SEEK_END) < self._bytes:
                self._sha256, self._bytes, self._rows, self._windows = hashlib.sha256(), 0, 0, 0
                raise OSError(f"{self.path.name} is shorter than it was; the next save writes it anew")
            file.truncate(self._bytes)
            file.seek(self._bytes)
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())
        self._sha256.update(lines)
        self._bytes += len(lines)
        self._rows, self._windows = num_rows, num_windows
