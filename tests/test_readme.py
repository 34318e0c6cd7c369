"""Every command in the README is run: here, by .ci/run, or by the tests on the real cluster."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.mpirun import ENVIRONMENT, ROOT

README = (ROOT / "README.md").read_text()
BIN = Path(sys.executable).parent
# Commands that need more than a test may do, and the file that runs them.
ELSEWHERE = {
    "make demo": ".ci/run",
    "make test": ".ci/run",
    "snakemake --profile slurm --config study=studies/mine.yaml": "tests/slurm/test_workflow.py",
}


def commands():
    for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL):
        for line in block.splitlines():
            if command := line.partition(" #")[0].strip():
                yield command


def test_commands_not_run_here_are_run_elsewhere():
    listed = list(commands())
    assert set(ELSEWHERE) <= set(listed)
    for command, where in ELSEWHERE.items():
        words = command.split(" --config")[0]
        text = (ROOT / where).read_text()
        assert words in text or all(f'"{word}"' in text for word in words.split()), (command, where)


def test_links_and_the_tree_are_true():
    for target in re.findall(r"\]\(([^)]+)\)", README):
        assert (ROOT / target).exists(), target
    for room in re.findall(r"^\| `([^`]+)` \|", README, re.MULTILINE):
        assert (ROOT / room).exists(), room


@pytest.mark.mpi
@pytest.mark.timeout(420)
def test_the_rest_runs_in_this_order(tmp_path):
    """As a newcomer types them, in a copy of the checkout: init, then the whole workflow on the model it wrote."""
    for name in ("Snakefile", "workflow", "profiles", "slurm", "studies", "envs"):
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, tmp_path / name, symlinks=False)
        else:
            shutil.copy(source, tmp_path / name)
    environment = {**os.environ, **ENVIRONMENT, "PATH": f"{BIN}:{os.environ['PATH']}"}
    here = [c for c in commands() if c not in ELSEWHERE and not c.startswith("source ")]
    assert len(here) == 5
    for command in here:
        done = subprocess.run(
            command.split(), cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
    answer = (tmp_path / "results/mine/answer.txt").read_text()
    assert "mine_model" in answer
    assert len(answer.strip().splitlines()) == 5
    assert (tmp_path / "results/mine/report.html").stat().st_size > 1e5
    weights = load_file(tmp_path / "results/mine/production/mine_model/weights/last/model.safetensors")
    assert sorted(weights) == [f"{layer}.{name}" for layer in (0, 2, 4) for name in ("bias", "weight")]
