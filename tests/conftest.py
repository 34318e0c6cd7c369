"""Shared by all tests: what needs hardware or services that are not here is skipped, visibly."""

from __future__ import annotations

import functools
import os
from collections.abc import Generator

import pytest

LONGEST = ["slurm", "tests", "workflow", "train", "mpi", "cli", "infer"]


@functools.lru_cache(maxsize=1)
def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests that share what there is once go to the same of the parallel workers: the cluster, and module fixtures.

    The longest come first, so that no worker is left alone with them at the end. First, because pytest-xdist looks at
    the groups in the same hook.
    """
    items.sort(key=lambda item: LONGEST.index(item.path.parent.name) if item.path.parent.name in LONGEST else 99)
    for item in items:
        uses_cluster = item.path.parent.name == "slurm" or item.get_closest_marker("slurm")
        group = "slurm" if uses_cluster else item.path.name  # tests/slurm marks its tests only after this
        item.add_marker(pytest.mark.xdist_group(group))


def pytest_collection_finish(session: pytest.Session) -> None:
    """A pytest that pytest-xdist does not know ignores the groups without a word: two workers would use one cluster."""
    grouped = getattr(session.config.option, "loadgroup", False)  # in a worker only
    if grouped and any("@" not in item.nodeid for item in session.items):
        raise pytest.UsageError("pytest-xdist lost the groups of the tests: install the locked pytest and pytest-xdist")


def pytest_runtest_setup(item: pytest.Item) -> None:
    pretended = os.environ.get("HPC_ACCEL_PRETEND_GPU") == "1"  # make gpu-check tries itself on a CPU
    if item.get_closest_marker("gpu") and not (_has_gpu() or pretended):
        pytest.skip("needs a CUDA device: none here")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """HPC_ACCEL_REQUIRE="mpi browser" makes a skipped test with one of these marks a failure: CI must not pass by
    not looking."""
    report = yield
    required = [mark for mark in os.environ.get("HPC_ACCEL_REQUIRE", "").split() if item.get_closest_marker(mark)]
    needs_gpu = item.get_closest_marker("gpu") is not None  # CI has none, and says so in its list of skips
    if report.skipped and required and not needs_gpu and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, but HPC_ACCEL_REQUIRE has {required[0]}: {report.longrepr}"
    return report
