"""Hardware files of the package: machines nobody here can probe, from published figures with their sources."""

from __future__ import annotations

import difflib
from pathlib import Path

from hpc_accel.errors import ConfigError
from hpc_accel.probe.hardware import Hardware, checked_hardware, load_hardware
from hpc_accel.study.yaml import read_yaml

DIRECTORY = Path(__file__).parent / "hardware"


def shipped_names() -> list[str]:
    """What `hardware_of` knows by name."""
    return sorted(path.stem for path in DIRECTORY.glob("*.yaml"))


def hardware_of(name: str) -> Hardware:
    """The shipped file of that name, or the file at that path: hardware.json, or YAML of the same shape.

    Raises ConfigError where there is neither, or where the file breaks a rule.
    """
    path = hardware_path(name)
    return _from_yaml(path) if path.suffix in (".yaml", ".yml") else load_hardware(path)


def hardware_path(name: str) -> Path:
    """That file. Raises ConfigError where there is neither."""
    path = DIRECTORY / f"{name}.yaml"
    if path.parent == DIRECTORY and path.is_file():
        return path
    given = Path(name)
    if not given.is_file():
        near = difflib.get_close_matches(name.lower(), shipped_names(), n=1, cutoff=0.4)
        raise ConfigError(
            f"--hardware {name or 'missing'}",
            "hardware is a file that `hpc-accel probe` wrote, or one of: " + ", ".join(shipped_names()),
            f"did you mean {near[0]}?" if near else "name one of those, or probe",
        )
    return given


def _from_yaml(path: Path) -> Hardware:
    content, _ = read_yaml(path)
    return checked_hardware(content, where=str(path))
