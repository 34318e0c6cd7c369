"""Which GPUs of the node belong to this process: those torch holds, else CUDA_VISIBLE_DEVICES as CUDA reads it.

Where CUDA runs in this process, torch knows its GPUs by UUID, and no number need be translated. Elsewhere the variable
tells: unset means all that the node (or the job's cgroup) shows, otherwise a list of indices or of UUIDs, which may be
shortened; CUDA stops at the first entry it does not know. CUDA's indices are NVML's only if both count in one order.
A MIG slice has no counter of its own: the GPU's counter covers the neighbours' slices too, so it is not ours to report.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from hpc_accel.measure.energy.sensors.nvml_boards import Board

VARIABLE = "CUDA_VISIBLE_DEVICES"
ORDER = "CUDA_DEVICE_ORDER"
REMEDY = f"export {ORDER}=PCI_BUS_ID, or name GPUs in {VARIABLE} by UUID (nvidia-smi -L)"


@dataclass(frozen=True, kw_only=True, slots=True)
class Visible:
    """This process's boards; `reason` and `remedy` where there are none, fewer than named, or it cannot be told which.

    `may_be_more`: the boards are "all there are", so one that could not be opened may be among them.
    """

    boards: list[Board]
    reason: str = ""
    remedy: str = ""
    may_be_more: bool = False


def setting() -> str | None:
    """The variable; None when unset."""
    return os.environ.get(VARIABLE)


def of_process(boards: Sequence[Board]) -> Visible:
    """This process's among all boards of the node."""
    opened = [board for board in boards if not board.reason]
    held = uuids_of_torch()
    known = {board.uuid: board for board in opened}
    if held and all(uuid in known for uuid in held):
        return Visible(boards=[known[uuid] for uuid in held])
    # Torch knows a MIG slice by a UUID of the slice's own, which is none of NVML's boards.
    value, why = setting(), doubt(boards)
    if value is not None and _names_all(value, sum(not board.is_forbidden for board in boards)):
        value = None
    chosen, reason = select(value, [board.uuid for board in opened], why)
    return Visible(
        boards=[opened[index] for index in chosen],
        reason=reason,
        remedy=REMEDY if reason and reason == why else "",
        may_be_more=value is None or bool(reason and _entries(value)),
    )


def uuids_of_torch() -> list[str]:
    """UUIDs, as NVML writes them, of all GPUs CUDA shows this process; none where torch has not started CUDA.

    It is never started to find out: that would take memory on the GPU, and time.
    """
    cuda = getattr(sys.modules.get("torch"), "cuda", None)
    if cuda is None or not cuda.is_initialized():  # is_available would already start the driver's side of it
        return []
    return [f"GPU-{cuda.get_device_properties(index).uuid}" for index in range(cuda.device_count())]


def doubt(boards: Sequence[Board]) -> str:
    """Why CUDA's indices may not be positions among the boards that could be opened; empty where they are.

    CUDA begins with the fastest GPU and NVML with the lowest PCI address, unless the variable says otherwise. A board
    that is forbidden has no index with CUDA; of one that is broken nobody knows.
    """
    broken = [board for board in boards if board.reason and not board.is_forbidden]
    if broken:
        return f"{VARIABLE} counts GPUs, and one of them cannot be opened ({broken[0].reason})"
    names = sorted({board.name for board in boards if not board.reason})
    if len(names) > 1 and os.environ.get(ORDER) != "PCI_BUS_ID":
        return (
            f"{VARIABLE}={setting()} on a node with {' and '.join(names)}: CUDA counts the fastest first, NVML by PCI "
            "address, so it is not known which GPUs these are"
        )
    return ""


def _entries(value: str) -> list[str]:
    return [entry.strip() for entry in value.split(",") if entry.strip()]


def _names_all(value: str, count: int) -> bool:
    """Whether these are the numbers of all GPUs: then it does not matter which is which."""
    entries = _entries(value)
    numbered = bool(entries) and all(entry.isdecimal() for entry in entries)
    return numbered and set(map(int, entries)) == set(range(count))


def select(value: str | None, uuids: Sequence[str], doubtful: str = "") -> tuple[list[int], str]:
    """Indices into `uuids` that the value names, and why there are none or fewer than named (else "").

    `doubtful` is why a number may mean another GPU, where it may.
    """
    if value is None:
        return list(range(len(uuids))), ""
    entries = _entries(value)
    if not entries:
        return [], f"{VARIABLE} is empty: this process is given no GPU"
    if doubtful and any(entry.isdecimal() for entry in entries):
        return [], doubtful
    chosen: list[int] = []
    for entry in entries:
        if entry.startswith("MIG"):
            return [], f"{VARIABLE} names the MIG slice {entry}: the counter covers the whole GPU, not the slice"
        index = _index(entry, uuids)
        if index is None:
            return chosen, f"{VARIABLE} names {entry!r}, which is none of the {len(uuids)} GPUs here"
        chosen.append(index)
    return chosen, ""


def _index(entry: str, uuids: Sequence[str]) -> int | None:
    if entry.isdecimal():
        return int(entry) if int(entry) < len(uuids) else None
    matching = [index for index, uuid in enumerate(uuids) if uuid.startswith(entry)]
    return matching[0] if len(matching) == 1 else None
