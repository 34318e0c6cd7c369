"""What tensor-parallel ranks exchange, forward and backward, against differences of the whole loss."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.mpirun import check, mpirun

CASES = [
    "copy",
    "total",
    *(f"{name}{dim}" for name in ("gather", "gather_partial", "scatter", "part") for dim in (0, 1)),
]


@pytest.fixture(scope="module")
def errors():
    output = check(mpirun(2, Path(__file__).with_name("exchange_ranks.py"), timeout_s=90))
    [line] = [line for line in output.splitlines() if line.startswith("RESULT ")]
    return json.loads(line.removeprefix("RESULT "))


@pytest.mark.mpi
@pytest.mark.parametrize("case", CASES)
def test_backward_is_the_gradient_of_the_loss_of_all_ranks(errors, case):
    assert errors[case] < 1e-8
