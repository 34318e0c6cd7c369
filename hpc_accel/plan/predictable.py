"""Whether a run's time can be predicted at all, and if not, why: what was not measured, and what spreads too widely."""

from __future__ import annotations

from hpc_accel.plan.calibration import Calibration
from hpc_accel.probe.hardware import Hardware, NodeKind
from hpc_accel.study.devices import on_gpus
from hpc_accel.study.layout import Layout
from hpc_accel.study.recipe import CALIBRATED, Precision, Recipe, Recompute
from hpc_accel.study.run import Resources

UNKNOWN = ("compile", "channels_last", "static_graph", "pin_memory", "offload", "cpu_bind", "quantize", "prune")
"""Options whose effect on speed is not predicted. Their memory is, where it differs."""


def unpredictable(
    hardware: Hardware, precision: Precision, layout: Layout, resources: Resources, device: str
) -> str | None:
    """Why no time can be predicted, or None."""
    return (
        _unmeasured(hardware, precision, layout, resources, device)
        or _unlinked(hardware, layout, resources)
        or _crowded(hardware, resources)
    )


def uncertain(
    calibration: Calibration | None,
    precision: Precision,
    recompute: Recompute,
    options: tuple[str, ...],
    layout: Layout,
    resources: Resources,
) -> str | None:
    """Why a predicted time is good for an order at most, or None."""
    if calibration is None:
        return None
    disturbed = calibration.disturbed(precision, recompute, options, layout, resources.ranks_per_node)
    return f"the calibration was disturbed: {disturbed}" if disturbed else None


def _crowded(hardware: Hardware, resources: Resources) -> str | None:
    """More ranks than cores: the system decides when each computes, and equal runs differ by a factor of two."""
    kind = hardware.slowest
    if kind.device != "cpu" or resources.ranks_per_node <= kind.num_cpus:
        return None
    return f"{resources.ranks_per_node} ranks share {kind.num_cpus} core(s) of a node: equal runs differ by up to twice"


def _unmeasured(
    hardware: Hardware, precision: Precision, layout: Layout, resources: Resources, device: str
) -> str | None:
    kind = hardware.slowest
    used = {"cuda" if on_gpus(device, part.gpus_per_node) else "cpu" for part in resources.each_kind}
    if kind.device not in used:
        remedy = ": resources.gpus_per_node says how many GPUs it may use" if kind.device == "cuda" else ""
        return f"the probe measured {kind.device}, the run uses {' and '.join(sorted(used))}{remedy}"
    if kind.matmul_flops_per_s.get(precision) is None:
        why = kind.matmul_flops_per_s_reason.get(precision, "not probed")
        return f"no {precision} matrix-product rate: {why}"
    if layout.shares is not None and len(hardware.node_kinds) > 1:
        return "unequal shares on nodes of several kinds: which replica is on which is not known before the run"
    return None


def _unlinked(hardware: Hardware, layout: Layout, resources: Resources) -> str | None:
    network = hardware.network
    if resources.num_nodes > 1 and network.inter_node is None:
        return f"no network between nodes: {network.inter_node_reason}"
    if layout.num_ranks > 1 and network.intra_node is None and resources.ranks_per_node > 1:
        return f"no network within a node: {network.intra_node_reason}"
    return None


def not_probed(
    recipe: Recipe, kind: NodeKind, resources: Resources, calibration: Calibration | None = None
) -> str | None:
    """What `recipe` changes about speed in a way that no formula here knows and `calibration` did not measure."""
    unknown = [name for name in UNKNOWN if getattr(recipe, name) != Recipe.model_fields[name].default]
    if calibration is not None and calibration.measures(recipe):
        unknown = [name for name in unknown if name not in CALIBRATED]
    if recipe.threads_per_rank not in (None, kind.level(resources.ranks_per_node).threads):
        unknown.append("threads_per_rank")
    return (
        f"the probe measured without {', '.join([*recipe.frequencies, *unknown])}"
        if recipe.frequencies or unknown
        else None
    )
