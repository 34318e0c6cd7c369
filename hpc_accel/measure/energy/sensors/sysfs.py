"""Reading small files the kernel makes up: the root may be elsewhere, and every failure has a reason and a remedy.

`HPC_ACCEL_SYSFS` names a directory to use instead of /sys (or one that holds a `sys`), so that every reader can
be tried against a tree of known power.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from hpc_accel.measure.energy.sensors.sensor import SensorError

MAX_BYTES = 4096


def root() -> Path:
    """Where the kernel's files are."""
    given = os.environ.get("HPC_ACCEL_SYSFS")
    if not given:
        return Path("/sys")
    inner = Path(given) / "sys"
    return inner if exists(inner) else Path(given)


def exists(path: Path) -> bool:
    """Whether the path can be seen; what lies in a closed directory cannot."""
    try:
        return path.exists()
    except OSError:
        return False


class KeptFile:
    """A file that is read again and again, and stays open: the kernel makes its content anew for each read from 0.

    Every system call hands Python's global lock to the training thread and back, so one is better than three.
    """

    __slots__ = ("_descriptor", "_path")

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1

    def read(self) -> str:
        """The content now, as `read_text`."""
        try:
            if self._descriptor < 0:
                self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            return os.pread(self._descriptor, MAX_BYTES, 0).decode("ascii", "replace").strip()
        except OSError as error:
            self.close()  # a device may come back under the same name
            raise _failure(self._path, error) from error

    def number(self) -> float:
        """The first word as a number, as `read_number`."""
        return _number(self._path, self.read())

    def close(self) -> None:
        """Give the descriptor back; the next read opens the file anew."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        self.close()


def read_text(path: Path) -> str:
    """The file's content without surrounding blanks; a SensorError says what to ask an administrator for."""
    file = KeptFile(path)
    try:
        return file.read()
    finally:
        file.close()


def _failure(path: Path, error: OSError) -> SensorError:
    if isinstance(error, PermissionError):
        return SensorError(
            f"{path}: permission denied (mode {_mode(path)})",
            f"an administrator can allow it on the compute nodes: chmod a+r {path} (at boot, by a udev rule)",
        )
    return SensorError(f"{path}: {error.strerror or error}")


def _mode(path: Path) -> str:
    try:
        return f"{stat.S_IMODE(path.stat().st_mode):04o}"
    except OSError:
        return "unknown"


def read_number(path: Path) -> float:
    """The file's first word as a number."""
    return _number(path, read_text(path))


def _number(path: Path, text: str) -> float:
    try:
        return float(text.split(maxsplit=1)[0])
    except (IndexError, ValueError):
        raise SensorError(f"{path}: {text[:40]!r} is not a number") from None


def optional_text(path: Path) -> str | None:
    """The content, or None when there is no readable file."""
    try:
        return read_text(path)
    except SensorError:
        return None


def optional_number(path: Path) -> float | None:
    """The number, or None when there is none."""
    try:
        return read_number(path)
    except SensorError:
        return None


def entries(directory: Path) -> list[Path]:
    """What a directory holds, in order; nothing when it is not there or closed."""
    try:
        return sorted(directory.iterdir())
    except OSError:
        return []
