"""For each framework, what a field becomes there; None, or no rule, means that it cannot be said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from hpc_accel.study.run import Run

Framework = Literal["torchrun", "fsdp", "accelerate", "deepspeed", "torchtitan"]
FRAMEWORKS: tuple[Framework, ...] = ("torchrun", "fsdp", "accelerate", "deepspeed", "torchtitan")
Rule = Callable[[Any, Run], str | None]
ALWAYS = (
    *("layout.dp", "layout.shard", "layout.micro_batch_size", "layout.accumulation_steps", "recipe.precision", "seed"),
    *("resources.num_nodes", "resources.ranks_per_node", "backend", "measure.steps"),
)
"""Fields that a configuration says also where they have their defaults."""
SCHEDULES = {
    "gpipe": "GPipe",
    "1f1b": "1F1B",
    "interleaved_1f1b": "Interleaved1F1B",
    "looped_bfs": "LoopedBFS",
    "interleaved_zero_bubble": "InterleavedZeroBubble",
    "zbv_zero_bubble": "ZBVZeroBubble",
    "dualpipev": "DualPipeV",
}
NOT_SAID = {
    "torchrun": "DistributedDataParallel has no such setting: use hpc-accel produce, or add it to train.py",
    "fsdp": "fully_shard has no such setting: use hpc-accel produce, or add it to train.py",
    "accelerate": "its configuration has no such setting: use hpc-accel produce, or add it to train.py",
    "deepspeed": "ds_config.json has no such setting: use hpc-accel produce, or add it to train.py",
    "torchtitan": "it has no such setting: use hpc-accel produce",
}
_DIMENSION = "train.py replicates the model and does not divide it: its ranks are the dp replicas alone; use "
REASONS: dict[tuple[str, str], str] = {
    ("", "layout.pp"): _DIMENSION + "--to torchtitan, or hpc-accel produce",
    ("", "layout.tp"): _DIMENSION + "--to torchtitan, or hpc-accel produce",
    ("", "layout.schedule"): "without pipeline stages there is no schedule",
    ("", "layout.stages_per_rank"): "without pipeline stages there are none",
    ("", "layout.split"): "without pipeline stages nothing is split",
    ("", "layout.shares"): "every rank takes equally many samples",
    ("", "layout.order"): "there is one dimension, so no order",
    ("", "resources.memory_mb"): "launch.sh asks Slurm for nothing: job.sbatch of the run does",
    ("", "resources.cpus_per_rank"): "launch.sh asks Slurm for nothing: job.sbatch of the run does",
    ("", "resources.partition"): "launch.sh asks Slurm for nothing: job.sbatch of the run does",
    ("", "resources.time_limit_min"): "launch.sh asks Slurm for nothing: job.sbatch of the run does",
    ("", "resources.sbatch_options"): "launch.sh asks Slurm for nothing: job.sbatch of the run does",
    ("", "resources.node_kinds"): "ranks are started on equal nodes",
    ("", "recipe.data_workers"): "train.py reads samples in the training process: slower where reading takes long",
    ("", "recipe.pin_memory"): "train.py reads samples in the training process",
    ("", "recipe.gpu_freq_mhz"): "set by the site: nvidia-smi, or Slurm's --gpu-freq",
    ("", "recipe.cpu_freq_khz"): "set by the site: Slurm's --cpu-freq",
    ("", "recipe.power_limit_w"): "set by the site: nvidia-smi -pl",
    ("", "checkpoint"): "train.py saves nothing: add it, or use hpc-accel produce",
    ("", "workload.last_batch"): "train.py leaves the last, incomplete batch out",
    (
        "torchtitan",
        "workload.entry",
    ): "torchtitan trains its own models: put yours into a module with a config_registry",
    ("torchtitan", "workload.args"): "torchtitan trains its own models",
    ("torchtitan", "workload.name"): "torchtitan trains its own models: launch.sh names llama3_debugmodel",
    ("torchtitan", "backend"): "torchtitan chooses nccl on GPUs and gloo on CPUs",
    (
        "torchtitan",
        "layout.shard",
    ): "it divides all (FSDP) or nothing, and beside pp or tp it has FSDP alone: there launch.sh divides all",
    (
        "torchtitan",
        "recipe.precision",
    ): "fp32, or bf16, which it has by FSDP, or by autocast without pp and tp",
    ("torchtitan", "layout.split"): "torchtitan splits by its own rule",
    ("deepspeed", "layout.shard_ranks"): "zero_hpz_partition_size divides weights inside nodes only; not the same",
}


def _says(text: str) -> Rule:
    """Always the same words, with the value in them."""
    return lambda value, run: text.format(value)


def _where(test: Callable[[Any, Run], bool], text: str) -> Rule:
    """Those words where `test` holds."""
    return lambda value, run: text.format(value) if test(value, run) else None


def _one_of(words: dict[Any, str]) -> Rule:
    return lambda value, run: words.get(value)


_IN_SCRIPT: dict[str, Rule] = {
    "workload.name": _says("run.json, which train.py reads"),
    "workload.entry": _says("train.py builds it"),
    "workload.args": _says("train.py builds the workload with them"),
    "workload.global_batch_size": _says("dp x micro-batch x accumulation"),
    "workload.weights": _says("train.py builds the workload with them"),
    "layout.micro_batch_size": _says("train.py: MICRO_BATCH_SIZE = {}"),
    "layout.accumulation_steps": _says("train.py: ACCUMULATION_STEPS = {}"),
    "optimizer.name": _says("train.py: {}"),
    "optimizer.learning_rate": _says("train.py: lr {}"),
    "optimizer.weight_decay": _says("train.py: weight_decay {}"),
    "optimizer.momentum": _says("train.py: momentum {}"),
    "optimizer.args": _says("train.py: {}"),
    "optimizer.groups": _says("train.py: parameter groups"),
    "optimizer.no_decay": _says("train.py: parameter groups"),
    "optimizer.clip_grad_norm": _says("train.py: clip_grad_norm_ {}"),
    "optimizer.schedule": _says(
        "train.py: the same course of the rate; an end that the study does not name is the last step trained"
    ),
    "seed": _says("train.py: weights and order of samples"),
    "measure.steps": _says("train.py: {} steps, or STEPS of the environment"),
    "resources.num_nodes": _says("launch.sh: NUM_NODES"),
    "resources.ranks_per_node": _says("launch.sh: ranks of a node"),
    "resources.gpus_per_node": _says("one for each rank of a node"),
    "device": _says("train.py: {}"),
    "recipe.compile": _says("train.py: torch.compile"),
    "recipe.channels_last": _says("train.py: channels_last"),
    "recipe.fused_optimizer": _says("train.py: fused=True"),
    "recipe.threads_per_rank": _says("launch.sh: OMP_NUM_THREADS={}"),
    "recipe.sync_batch_norm": _says("train.py: SyncBatchNorm"),
    "recipe.precision": _one_of(
        {
            "fp32": "train.py: fp32",
            "tf32": "train.py: set_float32_matmul_precision('high')",
            "bf16": "train.py: autocast to bfloat16, weights in fp32",
        }
    ),
}
_BACKEND: Rule = _one_of(
    {"nccl": "train.py: nccl", "gloo": "train.py: gloo", "mpi4py": "train.py: nccl on GPUs, else gloo"}
)
_TORCHRUN: dict[str, Rule] = {
    **_IN_SCRIPT,
    "backend": _BACKEND,
    "layout.dp": _says("launch.sh: {} ranks"),
    "layout.shard": _one_of(
        {"none": "train.py: DistributedDataParallel", "optimizer": "train.py: ZeroRedundancyOptimizer"}
    ),
    "recipe.bucket_mb": _says("train.py: bucket_cap_mb={}"),
    "recipe.static_graph": _says("train.py: static_graph=True"),
    "recipe.compression": _one_of({"bf16": "train.py: bf16_compress_hook", "fp16": "train.py: fp16_compress_hook"}),
}
_FSDP: dict[str, Rule] = {
    **_IN_SCRIPT,
    "backend": _BACKEND,
    "layout.dp": _says("launch.sh: {} ranks"),
    "layout.shard": _one_of(
        {
            "none": "train.py: a mesh of dp replicas x 1 shard, so nothing is divided",
            "full": "train.py: fully_shard each block and the whole",
            "optimizer": "train.py: fully_shard(reshard_after_forward=False), which also divides gradients and weights",
        }
    ),
    "layout.shard_ranks": _says("train.py: a mesh of replicas x {} shards"),
}


def nodes_of(run: Run, framework: Framework) -> tuple[int, int]:
    """Nodes, and ranks of each: all of the layout's where its dimensions are kept, else the replicas alone."""
    ranks = run.layout.num_ranks if framework == "torchtitan" else run.layout.dp
    per_node = min(ranks, run.resources.ranks_per_node)
    while ranks % per_node:
        per_node -= 1
    return ranks // per_node, per_node


_ACCELERATE: dict[str, Rule] = {
    **_IN_SCRIPT,
    "backend": _one_of({"nccl": "accelerate's own", "gloo": "accelerate's own on CPUs"}),
    "layout.dp": _says("accelerate.yaml: num_processes: {}; on CPUs launch.sh, by torchrun"),
    "layout.accumulation_steps": _says("train.py: Accelerator(gradient_accumulation_steps={})"),
    "layout.shard": lambda value, run: (
        "accelerate.yaml: distributed_type without FSDP"
        if value == "none"
        else "accelerate.yaml: fsdp_config, fsdp_version 2"
        if value == "full" and run.device != "cpu"
        else None
    ),
    "recipe.precision": _one_of(
        {"fp32": "accelerate.yaml: mixed_precision: no", "bf16": "accelerate.yaml: mixed_precision: bf16"}
    ),
    "resources.num_nodes": lambda value, run: (
        f"accelerate.yaml: num_machines: {nodes_of(run, 'accelerate')[0]}, as many as the replicas need"
    ),
}
_DEEPSPEED: dict[str, Rule] = {
    **_IN_SCRIPT,
    "backend": _one_of({"nccl": "deepspeed's own on GPUs", "gloo": "deepspeed's own on CPUs"}),
    "workload.global_batch_size": _says("ds_config.json: train_batch_size: {}"),
    "layout.dp": _says("launch.sh: {} ranks"),
    "layout.micro_batch_size": _says("ds_config.json: train_micro_batch_size_per_gpu: {}"),
    "layout.accumulation_steps": _says("ds_config.json: gradient_accumulation_steps: {}"),
    "layout.shard": _one_of(
        {
            "none": "ds_config.json: zero_optimization.stage: 0",
            "optimizer": "ds_config.json: zero_optimization.stage: 1",
            "full": "ds_config.json: zero_optimization.stage: 3",
        }
    ),
    "optimizer.clip_grad_norm": _says("ds_config.json: gradient_clipping: {}"),
    "recipe.precision": _one_of(
        {
            "fp32": "ds_config.json: bf16 and fp16 off",
            "bf16": "ds_config.json: bf16, whose weights are in 16 bits with an fp32 copy in the optimizer",
            "fp16": "ds_config.json: fp16, whose weights are in 16 bits with an fp32 copy in the optimizer",
        }
    ),
    "recipe.bucket_mb": _where(lambda value, run: run.layout.shard != "none", "ds_config.json: reduce_bucket_size"),
    "recipe.overlap": _where(lambda value, run: run.layout.shard != "none", "ds_config.json: overlap_comm: {}"),
}


def _titan_divides(run: Run) -> bool:
    return run.layout.pp * run.layout.tp > 1


def _titan_shards(run: Run) -> int:
    """Shards of torchtitan: beside pp or tp its replicas are those of FSDP alone, for DDP has one dimension there."""
    return run.layout.dp if _titan_divides(run) and run.layout.shard != "full" else run.layout.shard_group


_TORCHTITAN: dict[str, Rule] = {
    "workload.global_batch_size": _says("--training.global_batch_size={}"),
    "layout.dp": lambda value, run: (
        f"--parallelism.data_parallel_shard_degree={_titan_shards(run)}"
        f" --parallelism.data_parallel_replicate_degree={value // _titan_shards(run)}"
    ),
    "layout.pp": _says("--parallelism.pipeline_parallel_degree={}"),
    "layout.tp": _says("--parallelism.tensor_parallel_degree={}"),
    "layout.shard": lambda value, run: (
        "--parallelism.data_parallel_shard_degree"
        if value == "full" or (value == "none" and _titan_shards(run) == 1)
        else None
    ),
    "layout.shard_ranks": _says("--parallelism.data_parallel_shard_degree={}"),
    "layout.sequence_parallel": _says("--parallelism.enable_sequence_parallel"),
    "layout.schedule": lambda value, run: (
        f"--parallelism.pipeline_parallel_schedule={SCHEDULES[value]}" if value in SCHEDULES else None
    ),
    "layout.micro_batch_size": lambda value, run: (
        f"--parallelism.pipeline_parallel_microbatch_size={value}"
        if run.layout.pp > 1
        else f"--training.local_batch_size={value}"
    ),
    "layout.accumulation_steps": lambda value, run: (
        f"--training.local_batch_size={value * run.layout.micro_batch_size}"
        if run.layout.pp > 1
        else "follows from the global batch and the ranks"
    ),
    "seed": _says("--debug.seed={}"),
    "measure.steps": _says("--training.steps={}"),
    "optimizer.name": _one_of({"adamw": "its default, AdamW"}),
    "recipe.precision": lambda value, run: (
        "--training.mixed_precision_param=float32"
        if value == "fp32"
        else "--training.mixed_precision_param=bfloat16"
        if value == "bf16" and (_titan_shards(run) > 1 or not _titan_divides(run))
        else None
    ),
    "recipe.compile": _says("--compile.enable"),
    "resources.num_nodes": _says("launch.sh: NUM_NODES"),
    "resources.ranks_per_node": _says("launch.sh: ranks of a node"),
    "resources.gpus_per_node": _says("one for each rank of a node"),
    "recipe.threads_per_rank": _says("launch.sh: OMP_NUM_THREADS={}"),
}
RULES: dict[Framework, dict[str, Rule]] = {
    "torchrun": _TORCHRUN,
    "fsdp": _FSDP,
    "accelerate": _ACCELERATE,
    "deepspeed": _DEEPSPEED,
    "torchtitan": _TORCHTITAN,
}
