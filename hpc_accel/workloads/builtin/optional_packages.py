"""What some workloads need beside the package: looked for without importing it, refused by the name of the extra."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

from hpc_accel.errors import ConfigError


def check_installed(workload: str, extra: str, *modules: str) -> None:
    """Raises ConfigError with the install line when one of the top-level `modules` is missing."""
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise without(workload, extra, ", ".join(missing))


def package_file(workload: str, extra: str, package: str, path: str) -> Path:
    """A data file inside an installed package, which is not imported: that can take longer than a small run.

    Raises ConfigError with the install line when the package or the file is missing.
    """
    for directory in _directories(package):
        if (directory / path).is_file():
            return directory / path
    raise without(workload, extra, f"{package}/{path}")


def without(workload: str, extra: str, missing: str) -> ConfigError:
    """The refusal of a workload whose extra is not installed."""
    return ConfigError(
        f"workload {workload} without {missing}",
        f"it comes with the extra {extra!r}, which is not installed",
        f"pip install 'hpc-accel[{extra}]'; in a checkout: pip install -e '.[{extra}]'",
    )


def _directories(package: str) -> Iterator[Path]:
    spec = importlib.util.find_spec(package)
    for directory in (spec.submodule_search_locations or []) if spec else []:
        yield Path(directory)
