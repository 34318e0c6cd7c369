"""What the figures of an NVIDIA GPU depend on beside the program: libraries, driver, each board's limits and modes.

Everything is only read, never set, and each fact fails by itself: what is None has its reason. torch is asked only
where it is loaded already; NVML only where a driver is, and not longer than TIMEOUT_S, so that a driver that hangs
costs the facts and not the record.
"""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Callable
from typing import Any

from hpc_accel.measure.energy.sensors import nvml_boards, visible_gpus

TIMEOUT_S = 10.0
LIBRARIES: dict[str, Callable[[Any], Any]] = {
    "cuda": lambda torch: torch.version.cuda,
    "cudnn": lambda torch: torch.backends.cudnn.version(),
    "nccl": lambda torch: ".".join(map(str, torch.cuda.nccl.version())),
}
"""What torch was built with or loads; cuDNN as its own library writes it, 91002 for 9.10.2."""
OF_A_BOARD: dict[str, Callable[[Any, Any], Any]] = {
    "power_limit_w": lambda nvml, handle: nvml.nvmlDeviceGetPowerManagementLimit(handle) / 1000,
    "max_sm_clock_mhz": lambda nvml, handle: nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM),
    "ecc": lambda nvml, handle: bool(nvml.nvmlDeviceGetEccMode(handle)[0]),
    "mig": lambda nvml, handle: bool(nvml.nvmlDeviceGetMigMode(handle)[0]),
    "persistence": lambda nvml, handle: bool(nvml.nvmlDeviceGetPersistenceMode(handle)),
}
"""As they are now: what a run set for itself it has put back by the time its record is written."""


def collect() -> dict[str, Any]:
    """cuda, cudnn, nccl, nvidia_driver; `gpus`, a row per board of this process; `gpu_reasons` for what is None."""
    libraries, found = _libraries(), _in_time(_boards)
    return libraries | found | {"gpu_reasons": libraries["gpu_reasons"] | found["gpu_reasons"]}


def _libraries() -> dict[str, Any]:
    torch = sys.modules.get("torch")
    if torch is None or torch.version.cuda is None:
        why = "torch is not loaded" if torch is None else "torch is built without CUDA"
        return dict.fromkeys(LIBRARIES) | {"gpu_reasons": dict.fromkeys(LIBRARIES, why)}
    facts, reasons = _each(LIBRARIES, torch)
    return facts | {"gpu_reasons": reasons}


def _boards() -> dict[str, Any]:
    nvml = nvml_boards.load()
    driver, reasons = _each({"nvidia_driver": lambda nvml: nvml_boards.text(nvml.nvmlSystemGetDriverVersion())}, nvml)
    seen = nvml_boards.listed(nvml)
    mine = visible_gpus.of_process(seen)
    rows = []
    for board in mine.boards:
        facts, why = _each(OF_A_BOARD, nvml, board.handle)
        rows.append({"uuid": board.uuid, "name": board.name} | facts | {"reasons": why})
    missing = [board.reason for board in seen if board.reason and mine.may_be_more and not board.is_forbidden]
    told = "; ".join(filter(None, [mine.reason, *missing]))
    return driver | {"gpus": rows, "gpu_reasons": reasons | ({"gpus": told} if told else {})}


def _each(questions: dict[str, Callable[..., Any]], *asked: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """All answers by name, and why for each that is None."""
    facts: dict[str, Any] = {}
    reasons: dict[str, str] = {}
    for name, question in questions.items():
        try:
            facts[name] = question(*asked)
        except Exception as error:  # whatever a library raises is the reason
            facts[name], reasons[name] = None, nvml_boards.said(error)
        else:
            if facts[name] is None:
                reasons[name] = "the library does not say"
    return facts, reasons


def _in_time(function: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `function` finds, in a thread that may hang; else nothing and why."""
    if not nvml_boards.has_driver():
        return _nothing("no NVIDIA driver here")
    answer: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

    def run() -> None:
        try:
            answer.put(function())
        except BaseException as error:  # a broken driver library may raise anything, SystemExit too
            answer.put(_nothing(f"NVML: {nvml_boards.said(error)}"))

    try:
        threading.Thread(target=run, name="gpu-facts", daemon=True).start()
        return answer.get(timeout=TIMEOUT_S)
    except RuntimeError as error:  # a limit on threads or memory
        return _nothing(f"no thread to ask NVML: {error}")
    except queue.Empty:
        return _nothing(f"NVML did not answer within {TIMEOUT_S:g} s")


def _nothing(reason: str) -> dict[str, Any]:
    return {"nvidia_driver": None, "gpus": [], "gpu_reasons": {"nvidia_driver": reason, "gpus": reason}}
