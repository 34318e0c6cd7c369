"""A stand-in for pynvml: GPUs at 300 W, and one fault at a time, chosen by FAKE_NVML_FAULT.

FAKE_NVML_NAMES gives boards names of their own; ANSWERS holds what else a test wants to be told.
"""

from __future__ import annotations

import os
import time

FAULT = os.environ.get("FAKE_NVML_FAULT", "")
UUIDS = os.environ.get("FAKE_NVML_UUIDS", "GPU-aaaa-1,GPU-bbbb-2").split(",")
NAMES = os.environ.get("FAKE_NVML_NAMES", "").split(",")
POWER_W = 300.0
NVML_CLOCK_SM = 1
ANSWERS = {"sm_mhz": 900, "reasons": 0x2, "max_sm_mhz": 1410, "ecc": [1, 1], "persistence": 1, "driver": b"580.82.07"}

if FAULT == "import":
    raise RuntimeError("driver library is of another version")
if FAULT == "import-exit":
    raise SystemExit(3)


class NVMLError(Exception):
    """What the library raises."""

    def __init__(self, said, value=999):
        super().__init__(said)
        self.value = value


def _answer(name):
    if isinstance(ANSWERS[name], Exception):
        raise ANSWERS[name]
    return ANSWERS[name]


def now_s():
    """The time that counters follow."""
    return time.perf_counter()


def nvmlInit():
    if FAULT == "init":
        raise NVMLError("Driver Not Loaded")
    if FAULT == "block-init":
        time.sleep(3600)


def nvmlDeviceGetCount():
    return len(UUIDS)


def nvmlDeviceGetHandleByIndex(index):
    """The first board can be another job's, or broken: neither may hide the second."""
    if FAULT == "handle-one" and index == 0:
        raise NVMLError("Insufficient Permissions", 4)
    if FAULT == "lost-one" and index == 0:
        raise NVMLError("GPU is lost", 15)
    return index


def nvmlDeviceGetHandleByUUID(uuid):
    if uuid not in UUIDS:
        raise NVMLError("Not Found", 6)
    return nvmlDeviceGetHandleByIndex(UUIDS.index(uuid))


def nvmlDeviceGetUUID(handle):
    return UUIDS[handle].encode()


def nvmlDeviceGetName(handle):
    if handle < len(NAMES) and NAMES[handle]:
        return NAMES[handle]
    return "NVIDIA GH200 480GB" if FAULT == "gh200" else "NVIDIA A100-SXM4-40GB"


def nvmlDeviceGetMigMode(handle):
    if FAULT == "mig":
        return [1, 1]
    raise NVMLError("Not Supported")


_reads = {"count": 0}


def nvmlDeviceGetTotalEnergyConsumption(handle):
    _reads["count"] += 1
    after_start = _reads["count"] > len(UUIDS)
    if FAULT == "no-counter":
        raise NVMLError("Not Supported")
    if FAULT == "read" and after_start:
        raise NVMLError("GPU is lost")
    if FAULT == "read-one" and after_start and handle == 1:
        raise NVMLError("GPU is lost")
    if FAULT == "block-read" and after_start:
        time.sleep(3600)
    if FAULT == "zero":
        return 0
    return round(now_s() * POWER_W * 1000)


def nvmlDeviceGetPowerUsage(handle):
    return round(POWER_W * 1000)


LIMITS_MW = {}
CLOCKS_MHZ = {}


def nvmlDeviceGetPowerManagementLimitConstraints(handle):
    return 100_000, 400_000


def nvmlDeviceGetPowerManagementLimit(handle):
    return LIMITS_MW.get(handle, 400_000)


def nvmlDeviceSetPowerManagementLimit(handle, limit_mw):
    if FAULT == "no-permission":
        raise NVMLError("Insufficient Permissions")
    LIMITS_MW[handle] = limit_mw


def nvmlDeviceSetGpuLockedClocks(handle, low_mhz, high_mhz):
    CLOCKS_MHZ[handle] = (low_mhz, high_mhz)


def nvmlDeviceResetGpuLockedClocks(handle):
    del CLOCKS_MHZ[handle]


def nvmlDeviceGetClockInfo(handle, kind):
    if FAULT == "block-clock":
        time.sleep(3600)
    assert kind == NVML_CLOCK_SM
    return _answer("sm_mhz")


def nvmlDeviceGetCurrentClocksThrottleReasons(handle):
    return _answer("reasons")


def nvmlDeviceGetMaxClockInfo(handle, kind):
    assert kind == NVML_CLOCK_SM
    return _answer("max_sm_mhz")


def nvmlDeviceGetEccMode(handle):
    return _answer("ecc")


def nvmlDeviceGetPersistenceMode(handle):
    return _answer("persistence")


def nvmlSystemGetDriverVersion():
    return _answer("driver")
