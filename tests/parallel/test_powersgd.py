"""PowerSGD's memory follows the parameters when buckets change."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mpirun import check, mpirun


@pytest.mark.mpi
def test_it_goes_on_bit_for_bit_where_other_buckets_hold_the_parameters():
    check(mpirun(2, Path(__file__).with_name("powersgd_buckets.py"), timeout_s=90))
