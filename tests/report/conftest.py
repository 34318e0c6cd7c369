"""Study directories to report on, made once per test session; tests that change one copy it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.report.make_study import make_study


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Path:
    """A study without sensors or prices, in which one run is wrong, one failed and one missing."""
    return make_study(tmp_path_factory.mktemp("made") / "demo")


@pytest.fixture(scope="session")
def measured(tmp_path_factory) -> Path:
    """A study with energy and prices, in which all went well."""
    return make_study(tmp_path_factory.mktemp("measured") / "demo", energy=True, faults=False, price=True)


@pytest.fixture
def study(made, tmp_path) -> Path:
    """A copy of `made` that a test may break."""
    return Path(shutil.copytree(made, tmp_path / "demo"))


@pytest.fixture
def energy_study(measured, tmp_path) -> Path:
    """A copy of `measured` that a test may break."""
    return Path(shutil.copytree(measured, tmp_path / "demo"))
