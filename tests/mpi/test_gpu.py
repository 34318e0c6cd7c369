"""The backend on device tensors."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mpi import gpu_cases
from tests.mpi.cases import Launch, cases_of

LAUNCH = Launch(Path(gpu_cases.__file__), timeout_s=200)


@pytest.mark.gpu
@pytest.mark.mpi
@pytest.mark.parametrize("name", cases_of(gpu_cases))
def test_gpu(name: str) -> None:
    LAUNCH.check(2, name)
