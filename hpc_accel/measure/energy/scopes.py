"""Which joules contain which: what may be added up, and which total a run of several nodes can give.

    node, node-dc, node-ac         contain everything below
    platform (psys)                contains cpu-package, cpu-core, cpu-uncore, dram and more; told apart, never summed
    module (GH200)                 contains gpu-board and grace
    grace                          contains grace-cpu and grace-sysio
    cpu-package                    contains cpu-core and cpu-uncore; dram lies outside it on servers
    gpu-card                       contains gpu-tile

A total is one node scope, else the outermost disjoint scopes that every node has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

NODE_SCOPES = ("node", "node-dc", "node-ac")
NEVER_SUMMED = frozenset({"platform"})
GPU_SCOPES = frozenset({"gpu-board", "gpu-card", "gpu-tile"})
"""GPUs by themselves. A module is none: its processor may be at work while its GPU is not."""
_INSIDE: dict[str, frozenset[str]] = {
    "platform": frozenset({"cpu-package", "cpu-core", "cpu-uncore", "dram"}),
    "module": frozenset({"gpu-board", "grace", "grace-cpu", "grace-sysio"}),
    "grace": frozenset({"grace-cpu", "grace-sysio"}),
    "cpu-package": frozenset({"cpu-core", "cpu-uncore"}),
    "gpu-card": frozenset({"gpu-tile"}),
}
NAMES = {
    "node": "whole nodes",
    "node-dc": "whole nodes (DC)",
    "node-ac": "whole nodes (AC, with power supply losses)",
    "module": "modules (CPU + GPU)",
    "gpu-board": "GPU boards",
    "gpu-card": "GPU cards",
    "gpu-tile": "GPU tiles",
    "grace": "Grace CPUs with SysIO",
    "grace-cpu": "Grace CPUs",
    "grace-sysio": "Grace SysIO",
    "cpu-package": "CPU packages",
    "cpu-core": "CPU cores",
    "cpu-uncore": "CPU uncore",
    "dram": "DRAM",
    "platform": "platform (psys)",
}
SOURCE_ORDER = ("pm_counters", "nvml", "zeus", "rapl", "intel", "hwmon")
"""Which source is believed where two measure the same scope of one node."""


def contains(outer: str, inner: str) -> bool:
    """Whether a joule of `inner` is also one of `outer`."""
    if outer in NODE_SCOPES:
        return inner not in NODE_SCOPES
    return inner in _INSIDE.get(outer, frozenset())


def disjoint(scopes: Iterable[str]) -> list[str]:
    """The outermost of these scopes: none contains another, and none is one that is never summed."""
    found = [scope for scope in NAMES if scope in set(scopes)]
    whole = [scope for scope in NODE_SCOPES if scope in found]
    if whole:
        return whole[:1]
    found = [scope for scope in found if scope not in NEVER_SUMMED]
    return [scope for scope in found if not any(contains(other, scope) for other in found)]


def choose(scopes_by_node: Mapping[str, Iterable[str]]) -> list[str]:
    """The scopes of the run's total: those every measuring node has; without any, those most nodes have."""
    nodes = [set(scopes) for scopes in scopes_by_node.values() if scopes]
    if not nodes:
        return []
    common = disjoint(set.intersection(*nodes))
    if common:
        return common
    alternatives = [disjoint(scopes) for scopes in nodes]
    return max(alternatives, key=lambda wanted: sum(set(wanted) <= scopes for scopes in nodes), default=[])


def describe(scopes: Sequence[str]) -> str:
    """The scope in full: "GPU boards + CPU packages + DRAM"."""
    return " + ".join(NAMES[scope] for scope in NAMES if scope in scopes)
