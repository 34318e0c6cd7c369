"""DDP, pipelining, tensor parallelism, FSDP2 and meshes on real ranks."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mpi import parallel_cases
from tests.mpi.cases import Launch, cases_of

LAUNCH = Launch(Path(parallel_cases.__file__), timeout_s=150)


@pytest.mark.mpi
@pytest.mark.parametrize("n", [2, 4])
@pytest.mark.parametrize("name", cases_of(parallel_cases))
def test_parallel(name: str, n: int) -> None:
    LAUNCH.check(n, name)
