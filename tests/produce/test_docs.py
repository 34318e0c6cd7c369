"""docs/production.md as a user follows it: files written, commands run in their order, in an empty directory."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.mpirun import ENVIRONMENT, ROOT

TEXT = (ROOT / "docs/production.md").read_text()
BIN = Path(sys.executable).parent


def files():
    for text in re.findall(r"```(?:python|yaml)\n(.*?)```", TEXT, re.DOTALL):
        name, _, _ = text.removeprefix("# ").partition("\n")
        yield name, text


def commands():
    return [line for block in re.findall(r"```bash\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()]


@pytest.mark.mpi
@pytest.mark.timeout(500)
def test_page_from_top_to_bottom(tmp_path):
    shutil.copy(ROOT / "Snakefile", tmp_path)
    for name, text in files():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    path = f"{BIN}:{os.environ['PATH']}"
    environment = {**os.environ, **ENVIRONMENT, "PATH": path, "PYTHONPATH": f"{ROOT}:{tmp_path}"}
    said, took_s = {}, {}
    for number, command in enumerate(commands()):
        began = time.monotonic()
        done = subprocess.run(
            command.split(), cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        said[number], took_s[number] = done.stdout + done.stderr, time.monotonic() - began
    [trains, loads, again] = [
        commands().index(each)
        for each in (
            "hpc-accel produce results/digits",
            "python load.py",
            "bash results/digits/production/digits_model/job.sbatch",
        )
    ]
    assert float(said[loads]) >= 0.97
    assert took_s[trains] < 120
    assert "come to its end already" in said[again]
    results = tmp_path / "results/digits"
    assert "Trained to the end" in (results / "report.html").read_text()
    found = json.loads((results / "production/digits_model/summary.json").read_text())
    assert found["metric"]["value"] >= 0.96
    assert found["num_ranks"] == 2
    [served] = (tmp_path / "results/served/runs").glob("*/summary.json")
    assert json.loads(served.read_text())["metric"]["value"] == pytest.approx(float(said[loads]), abs=1e-3)
