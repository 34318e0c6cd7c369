"""Which GPUs of the node belong to this job: CUDA_VISIBLE_DEVICES, as CUDA reads it.

Unset means all that the node (or the job's cgroup) shows. Otherwise a list of indices or of UUIDs, which may
be shortened; CUDA stops at the first entry it does not know. A MIG slice has no counter of its own: the
GPU's counter covers the neighbours' slices too, so it is not ours to report.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

VARIABLE = "CUDA_VISIBLE_DEVICES"


def setting() -> str | None:
    """The variable; None when unset."""
    return os.environ.get(VARIABLE)


def select(value: str | None, uuids: Sequence[str]) -> tuple[list[int], str]:
    """Indices into `uuids` that the value names, and why there are none or fewer than named (else "")."""
    if value is None:
        return list(range(len(uuids))), ""
    entries = [entry.strip() for entry in value.split(",") if entry.strip()]
    if not entries:
        return [], f"{VARIABLE} is empty: this process is given no GPU"
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
