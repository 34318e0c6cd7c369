"""Megatron-LM's GPT on one node of eight A100 as the planner sees it: program, model and machine in published numbers.

What nobody published is in `Program`, with values that seemed likely before any fit.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from hpc_accel.plan.cost import StepModel
from hpc_accel.plan.software import Software
from hpc_accel.probe.hardware import Hardware, checked_hardware
from hpc_accel.study.layout import Layout
from hpc_accel.study.model_facts import LayerFacts, ModelFacts
from hpc_accel.study.run import Resources

VOCABULARY = 51_200
"""GPT-2's, padded as Megatron pads it."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One measurement."""

    gpus: int
    global_batch: int
    micro_batch: int
    hidden: int
    heads: int
    layers: int
    seq_len: int
    tp: int
    dp: int
    pp: int
    iter_ms: float

    @property
    def group(self) -> tuple[int, ...]:
        """Rows of a group compute the same on as many GPUs."""
        return self.gpus, self.global_batch, self.hidden, self.heads, self.layers, self.seq_len

    @property
    def layout(self) -> Layout:
        """As the planner writes it. Every run used 1F1B where it had stages."""
        accumulation = self.global_batch // self.dp // self.micro_batch
        schedule = None if self.pp == 1 else "1f1b" if accumulation >= self.pp else "gpipe"
        return Layout(
            dp=self.dp,
            pp=self.pp,
            tp=self.tp,
            schedule=schedule,  # type: ignore[arg-type]
            micro_batch_size=self.micro_batch,
            accumulation_steps=accumulation,
            split=self.split,
        )

    @property
    def split(self) -> Any:
        """Megatron gives every stage equally many blocks; embedding and head stand at the ends."""
        if self.pp == 1:
            return "auto"
        each = self.layers // self.pp
        return (each + 1, *[each] * (self.pp - 2), each + 1)

    @property
    def flops(self) -> float:
        """Of one iteration with full recomputation, by Megatron's formula."""
        s, h, n = self.seq_len, self.hidden, self.layers
        return 96 * self.global_batch * s * n * h * h * (1 + s / (6 * h) + VOCABULARY / (16 * n * h))


@dataclass(frozen=True, kw_only=True)
class Program:
    """What of Megatron's behaviour is not published: fitted, and named in the result."""

    operations_per_block: float = 60
    """Kernels a block's forward pass launches, at 10 us of host time each."""
    half_rate_flops: float = 5e9
    """A product of so many FLOPs reaches half the reachable rate."""
    pipeline_operations: float = 40
    """Kernels' worth of time a micro-batch's pass through a stage adds: sends, receives, waiting for them."""


def a100(program: Program) -> Hardware:
    """One node of eight A100-80GB: reachable bf16 rate, HBM and NVSwitch as published (see data/README.md)."""
    reachable = 271e12
    # Products per block and rows: the rate falls with the FLOPs of one product, whatever its shape.
    sizes = [
        {
            "precision": "fp16",
            "m": m,
            "n": w,
            "k": w,
            "flops_per_s": reachable / (1 + program.half_rate_flops / (2.0 * m * w * w)),
        }
        for m in (256, 1024, 4096, 16384)
        for w in (256, 512, 1024, 2048, 4096, 8192)
    ]
    allreduce = [
        {"ranks": 8, "bytes": 2**20, "time_s": 93e-6},
        *(
            {"ranks": 8, "bytes": size, "time_s": 2 * 7 / 8 * size / bus}
            for size, bus in ((2**24, 126e9), (2**28, 217e9), (2**30, 229e9))
        ),
    ]
    return checked_hardware(
        {
            "site": "a100",
            "created_utc": "published",
            "num_nodes": 1,
            "ranks_per_node": 8,
            "node_kinds": [
                {
                    "name": "a100",
                    "device": "cuda",
                    "device_name": "A100-80GB",
                    "devices_per_node": 8,
                    "num_cpus": 64,
                    "memory_bytes": 10**12,
                    "device_memory_bytes": 80 * 10**9,
                    "matmul_flops_per_s": {"fp16": reachable},
                    "matmul_by_size": sizes,
                    "memory_bandwidth_bytes_per_s": 2048e9,
                    "kernel_overhead_s": 10e-6,
                }
            ],
            "network": {
                "intra_node": {"latency_s": 10e-6, "bandwidth_bytes_per_s": 300e9, "allreduce": allreduce},
                "inter_node_reason": "one node",
            },
        }
    )


MEGATRON = Software(
    parameter_bytes=2,
    gradient_bytes=2,
    optimizer_state_bytes=16,
    optimizer_traffic_bytes=34,
    optimizer_operations_per_tensor=4,
    activation_bytes=2,
    wire_bytes=2,
    boundary_bytes=2,
    recompute="full",
    # Gradients are all-reduced after the last backward pass, as one buffer.
    overlaps_gradients=False,
    flattens_gradients=False,
    gradient_bucket_bytes=1e12,
    tensor_parallel_operations=2,
    collective_operations=2,
    data_parallel_operations=0,
    sample_operations=0,
    queues_collectives=True,
)


def gpt(row: Row, program: Program) -> ModelFacts:
    """Embedding, blocks, head. Kept elements: 34 s b h + 5 a s^2 b bytes in 16 bits (arXiv 2205.05198)."""
    s, h, a = row.seq_len, row.hidden, row.heads
    operations = round(program.operations_per_block)
    block_flops = 24.0 * s * h * h + 4.0 * s * s * h
    block = LayerFacts(
        name="block",
        num_parameters=12 * h * h,
        forward_flops_per_sample=block_flops,
        output_elements_per_sample=s * h,
        saved_elements_per_sample=17 * s * h + 5 * a * s * s // 2,
        tp_parameters=12 * h * h,
        tp_flops_per_sample=block_flops,
        tp_allreduce_elements_per_sample=2 * s * h,
        num_operations=operations,
        num_matmuls=6,
        num_parameter_tensors=12,
        tp_num_allreduces=2,
    )
    embedding = LayerFacts(
        name="embedding",
        num_parameters=VOCABULARY * h,
        forward_flops_per_sample=0.0,
        output_elements_per_sample=s * h,
        saved_elements_per_sample=2 * s * h,
        tp_parameters=VOCABULARY * h,
        tp_flops_per_sample=0.0,
        tp_allreduce_elements_per_sample=s * h,
        num_operations=10,
        num_parameter_tensors=2,
        tp_num_allreduces=1,
    )
    head = LayerFacts(
        name="head",
        num_parameters=0 if row.pp == 1 else VOCABULARY * h,  # tied to the embedding where they share a rank
        forward_flops_per_sample=2.0 * s * h * VOCABULARY,
        output_elements_per_sample=s * VOCABULARY,
        saved_elements_per_sample=2 * s * VOCABULARY,
        tp_parameters=0 if row.pp == 1 else VOCABULARY * h,
        tp_flops_per_sample=2.0 * s * h * VOCABULARY,
        tp_allreduce_elements_per_sample=0,
        num_operations=20,
        num_parameter_tensors=1,
    )
    return ModelFacts(
        layers=(embedding, *[block] * row.layers, head),
        num_samples=10**9,
        sample_bytes=8 * s,
        sequential=True,
        tp_units=a,
    )


class Planner:
    """Predicted iteration times; models are shared by the rows that have the same."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.hardware = a100(program)
        self.software = replace(MEGATRON, pipeline_operations=program.pipeline_operations)
        self.models: dict[tuple[int, ...], StepModel] = {}

    def __call__(self, row: Row) -> float:
        key = (row.hidden, row.heads, row.layers, row.seq_len, row.pp > 1)
        if key not in self.models:
            self.models[key] = StepModel(gpt(row, self.program), self.hardware, "fp16", self.software)
        resources = Resources(ranks_per_node=row.gpus, gpus_per_node=row.gpus)
        return sum(self.models[key].parts_s(row.layout, resources).values()) * 1e3
