"""All of c10d on real ranks: two (the even case), four (sub-groups of more than one), and three (nothing divides)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mpi import c10d_cases, group_cases
from tests.mpi.cases import Launch, cases_of

LAUNCHES = {module: Launch(Path(module.__file__), timeout_s=150) for module in (c10d_cases, group_cases)}


@pytest.mark.mpi
@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize("name", cases_of(c10d_cases))
def test_collectives(name: str, n: int) -> None:
    LAUNCHES[c10d_cases].check(n, name)


@pytest.mark.mpi
@pytest.mark.parametrize("n", [2, 4])
@pytest.mark.parametrize("name", cases_of(group_cases))
def test_groups(name: str, n: int) -> None:
    LAUNCHES[group_cases].check(n, name)
