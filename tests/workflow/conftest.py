"""A directory where the real Snakefile runs on a stand-in for `hpc-accel`, so that a whole study takes seconds."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SNAKEMAKE = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "--config", "study=s.yaml"]
STUDY = """\
resources: {ranks_per_node: 2}
workload: {name: digits}
layouts:
  - {}
  - {dp: 2}
  - {tp: 2}
"""


@dataclass(frozen=True)
class Workflow:
    directory: Path

    def snakemake(self, *arguments: str, check: bool = True) -> str:
        done = subprocess.run(
            [*SNAKEMAKE, *arguments],
            cwd=self.directory,
            env=self.environment(),
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
        )
        output = done.stdout + done.stderr
        assert not check or done.returncode == 0, output
        return output

    def environment(self) -> dict[str, str]:
        fake = self.directory / "env"
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "SNAKEMAKE_"))}
        path = f"{fake}/bin:{Path(sys.executable).parent}:{os.environ['PATH']}"
        return kept | {"PATH": path, "FAKE_ENVIRONMENT": str(fake), "PYTHONPATH": str(ROOT)}

    def calls(self) -> list[str]:
        """What the stand-in was asked since the last time."""
        path = self.directory / "calls.txt"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return lines

    def fail(self, label: str, times: int, code: int) -> None:
        (self.directory / "fail").mkdir(exist_ok=True)
        (self.directory / "fail" / label).write_text(f"{times} {code}")

    def write_study(self, text: str) -> None:
        (self.directory / "s.yaml").write_text(text)

    def answer(self) -> dict[str, str]:
        """Layout -> status, as the report saw it."""
        lines = (self.directory / "results/s/answer.txt").read_text().splitlines()
        return {line.split("-")[1]: line.split()[1] for line in lines}


@pytest.fixture
def workflow(tmp_path: Path) -> Workflow:
    programs = tmp_path / "env" / "bin"
    programs.mkdir(parents=True)
    fake = Path(__file__).parent / "fake_hpc_accel.py"
    texts = {
        "python": f'exec "{sys.executable}" "$@"',
        "hpc-accel": f'exec "{sys.executable}" "{fake}" "$@"',
        # One process stands for all ranks.
        "mpirun": 'while [[ $# -gt 0 && $1 != hpc-accel ]]; do shift; done; (( $# )) || exit 0; exec "$@"',
    }
    for name, text in texts.items():
        (programs / name).write_text(f"#!/bin/bash\n{text}\n")
        (programs / name).chmod(0o755)
    result = Workflow(tmp_path)
    result.write_study(STUDY)
    return result
