"""Hardware files of the package: machines nobody here can probe, from published figures with their sources."""

from __future__ import annotations

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
    path = DIRECTORY / f"{name}.yaml"
    if path.parent == DIRECTORY and path.is_file():
        return _from_yaml(path)
    given = Path(name)
    if not given.exists():
        raise ConfigError(
            f"--hardware {name}",
            "hardware is a file that `hpc-accel probe` wrote, or one of: " + ", ".join(shipped_names()),
            "name one of those, or probe",
        )
    return _from_yaml(given) if given.suffix in (".yaml", ".yml") else load_hardware(given)


def _from_yaml(path: Path) -> Hardware:
    content, _ = read_yaml(path)
    return checked_hardware(content, where=str(path))
