"""A machine and models with round numbers, so that every expectation can be computed by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hpc_accel.probe.hardware import Hardware, checked_hardware
from hpc_accel.study.layout import Layout
from hpc_accel.study.model_facts import LayerFacts, ModelFacts
from hpc_accel.study.optimizer import Optimizer
from hpc_accel.study.recipe import Precision, Recipe
from hpc_accel.study.run import Measure, Resources, Run, WorkloadSpec

LAYER = LayerFacts(
    name="block",
    num_parameters=1_000_000,
    forward_flops_per_sample=2e9,
    output_elements_per_sample=1_000,
    saved_elements_per_sample=10_000,
    tp_parameters=1_000_000,
    tp_flops_per_sample=2e9,
    tp_allreduce_elements_per_sample=2_000,
    num_operations=10,
    num_matmuls=2,
    num_parameter_tensors=4,
    tp_num_allreduces=2,
)


def model(num_layers: int = 8, **changes: Any) -> ModelFacts:
    """`num_layers` equal layers, cut into 4 by tensor parallelism."""
    layer = replace(LAYER, **changes)
    return ModelFacts(
        layers=(layer,) * num_layers,
        num_samples=100_000,
        sample_bytes=1_000,
        sequential=True,
        tp_units=4,
        sequence_length=64,
    )


def link(latency_s: float = 1e-5, bandwidth_bytes_per_s: float = 1e10) -> dict[str, Any]:
    """A link that is latency and bandwidth and nothing else."""
    return {"latency_s": latency_s, "bandwidth_bytes_per_s": bandwidth_bytes_per_s}


def machine_json(*, num_nodes: int = 1, ranks_per_node: int = 4, device: str = "cuda", **kind: Any) -> dict[str, Any]:
    """1 TFLOP/s, 100 GB/s of memory, 10 us per operation, GPUs of 16 GB."""
    return {
        "format": 1,
        "site": "local",
        "created_utc": "2026-11-22T00:00:00+00:00",
        "num_nodes": num_nodes,
        "ranks_per_node": ranks_per_node,
        "node_kinds": [
            {
                "name": "node",
                "num_nodes": num_nodes,
                "device": device,
                "devices_per_node": ranks_per_node if device == "cuda" else 0,
                "num_cpus": 64,
                "memory_bytes": 64 * 10**9,
                "device_memory_bytes": 16 * 10**9 if device == "cuda" else None,
                "matmul_flops_per_s": {"fp32": 1e12, "bf16": 2e12, "fp16": None},
                "matmul_flops_per_s_reason": {"fp16": "not tried"},
                "memory_bandwidth_bytes_per_s": 1e11,
                "kernel_overhead_s": 1e-5,
                **kind,
            }
        ],
        "network": {
            "intra_node": link(),
            "inter_node": link(2e-5, 1e9) if num_nodes > 1 else None,
            "inter_node_reason": None if num_nodes > 1 else "one node probed",
        },
    }


def machine(**changes: Any) -> Hardware:
    """`machine_json` as Hardware."""
    return checked_hardware(machine_json(**changes))


def run(
    *,
    dp: int = 1,
    pp: int = 1,
    tp: int = 1,
    micro: int = 8,
    accumulation: int = 1,
    schedule: Any = None,
    precision: Precision = "fp32",
    ranks_per_node: int = 4,
    steps: int = 10,
    recipe: dict[str, Any] | None = None,
    hardware: Hardware | None = None,
    **more: Any,
) -> Run:
    """A resolved run on GPUs, or on CPUs where `hardware` is of those.

    Its global batch follows from the layout, of which `more` are further fields.
    """
    layout = Layout(
        dp=dp, pp=pp, tp=tp, schedule=schedule, micro_batch_size=micro, accumulation_steps=accumulation, **more
    )
    per_node = min(layout.num_ranks, ranks_per_node)
    return Run(
        study="example",
        site="local",
        workload=WorkloadSpec(
            name="toy",
            entry="toy:build",
            global_batch_size=dp * micro * accumulation,
            optimizer=Optimizer(name="adamw"),
        ),
        layout=layout,
        recipe=Recipe(precision=precision, **(recipe or {})),
        resources=Resources(
            num_nodes=layout.num_ranks // per_node,
            ranks_per_node=per_node,
            gpus_per_node=0 if hardware is not None and hardware.slowest.device == "cpu" else per_node,
        ),
        measure=Measure(steps=steps),
    )
