"""Starting and ending: no MASTER_ADDR, ranks that do not belong together, a rank that dies, fewer threads."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.mpirun import ENVIRONMENT, check, mpirun

HERE = Path(__file__).parent
# As any torch program would, with nothing of ours but the import.
PLAIN = """
import os, torch, torch.distributed as dist, hpc_accel.mpi
assert not any(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))
dist.init_process_group("mpi4py")
one = torch.ones(1)
dist.all_reduce(one)
print("sum", one.item(), "backend", dist.get_backend())
dist.destroy_process_group()
"""
DEATH = """
import torch, torch.distributed as dist, hpc_accel.mpi
place = hpc_accel.mpi.init()
if place.rank == 1:
    raise ValueError("rank 1 has had enough")
dist.all_reduce(torch.ones(1))
"""
SILENT = """
import time, torch, torch.distributed as dist, hpc_accel.mpi
from hpc_accel.mpi import watchdog
watchdog.PERIOD_S, watchdog.GRACE_S = 0.2, 0.5
place = hpc_accel.mpi.init(timeout_s=1)
if place.rank == 0:
    time.sleep(300)
dist.all_reduce(torch.ones(1), async_op=True).get_future().wait()
"""
HANDLED = """
import hpc_accel.mpi, torch, torch.distributed as dist
place = hpc_accel.mpi.init()
if place.rank == 1:
    hpc_accel.mpi.abort(65)
dist.all_reduce(torch.ones(1))
"""
FACTS = """
from hpc_accel.mpi.facts import facts
f = facts()
assert f.thread_level == "multiple" and f.gpu_aware is False and f.mpi4py and "MPI" in f.library, f
"""
IMPORT_ONLY = """
import sys, hpc_accel.mpi
from torch.distributed import Backend
assert "mpi4py" in Backend.backend_list
assert "mpi4py.MPI" not in sys.modules, "importing must not start MPI"
"""


def alone(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    """One process without a launcher."""
    environment = {**os.environ, **ENVIRONMENT, **env}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=100, check=False
    )


@pytest.mark.mpi
def test_plain_torch_program_needs_no_address() -> None:
    output = check(mpirun(2, ["-c", PLAIN], 90, guard=False))
    assert output.count("sum 2.0 backend mpi4py") == 2


def test_import_does_not_start_mpi() -> None:
    result = alone(IMPORT_ONLY)
    assert result.returncode == 0, result.stderr


@pytest.mark.mpi
def test_a_single_process_is_a_world_of_one() -> None:
    result = alone(PLAIN)
    assert "sum 1.0" in result.stdout, result.stderr


@pytest.mark.mpi
def test_copies_of_rank_zero_are_refused() -> None:
    result = alone("import hpc_accel.mpi; hpc_accel.mpi.world()", PMI_SIZE="4")
    assert result.returncode != 0
    assert "4 copies of rank 0 of 1 (by PMI_SIZE" in result.stderr
    assert "remedy:" in result.stderr


@pytest.mark.mpi
def test_the_expected_number_of_ranks_is_checked() -> None:
    result = alone("import hpc_accel.mpi; hpc_accel.mpi.init(expected_size=3)")
    assert "MPI has 1 rank(s), 3 were asked for" in result.stderr


@pytest.mark.mpi
def test_an_uncaught_exception_ends_the_job() -> None:
    began = time.monotonic()
    result = mpirun(2, ["-c", DEATH], 90, guard=False)
    assert result.returncode not in {0, 124}, result.stdout
    assert "rank 1 has had enough" in result.stdout
    assert time.monotonic() - began < 80


@pytest.mark.mpi
def test_abort_ends_the_others_with_its_code() -> None:
    assert mpirun(2, ["-c", HANDLED], 90, guard=False).returncode == 65


@pytest.mark.mpi
def test_facts() -> None:
    result = alone(FACTS)
    assert result.returncode == 0, result.stderr


@pytest.mark.mpi
def test_a_rank_that_never_comes_ends_the_job() -> None:
    """A future has no timeout of its own: the watchdog is the only way out."""
    result = mpirun(2, ["-c", SILENT], 90, guard=False)
    assert result.returncode == 75, result.stdout
    assert "rank 1 ends the job: all_reduce past the timeout" in result.stdout


@pytest.mark.mpi
@pytest.mark.parametrize("level", ["serialized", "funneled"])
def test_fewer_threads_still_work(level: str) -> None:
    cases = ["ddp_equals_serial", "pipeline_1f1b", "fsdp2_equals_serial"]
    result = mpirun(2, [HERE / "parallel_cases.py", *cases], 120, MPI4PY_RC_THREAD_LEVEL=level)
    output = check(result)
    assert output.count('"errors": []') == len(cases), output
    assert output.count(f"MPI gives MPI_THREAD_{level.upper()}") == 2, "said once by each rank"


OTHER_DTYPE = """
import torch, torch.distributed as dist, hpc_accel.mpi
place = hpc_accel.mpi.init()
dist.all_reduce(torch.ones(6, dtype=torch.float64 if place.rank == 0 else torch.float32))
dist.all_reduce(torch.ones(6))
hpc_accel.mpi.shutdown()
"""


@pytest.mark.mpi
def test_another_dtype_on_one_rank_is_explained_without_debug_mode() -> None:
    result = mpirun(2, ["-c", OTHER_DTYPE], 60)
    assert result.returncode == 1
    assert "rule: all ranks of a group call the same collectives" in result.stdout
    assert "remedy: HPC_ACCEL_MPI_DEBUG=1" in result.stdout
