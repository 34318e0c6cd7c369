"""DDP, pipelining, tensor parallelism, FSDP2 and meshes on real ranks."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mpi import feature_cases, parallel_cases
from tests.mpi.cases import Launch, cases_of

LAUNCH = Launch(Path(parallel_cases.__file__), timeout_s=150)
FEATURES = Launch(Path(feature_cases.__file__), timeout_s=150)


@pytest.mark.mpi
@pytest.mark.parametrize("n", [2, 4])
@pytest.mark.parametrize("name", cases_of(parallel_cases))
def test_parallel(name: str, n: int) -> None:
    LAUNCH.check(n, name)


@pytest.mark.mpi
@pytest.mark.parametrize("name", cases_of(feature_cases))
def test_features(name: str) -> None:
    FEATURES.check(2, name)
