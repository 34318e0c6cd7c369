"""What a made study's plan refuses, and the machine that it was planned for."""

from __future__ import annotations

from typing import Any


def refused_candidates() -> list[dict[str, Any]]:
    """Two that break a rule and one that was predicted to be slow."""
    split = {
        "value": "mlp pp4.1f1b: 4 stages for 2 layers",
        "rule": "every stage holds a layer",
        "remedy": "use pp 2 or less",
    }
    return [
        {"run_id": "mlp-pp4", "workload": "mlp", "layout": {"pp": 4, "micro_batch_size": 25, "accumulation_steps": 4},
         "recipe": {"precision": "fp32"}, "chosen": False, "why": "", "refused": split, "prediction": None},
        {"run_id": "lm-tp3", "workload": "lm", "layout": {"tp": 3, "micro_batch_size": 4, "accumulation_steps": 4},
         "recipe": {"precision": "fp32"}, "chosen": False, "why": "", "prediction": None,
         "refused": {"value": "lm tp3: 4 heads", "rule": "tp divides the heads", "remedy": "use tp 2 or 4"}},
        {"run_id": "lm-tp4", "workload": "lm", "layout": {"tp": 4, "micro_batch_size": 4, "accumulation_steps": 4},
         "recipe": {"precision": "fp32"}, "chosen": False, "why": "predicted rank 9 of 12 for time", "refused": None,
         "prediction": {"step_time_ms": 900.0}},
    ]  # fmt: skip


HARDWARE: dict[str, Any] = {
    "format": 1, "site": "local", "created_utc": "2026-01-05T09:58:00Z", "num_nodes": 1, "ranks_per_node": 4,
    "node_kinds": [{
        "name": "node01", "num_nodes": 1, "device": "cpu", "device_name": "AMD EPYC 9B14", "devices_per_node": 0,
        "num_cpus": 2, "memory_bytes": 16 * 2**30,
        "matmul_flops_per_s": {"fp32": 9.1e10, "bf16": 1.4e11, "fp16": None},
        "matmul_flops_per_s_reason": {"fp16": "no fp16 matrix multiplication on this CPU"},
        "memory_bandwidth_bytes_per_s": 1.9e10, "kernel_overhead_s": 4e-6, "concurrent_slowdown": 1.9}],
    "network": {"intra_node": {"latency_s": 1.1e-6, "bandwidth_bytes_per_s": 6.2e9, "points": [], "allreduce": []},
                "inter_node": None, "inter_node_reason": "one node probed"},
    "mpi": {"library": "Open MPI v5.0.11", "mpi4py": "4.1.2", "thread_level": "multiple", "gpu_aware": False},
    "sensors": [{"name": "rapl", "scope": "cpu-package", "available": False, "reason": "no powercap in this machine"},
                {"name": "nvml", "scope": "gpu-board", "available": False, "reason": "no NVIDIA driver"}],
    "provenance": {"torch": "2.13.0", "python": "3.11.2", "git": "0123abc"},
}  # fmt: skip
