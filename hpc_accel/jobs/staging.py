"""The environment on each node's own disk: one archive, instead of thousands of small reads from a shared file system.

`sbcast` carries the archive to the nodes, a step on each unpacks it.
"""

from __future__ import annotations

import subprocess
from collections.abc import MutableMapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from hpc_accel.errors import InputOutputError
from hpc_accel.jobs.allocation import Component

# A script's first line names the interpreter by its path: there it must be the copy's.
UNPACK = """\
[[ ! -d $1 ]] || exit 0
mkdir "$1.part"; tar -C "$1.part" -xf "$1.tar"
grep -lIs "^#!$2/" "$1.part"/bin/* | xargs -r -d "\\n" sed -i "1s|^#!$2/|#!$1/|"
mv "$1.part" "$1"
"""


class StagedEnvironment(AbstractContextManager[Path]):
    """A context in which a copy of `environment` lies below `local_dir` on every node, and is removed at the end.

    Raises InputOutputError when a node cannot take it; the command's own words are on standard error.
    """

    def __init__(
        self, environment: Path, local_dir: Path, wanted: Sequence[Component], environ: MutableMapping[str, str]
    ) -> None:
        self.environment = environment
        self.wanted = wanted
        self.environ = environ
        self.copy = local_dir / f"hpc_accel-{environ['SLURM_JOB_ID']}"
        self.source = Path(f"{self.copy}.source.tar")
        self.archive = Path(f"{self.copy}.tar")

    def __enter__(self) -> Path:
        try:
            self._run(["tar", "-C", str(self.environment), "-cf", str(self.source), "."], check=True)
            for number in range(len(self.wanted)):
                job = self.environ.get(f"SLURM_JOB_ID_HET_GROUP_{number}") if len(self.wanted) > 1 else None
                of_job = [f"--jobid={job}"] if job else []
                self._run(["sbcast", "--force", *of_job, str(self.source), str(self.archive)], check=True)
            unpack = ["bash", "-euc", UNPACK, "bash", str(self.copy), str(self.environment)]
            self._on_each_node(["flock", str(self.archive), *unpack], check=True)
        except BaseException:
            self.__exit__()
            raise
        return self.copy

    def __exit__(self, *_: object) -> None:
        self.source.unlink(missing_ok=True)
        self._on_each_node(["rm", "-rf", str(self.copy), str(self.archive)], check=False)

    def _on_each_node(self, command: list[str], *, check: bool) -> None:
        for number, part in enumerate(self.wanted):
            group = [f"--het-group={number}"] if len(self.wanted) > 1 else []
            # A step of a heterogeneous job would ask for the first component's memory.
            memory = ["--mem=0"] if len(self.wanted) > 1 else []
            size = [f"--nodes={part.num_nodes}", f"--ntasks={part.num_nodes}", "--ntasks-per-node=1"]
            self._run(["srun", *group, *size, *memory, *command], check=check)

    def _run(self, command: list[str], *, check: bool) -> None:
        code = subprocess.run(command, env=self.environ, check=False).returncode
        if code and check:
            raise InputOutputError(
                f"{command[0]} ended with {code} while {self.environment} was copied to {self.copy}",
                "stage_environment puts a copy on every node's own disk",
                "make room in node_local_dir, or set stage_environment: false in the site file",
            )
