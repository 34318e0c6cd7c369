"""Reading small files the kernel makes up: the root may be elsewhere, and every failure has a reason and a remedy.

`HPC_ACCEL_SYSFS` names a directory to use instead of /sys (or one that holds a `sys`), so that every reader can
be tried against a tree of known power.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from hpc_accel.measure.energy.sensor import SensorError

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


def read_text(path: Path) -> str:
    """The file's content without surrounding blanks; a SensorError says what to ask an administrator for."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(descriptor, MAX_BYTES).decode("ascii", "replace").strip()
        finally:
            os.close(descriptor)
    except PermissionError as error:
        raise SensorError(
            f"{path}: permission denied (mode {_mode(path)})",
            f"an administrator can allow it on the compute nodes: chmod a+r {path} (at boot, by a udev rule)",
        ) from error
    except OSError as error:
        raise SensorError(f"{path}: {error.strerror or error}") from error


def _mode(path: Path) -> str:
    try:
        return f"{stat.S_IMODE(path.stat().st_mode):04o}"
    except OSError:
        return "unknown"


def read_number(path: Path) -> float:
    """The file's first word as a number."""
    text = read_text(path)
    try:
        return float(text.split()[0])
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
