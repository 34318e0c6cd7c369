"""NVIDIA GPUs through nvidia-ml-py: the board's energy counter (Volta and newer), else its power, integrated.

The counter counts millijoules of the whole board since the driver was loaded and changes every 10 to 100 ms.
On GH200 it covers the module, processor included. The library is loaded in discover() and never at import.
Which GPUs are ours, see visible_gpus.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hpc_accel.measure.energy.sensors import nvml_boards, visible_gpus
from hpc_accel.measure.energy.sensors.nvml_boards import Board, said
from hpc_accel.measure.energy.sensors.sensor import Reading, Sensor, SensorError, SensorInfo, absent

SOURCE = "nvml"
UPDATE_PERIOD_S = 0.1
MAX_POWER_W = 3000.0


@dataclass(frozen=True, slots=True)
class NvmlGpu:
    """One board."""

    info: SensorInfo
    nvml: Any
    handle: Any

    def read(self) -> Reading:
        """Counter or power now; whatever the library raises becomes the reason."""
        try:
            if self.info.kind == "counter":
                energy_mj = self.nvml.nvmlDeviceGetTotalEnergyConsumption(self.handle)
                return Reading(energy_j=float(energy_mj) * 1e-3)
            power_mw = self.nvml.nvmlDeviceGetPowerUsage(self.handle)
            return Reading(power_w=float(power_mw) * 1e-3)
        except Exception as error:
            raise SensorError(f"{self.info.name}: {said(error)}") from error


def _is_sliced(nvml: Any, handle: Any) -> bool:
    """Whether MIG is on; GPUs without MIG answer with an error."""
    try:
        return bool(nvml.nvmlDeviceGetMigMode(handle)[0])
    except Exception:
        return False


def _gpu(nvml: Any, board: Board) -> Sensor:
    """The board's counter where it has one, else its power; else the library's reason."""
    name = f"nvml {board.name} {board.uuid}"
    scope = "module" if "GH200" in board.name else "gpu-board"
    if _is_sliced(nvml, board.handle):
        reason = f"{board.name} {board.uuid}: MIG is on, the counter covers all slices"
        return absent(SOURCE, scope, reason, name=name, key=board.uuid, present=True)
    reasons: list[str] = []
    for kind in ("counter", "power"):
        sensor = NvmlGpu(
            SensorInfo(
                name=name,
                source=SOURCE,
                scope=scope,
                key=board.uuid,
                kind=kind,
                update_period_s=UPDATE_PERIOD_S,
                is_global=True,
                max_power_w=MAX_POWER_W,
            ),
            nvml,
            board.handle,
        )
        try:
            sensor.read()
        except SensorError as error:
            reasons.append(error.reason)
        else:
            return sensor
    remedy = "bare metal or a passed-through GPU has it"
    return absent(SOURCE, scope, "; ".join(reasons), remedy, name=name, key=board.uuid, present=True)


def _closed(board: Board, *, may_be_ours: bool) -> Sensor:
    """A board that could not be opened: others' if it is forbidden or if all of ours are known, else missing."""
    ours = may_be_ours and not board.is_forbidden
    remedy = "ask an administrator to look at the node's GPUs (nvidia-smi)" if ours else ""
    name = f"nvml board {board.index}"
    return absent(SOURCE, "gpu-board", board.reason, remedy, name=name, present=True, ours=ours)


def discover() -> list[Sensor]:
    """The GPUs of this process; one bad GPU does not hide the others."""
    if not nvml_boards.has_driver():
        return [absent(SOURCE, "gpu-board", "no NVIDIA driver here")]
    try:
        nvml = nvml_boards.load()
        seen = nvml_boards.listed(nvml)
    except Exception as error:
        return [absent(SOURCE, "gpu-board", f"NVML gives no GPU: {said(error)}")]
    mine = visible_gpus.of_process(seen)
    found: list[Sensor] = [_gpu(nvml, board) for board in mine.boards]
    found += [_closed(board, may_be_ours=mine.may_be_more) for board in seen if board.reason]
    if mine.reason:
        # GPUs that are there and cannot be told apart or read are missed; an entry that names nothing is not.
        missed = bool(mine.remedy) or "MIG" in mine.reason
        name = f"nvml {visible_gpus.VARIABLE}"
        found.append(absent(SOURCE, "gpu-board", mine.reason, mine.remedy, name=name, present=missed))
    return found or [absent(SOURCE, "gpu-board", "the NVIDIA driver shows no GPU to this process")]
