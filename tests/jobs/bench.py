"""A directory where a job script meets real bash and stand-ins for mpirun and Slurm's commands."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from .conftest import make_run, script

HPC_ACCEL = Path(sys.executable).with_name("hpc-accel")
IN_SLURM = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "n1", "SLURM_JOB_NUM_NODES": "1", "SLURM_NTASKS": "2"}
OPEN_MPI = 'echo "mpirun (Open MPI) 5.0.11"'
MPICH = 'echo "HYDRA build details:"'
LAST = 'last="${@: -1:1}"; here=$(dirname "$last")'
COMPLETED = f"""{LAST}; echo '{{"status": "completed"}}' > "$here/summary.json" """
CHECKPOINT = f'{LAST}; mkdir -p "$here/checkpoints"; echo "$step" > "$here/checkpoints/latest"'


@dataclass(frozen=True)
class Bench:
    """A directory with stand-ins for mpirun and Slurm's commands that note their arguments."""

    directory: Path

    @property
    def run_dir(self) -> Path:
        return self.directory / "run"

    def program(self, name: str, body: str) -> None:
        path = self.directory / "env" / "bin" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        arguments = shlex.quote(f"{self.directory}/{name}.args")
        path.write_text(f'#!/bin/bash\nprintf "%s\\n" "$@" > {arguments}\n{body}\n')
        path.chmod(0o755)

    def hpc_accel(self) -> None:
        """The real command in the environment's place."""
        path = self.directory / "env" / "bin" / "hpc-accel"
        path.parent.mkdir(parents=True)
        path.write_text(f'#!/bin/bash\nexec "{HPC_ACCEL}" "$@"\n')
        path.chmod(0o755)

    def mpirun(self, body: str, version: str = OPEN_MPI) -> None:
        self.program("mpirun", f"if [[ $1 == --version ]]; then {version}; exit; fi\n{body}")

    def args(self, name: str) -> list[str]:
        return (self.directory / f"{name}.args").read_text().splitlines()

    def start(self, run=None, text: str | None = None, slurm: dict[str, str] | None = None, **site) -> subprocess.Popen:
        run = run or make_run()
        self.run_dir.mkdir(exist_ok=True)
        (self.run_dir / "run.json").write_text(run.model_dump_json())
        path = self.run_dir / "job.sbatch"
        path.write_text(text or self.text(run, **site))
        kept = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
        return subprocess.Popen(
            ["bash", path],
            env=kept | (slurm or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def text(self, run=None, **site) -> str:
        text = script(run or make_run(), run_dir=self.run_dir, environment=self.directory / "env", **site)
        return text.replace("cd /data", f'cd "{self.directory}"', 1)

    def run(self, **how) -> tuple[int, str]:
        process = self.start(**how)
        try:
            output = process.communicate(timeout=60)[0]
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        return process.returncode, output

    def summary(self) -> dict:
        return json.loads((self.run_dir / "summary.json").read_text())
