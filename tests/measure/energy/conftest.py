"""A fake /sys, and time that passes when a test says so."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.measure import fake_nvml
from tests.measure.energy.virtual_time import VirtualClock


@pytest.fixture
def sysfs(tmp_path: Path, monkeypatch) -> Path:
    monkeypatch.setenv("HPC_ACCEL_SYSFS", str(tmp_path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return tmp_path


@pytest.fixture
def clock(monkeypatch) -> VirtualClock:
    found = VirtualClock()
    monkeypatch.setattr(fake_nvml, "now_s", lambda: found.now_ns() * 1e-9)
    return found
