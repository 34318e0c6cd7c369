"""The backend on device tensors: real ones, and those of a pretended device."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mpi import gpu_cases, staged_cases
from tests.mpi.cases import Launch, cases_of

LAUNCH = Launch(Path(gpu_cases.__file__), timeout_s=200)
STAGED = Launch(Path(staged_cases.__file__), timeout_s=120)


@pytest.mark.gpu
@pytest.mark.mpi
@pytest.mark.parametrize("name", cases_of(gpu_cases))
def test_gpu(name: str) -> None:
    LAUNCH.check(2, name)


@pytest.mark.mpi
@pytest.mark.parametrize("name", cases_of(staged_cases))
def test_staged(name: str) -> None:
    STAGED.check(2, name)
