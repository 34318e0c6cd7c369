"""BatchNorm over the samples of several ranks, beside torch's on the whole batch."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.mpirun import check, mpirun
from tests.parallel.batch_norm_ranks import CASES

ALLOWED = {"": 1e-6, " far": 1e-9, " bf16": 1e-2}
"""In fp64 a mean of 500 times the spread costs some digits of either."""


@pytest.fixture(scope="module")
def errors():
    output = check(mpirun(3, Path(__file__).with_name("batch_norm_ranks.py"), timeout_s=90))
    [line] = [line for line in output.splitlines() if line.startswith("RESULT ")]
    return json.loads(line.removeprefix("RESULT "))


@pytest.mark.mpi
@pytest.mark.parametrize("kind", ALLOWED)
@pytest.mark.parametrize("case", CASES)
def test_unequal_shares_make_one_batch(errors, case, kind):
    assert errors[case + kind] < ALLOWED[kind]


@pytest.mark.mpi
@pytest.mark.parametrize("kind", ["full", "selective"])
def test_recomputation_synchronises_again(errors, kind):
    assert errors[f"recomputed {kind}"] < 1e-6
