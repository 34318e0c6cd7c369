"""One rank of PyTorch's own distributed suite: runs the named cases under mpirun, each in a fresh default group.

    mpirun -n 2 python -m mpi4py tests/mpi/conformance_rank.py mpi4py test_broadcast test_all_reduce_sum

A case that fails on any rank leaves the others inside a collective, so the failing rank reports and ends the job;
conformance.py starts the rest again. The suite asks the variable BACKEND which cases apply: it is told `gloo`,
the other backend for CPU tensors, and gets the backend under test once the decorators have run.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
import types
import unittest
from datetime import timedelta
from typing import Any

MARK = "SUITE "
TIMEOUT_S = 60


def say(**fields: object) -> None:
    print(MARK + json.dumps(fields), flush=True)


def suite(world_size: int, scratch: str) -> Any:
    """The module of the suite, imported as for gloo."""
    os.environ.update(BACKEND="gloo", WORLD_SIZE=str(world_size), TEMP_DIR=scratch)
    os.environ["INIT_METHOD"] = f"file://{scratch}/init"
    try:
        import expecttest  # noqa: F401
    except ModuleNotFoundError:
        # Torch's TestCase derives from it; no case here uses what it adds.
        stand_in: Any = types.ModuleType("expecttest")
        stand_in.TestCase = unittest.TestCase
        sys.modules["expecttest"] = stand_in
    from torch.testing._internal.distributed import distributed_test

    return distributed_test


def make_case(module: Any, rank: int, world_size: int, comm: Any, scratch: str) -> Any:
    """The suite's cases in a TestCase whose processes exist already."""
    from torch.testing._internal.common_utils import TestCase

    class Case(TestCase, module.DistributedTest._DistTestBase):  # type: ignore[misc]
        skip_return_code_checks: list[Any] = []

        def __init__(self, name: str) -> None:
            super().__init__(name)
            self.rank = rank
            self.file_name = os.path.join(scratch, "file")
            self.init_method = "file://" + self.file_name

        @property
        def world_size(self) -> str:
            return str(world_size)

        def _barrier(self, *_: Any, **__: Any) -> None:
            comm.Barrier()

    return Case


def run(case: Any, name: str) -> tuple[str, str]:
    """Outcome and reason: passed, skipped or failed."""
    try:
        test = case(name)
        test.setUp()
        try:
            getattr(test, name)()
        finally:
            test.tearDown()
            test.doCleanups()
    except unittest.SkipTest as skip:
        return "skipped", str(skip)
    except SystemExit as leave:
        # The suite's decorators leave a child process with a code of their own to skip.
        return "skipped", f"exit code {leave.code}"
    except BaseException:
        return "failed", traceback.format_exc()
    return "passed", ""


def main() -> None:
    backend, *names = sys.argv[1:]
    import torch.distributed as dist

    from hpc_accel.mpi.launch import mpi, world
    from hpc_accel.mpi.rendezvous import make_store

    place, comm = world(), mpi().COMM_WORLD
    scratch = comm.bcast(tempfile.mkdtemp(prefix="suite-") if place.rank == 0 else None)
    if place.rank == 0:
        os.makedirs(os.path.join(scratch, "barrier"))
        os.makedirs(os.path.join(scratch, "test_dir"))
        os.makedirs(os.path.join(scratch, "init_dir"))
    module = suite(place.size, scratch)
    case = make_case(module, place.rank, place.size, comm, scratch)
    module.BACKEND = backend
    for name in names:
        if place.rank == 0:
            say(name=name, outcome="started")
        timeout = timedelta(seconds=module.CUSTOM_PG_TIMEOUT.get(name, TIMEOUT_S))
        # The case's own timeout, of 5 s for some, is the group's: torch's store looks up names when it connects, and a
        # name server may take as long.
        store = make_store(place, timedelta(seconds=TIMEOUT_S))
        dist.init_process_group(backend, store=store, rank=place.rank, world_size=place.size, timeout=timeout)
        outcome, reason = run(case, name)
        if outcome == "failed":
            told = reason.split("To execute this test")[0]
            say(name=name, outcome=outcome, reason=f"rank {place.rank}: {told[-1500:]}")
            comm.Abort(1)
        outcomes = comm.allgather(outcome)
        if dist.is_initialized():
            dist.destroy_process_group()
        if place.rank == 0:
            say(name=name, outcome="passed" if "passed" in outcomes else "skipped", reason=reason)


if __name__ == "__main__":
    main()
