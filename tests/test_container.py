"""The Apptainer definition: nothing here can build it, so its parts are checked one by one."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.mpirun import ROOT

DEFINITION = ROOT / "envs/apptainer.def"
KNOWN = {"arguments", "files", "post", "environment", "runscript", "test", "labels"}
"""Sections of a definition file, as Apptainer's user guide names them."""


@pytest.fixture(scope="module")
def sections() -> dict[str, str]:
    head, *parts = re.split(r"^%(\w+)\n", DEFINITION.read_text(), flags=re.MULTILINE)
    assert re.search(r"^Bootstrap: docker$", head, re.MULTILINE) and re.search(r"^From: \S+:\S+$", head, re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_its_sections_and_arguments_are_known(sections: dict[str, str]) -> None:
    assert set(sections) == KNOWN
    given = dict(line.strip().split("=") for line in sections["arguments"].splitlines() if line.strip())
    used = set(re.findall(r"{{ (\w+) }}", DEFINITION.read_text()))
    assert used == set(given)
    for accel in ("cpu", "cuda"):
        assert (ROOT / f"envs/requirements-{accel}.txt").is_file()


def test_it_takes_along_all_that_the_wheel_is_made_of(sections: dict[str, str]) -> None:
    pairs = [line.split() for line in sections["files"].splitlines() if line.strip()]
    assert all((ROOT / source).exists() for source, _ in pairs)
    assert [target for _, target in pairs] == [f"/opt/hpc_accel/{source}" for source, _ in pairs]
    linked = {(path.resolve()).relative_to(ROOT).parts[0] for path in (ROOT / "hpc_accel/workflow").iterdir()}
    assert linked <= {source for source, _ in pairs}, "links of the package must not dangle in the image"


@pytest.mark.parametrize("name", ["post", "runscript", "test", "environment"])
def test_its_scripts_are_sound(sections: dict[str, str], name: str, tmp_path: Path) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    script = tmp_path / name
    script.write_text("#!/bin/sh\n" + sections[name].replace("{{ accel }}", "cpu"))
    done = subprocess.run(["shellcheck", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout
