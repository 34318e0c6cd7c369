"""Whose results a directory holds: two studies of one file name, in different places, would mix theirs."""

from __future__ import annotations

from pathlib import Path

from hpc_accel.errors import ConfigError


def owner_file(directory: Path, study_path: Path) -> Path:
    """The file that notes whose results these are. Raises ConfigError where they are another study's of this name."""
    owner, path = directory / ".study", study_path.resolve()
    other = Path(owner.read_text().partition("\n")[0]) if owner.is_file() else path  # a digest follows
    if other != path and other.is_file():
        raise ConfigError(
            f"{directory} holds the results of {other}",
            "results are kept by the name of the study's file, so two studies have two names",
            f"rename {study_path}, or move {directory} away",
        )
    return owner
