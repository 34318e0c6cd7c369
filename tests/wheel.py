"""The package as its wheel installs it, for tests that must not see this checkout."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests.mpirun import ROOT


def install(place: Path) -> Path:
    """Build the wheel in `place` and install it there alone; give the directory that PYTHONPATH must name."""
    ignored = shutil.ignore_patterns(".venv", ".git", ".cluster", "results", "logs", "build", "tests", "*.egg-info")
    shutil.copytree(ROOT, place / "source", ignore=ignored, symlinks=True)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", place / "built", place / "source"],
        check=True,
        timeout=120,
    )
    [wheel] = (place / "built").glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", place / "installed", wheel], check=True, timeout=120)
    return place / "installed"
