"""Shared by all tests: what needs hardware or services that are not here is skipped, visibly."""

from __future__ import annotations

import functools

import pytest


@functools.lru_cache(maxsize=1)
def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and not _has_gpu():
        pytest.skip("needs a CUDA device: none here")
