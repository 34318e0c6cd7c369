"""`hpc-accel init --list` says what is built in, and writes nothing."""

import subprocess
import sys
from pathlib import Path

from hpc_accel.study.builtin_workloads import BUILTIN

COMMAND = Path(sys.executable).with_name("hpc-accel")


def test_built_in_workloads_are_listed_and_nothing_is_written(tmp_path):
    command = [COMMAND, "init", "--list"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    for name, builtin in BUILTIN.items():
        assert any(line.startswith(name) and builtin.about in line for line in done.stdout.splitlines())
    assert not list(tmp_path.iterdir())
