"""What a shell asks of the program: its version, and how to complete its words."""

from __future__ import annotations

import os
import subprocess
import tomllib

import pytest

from tests.cli.test_mistakes import COMMAND
from tests.mpirun import ROOT


def test_the_version_is_the_projects() -> None:
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    done = subprocess.run([COMMAND, "--version"], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout == f"hpc-accel {known}\n"
    assert f"version: {known}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"## {known} " in (ROOT / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_completes_commands(shell: str) -> None:
    environ = os.environ | {
        "_HPC_ACCEL_COMPLETE": f"complete_{shell}",
        "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1",
    }
    environ |= {"COMP_WORDS": "hpc-accel pro", "COMP_CWORD": "1", "_TYPER_COMPLETE_ARGS": "hpc-accel pro"}
    environ |= {"_TYPER_COMPLETE_FISH_ACTION": "get-args", "_TYPER_COMPLETE_WORD_TO_COMPLETE": "pro"}
    done = subprocess.run([COMMAND], env=environ, capture_output=True, text=True, timeout=30, check=False)
    assert "probe" in done.stdout
    assert "produce" in done.stdout
    assert "report" not in done.stdout


def test_a_shell_completes_the_options_of_a_command() -> None:
    environ = os.environ | {"_HPC_ACCEL_COMPLETE": "complete_bash", "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    environ |= {"COMP_WORDS": "hpc-accel compare --fail", "COMP_CWORD": "2"}
    done = subprocess.run([COMMAND], env=environ, capture_output=True, text=True, timeout=30, check=False)
    assert "--fail-if-slower" in done.stdout
