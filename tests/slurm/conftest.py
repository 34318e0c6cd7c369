"""The throwaway cluster (`make cluster`) as a fixture; without it every test here is skipped."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from hpc_accel.jobs import accounting
from hpc_accel.jobs.script import render
from hpc_accel.jobs.site import Site, load_site
from hpc_accel.study.layout import Layout
from hpc_accel.study.node_kinds import node_kinds_of, place_on_node_kinds
from hpc_accel.study.recipe import Recipe
from hpc_accel.study.run import Measure, Resources, Run, WorkloadSpec
from hpc_accel.study.study_file import ResourcesChoice

ROOT = Path(__file__).parents[2]
CLUSTER = Path(os.environ.get("CLUSTER_DIR", ROOT / ".cluster"))
CONF = CLUSTER / "etc" / "slurm.conf"
BIN = Path(sys.executable).parent
SLEEPS = "import time\nfrom mpi4py import MPI\ntime.sleep(100)\n"
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "OUT_OF_MEMORY", "PREEMPTED", "NODE_FAIL"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.slurm)


# Slow as long as the file `slow` is there, so that the warning finds the run under way and the rest of it is quick.
SLOW_MODEL = """
import time
from pathlib import Path
import torch
from torch import nn
slow = Path(__file__).with_name("slow")
class Data(torch.utils.data.Dataset):
    def __len__(self): return 64
    def __getitem__(self, index):
        if index % 8 == 0 and slow.exists(): time.sleep(0.2)
        return torch.randn(4, generator=torch.Generator().manual_seed(index)), torch.ones(1)
def build():
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)), nn.functional.mse_loss, Data()
"""


@dataclass(frozen=True)
class Cluster:
    """Commands on the cluster, from `directory`, where the test's files are."""

    directory: Path
    package: Path = ROOT
    """Where Python finds hpc_accel."""

    def environment(self) -> dict[str, str]:
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("SLURM_", "SBATCH_"))}
        return kept | {
            "SLURM_CONF": str(CONF),
            "PATH": f"{BIN}:{os.environ['PATH']}:/usr/sbin",
            "PYTHONPATH": str(self.package),
        }

    def run(self, *command: str | Path, timeout_s: float = 60, cwd: Path | None = None, check: bool = True) -> str:
        done = subprocess.run(
            [str(word) for word in command],
            cwd=cwd or self.directory,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert not check or done.returncode == 0, f"{command}: {done.stdout}"
        return done.stdout

    def submit(self, script: Path, *options: str, cwd: Path | None = None) -> str:
        """The id of the submitted job."""
        return self.run("sbatch", "--parsable", *options, script, cwd=cwd).strip().splitlines()[-1]

    def submit_command(self, command: str, *options: str) -> str:
        """The id of a job that runs `command` in a shell."""
        return self.run("sbatch", "--parsable", *options, "--wrap", command).strip()

    def state(self, job_id: str) -> str:
        return self.show(job_id)["JobState"]

    def show(self, job_id: str) -> dict[str, str]:
        text = self.run("scontrol", "--oneliner", "show", "job", job_id)
        return dict(word.split("=", 1) for word in text.split() if "=" in word)

    def wait(self, job_id: str, timeout_s: float = 120, states: set[str] = ENDED) -> dict[str, str]:
        """The job's facts once it is in one of `states`."""
        end = time.monotonic() + timeout_s
        while (facts := self.show(job_id))["JobState"] not in states:
            assert time.monotonic() < end, f"{job_id} is {facts['JobState']} after {timeout_s} s"
            time.sleep(0.5)
        return facts

    def start_now(self, job_id: str) -> None:
        """Slurm lets a requeued job wait for two minutes; a test does not."""
        self.wait(job_id, states={"PENDING", "RUNNING", *ENDED})
        while self.state(job_id) == "PENDING":
            self.run("scontrol", "update", f"JobId={job_id}", "StartTime=now", check=False)  # it may start meanwhile
            time.sleep(0.5)

    def prepare(self, run: Run, name: str = "run", program: str | None = None, **site: Any) -> Path:
        """The run's directory with run.json and job.sbatch. `program` stands in for `hpc-accel` on every rank."""
        run_dir = self.directory / name
        run_dir.mkdir(parents=True, exist_ok=True)
        (run_dir / "run.json").write_text(run.model_dump_json())
        here = Site(name="throwaway", **(load_site(ROOT / "slurm/sites/throwaway.yaml").model_dump() | site))
        text = render(run, here, root=self.directory, run_dir=run_dir, environment=BIN.parent)
        if program is not None:
            # By its full path: on other nodes than the first, mpirun's own directory comes first on PATH.
            stand_in = (
                self.directory / f"{name.replace('/', '-')}-program"
            )  # without a space: Slurm misreads such names in /proc
            stand_in.write_text(f"#!{sys.executable} -B\n{program}")
            stand_in.chmod(0o755)
            text = text.replace(" hpc-accel train", f" {shlex.quote(str(stand_in))} train")
        (run_dir / "job.sbatch").write_text(text)
        return run_dir


@pytest.fixture(scope="session")
def _cluster_is_up() -> None:
    environment = os.environ | {"SLURM_CONF": str(CONF)}
    try:
        CONF.stat()  # without its file sinfo asks a controller that is not there, for a while
        subprocess.run(["sinfo"], env=environment, capture_output=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        pytest.skip("the throwaway cluster is not up: make cluster")


def shared_directory() -> Path:
    """A new directory that all nodes see: /tmp, where pytest makes its own, is another on each node."""
    return Path(tempfile.mkdtemp(dir=CLUSTER / "shared"))


@pytest.fixture
def tmp_path(_cluster_is_up: None) -> Path:
    return shared_directory()


@pytest.fixture
def cluster(_cluster_is_up: None, tmp_path: Path) -> Cluster:
    return cluster_in(tmp_path)


def cluster_in(directory: Path) -> Cluster:
    (directory / "slurm").symlink_to(ROOT / "slurm")
    return Cluster(directory)


def make_run(num_nodes: int = 2, ranks_per_node: int = 1, **resources: Any) -> Run:
    """Handwritten digits for a few steps."""
    ranks = num_nodes * ranks_per_node
    asked = {"memory_mb": 2500, "time_limit_min": 5} | resources
    return Run(
        study="study",
        site="throwaway",
        workload=WorkloadSpec(name="digits", entry="hpc_accel.workloads.builtin.digits:build", global_batch_size=64),
        layout=Layout(dp=ranks, micro_batch_size=64 // ranks, accumulation_steps=1),
        recipe=Recipe(),
        resources=Resources(num_nodes=num_nodes, ranks_per_node=ranks_per_node, **asked),
        measure=Measure(warmup_steps=1, steps=2, parity_steps=2, parity_tolerance=1e-4),
        device="cpu",
    )


def make_slow_run(cluster: Cluster, steps: int = 900, measure: dict[str, Any] | None = None, **more: Any) -> Run:
    """`SLOW_MODEL` on two nodes with a rank each. The file `slow` is there; a test removes it when it saw enough."""
    (cluster.directory / "slow_model.py").write_text(SLOW_MODEL)
    (cluster.directory / "slow").touch()
    checkpoint = more.pop("checkpoint", {})
    run = make_run(2, 1, **more)
    return Run.model_validate(
        run.model_dump(exclude={"run_id"})
        | {
            "workload": WorkloadSpec(name="slow", entry="slow_model:build", global_batch_size=16),
            "layout": run.layout.model_copy(update={"micro_batch_size": 8}),
            "measure": Measure(warmup_steps=1, steps=steps, parity_steps=2, parity_tolerance=1e-4, **(measure or {})),
            "checkpoint": checkpoint,
        }
    )


def make_mixed_run(*node_kinds: dict[str, Any], **resources: Any) -> Run:
    """The same on nodes that differ: each of `node_kinds` as a study writes it."""
    limits = ResourcesChoice(node_kinds=list(node_kinds), **{"memory_mb": 1500, "time_limit_min": 5} | resources)
    placed = place_on_node_kinds(sum(each.num_ranks for each in node_kinds_of(limits)), limits, "auto")
    alike = make_run(1, placed.num_ranks)
    return Run.model_validate({**alike.model_dump(exclude={"run_id"}), "resources": placed.model_dump()})


def losses(run_dir: Path) -> list[tuple[int, int, float]]:
    return pl.read_parquet(run_dir / "steps.parquet").select("step", "rank", "loss").sort("step", "rank").rows()


def wait_for_restart(cluster: Cluster, job_id: str) -> None:
    for _ in range(150):
        if cluster.show(job_id)["Restarts"] != "0":
            return
        cluster.run("sleep", "1")
    raise AssertionError("not restarted: " + "".join(path.read_text() for path in cluster.directory.glob("*/log.txt")))


def read(run_dir: Path, name: str = "summary.json") -> dict[str, Any]:
    return json.loads((run_dir / name).read_text())


def tiny_environment(directory: Path, program: str) -> tuple[Path, Path]:
    """An environment of one program, `hpc-accel`, to be staged; and a directory to stage it to.

    It supervises as the real one does; what it does beside is `program`.
    """
    environment, local = directory / "tiny", directory / "disk"
    (environment / "bin").mkdir(parents=True)
    local.mkdir()
    interpreter = environment / "bin/interpreter"
    interpreter.write_text(f'#!/bin/bash\nexec "{sys.executable}" "$@"\n')
    interpreter.chmod(0o755)
    stand_in = environment / "bin/hpc-accel"
    supervises = "import sys\nif sys.argv[1] == 'supervise':\n    from hpc_accel.cli import main\n    main()\n"
    stand_in.write_text(f"#!{environment}/bin/interpreter -B\n{supervises}{program}")
    stand_in.chmod(0o755)
    return environment, local


def accounting_of(cluster: Cluster, run_dir: Path) -> dict:
    """What sacct says of the run's last job. Its books lag behind by a second or two."""
    results = run_dir.parent / "results"
    (results / "runs").mkdir(parents=True, exist_ok=True)
    if not (results / "runs/x").exists():
        (results / "runs/x").symlink_to(run_dir)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(CONF))
        for _ in range(20):
            facts = accounting.collect(results)["jobs"]["x"]
            if facts["state"]:
                break
            cluster.run("sleep", "0.5")
    return facts
