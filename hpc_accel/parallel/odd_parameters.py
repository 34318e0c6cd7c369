"""Parameters that a layout does not treat like the rest, told by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from hpc_accel.parallel.pieces import plain
from hpc_accel.workloads.control_flow import ControlFlow

MOST_NAMED = 5


def whole_under_shard(modules: Mapping[int, nn.Module]) -> list[str]:
    """Of modules that FSDP2 divided, the trainable parameters that are whole on every rank."""
    named = [pair for module in modules.values() for pair in module.named_parameters()]
    return [plain(name) for name, each in named if each.requires_grad and not hasattr(each, "to_local")]


def told(comm: Any, mine: Sequence[str], flow: ControlFlow) -> tuple[str, ...]:
    """Sentences for the record; `mine` are this rank's whole ones. Collective."""
    whole = list(dict.fromkeys(name for part in comm.allgather(list(mine)) for name in part))
    said = []
    if whole:
        said.append(
            f"{_named(whole)} stay whole on every rank under shard full, as scalars, complex, strided and sparse "
            "ones do, and those of another type than most"
        )
    if flow.unused:
        said.append(f"{_named(flow.unused)} are never trained: the loss does not depend on them")
    if flow.looks_at_values:
        said.append("which ones a step trains follows from values in forward; replicas count zeros for the idle ones")
    return tuple(f"parameters: {each}" for each in said)


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return ", ".join(names[:MOST_NAMED]) + more
