"""The files of an export: the run, the table of what is kept, the configuration, the training and the launch script."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from hpc_accel.errors import ConfigError
from hpc_accel.files import write_atomically
from hpc_accel.produce.export.mapping import Row, rows_of, table
from hpc_accel.produce.export.rules import Framework, nodes_of
from hpc_accel.study.run import Run
from hpc_accel.study.run_file import write_run_file


def write_export(run: Run, framework: Framework, directory: Path) -> list[Row]:
    """Write everything into `directory`; what became of each field."""
    directory.mkdir(parents=True, exist_ok=True)
    rows = rows_of(run, framework)
    write_run_file(run, directory)
    write_atomically(directory / "mapping.md", table(run, framework, rows))
    if framework != "torchtitan":
        write_atomically(directory / "train.py", _rendered("train.py.j2", run, framework, ddp=_ddp_options(run)))
    if framework == "deepspeed":
        write_atomically(directory / "ds_config.json", json.dumps(deepspeed_config(run), indent=1) + "\n")
    if framework == "accelerate":
        write_atomically(directory / "accelerate.yaml", accelerate_config(run))
    num_nodes, per_node = nodes_of(run, framework)
    launch = _rendered("launch.sh.j2", run, framework, num_nodes=num_nodes, ranks_per_node=per_node, flags=_flags(rows))
    write_atomically(directory / "launch.sh", launch)
    (directory / "launch.sh").chmod(0o755)
    return rows


def refuse_stream(run: Run, framework: Framework) -> None:
    """Raise ConfigError where train.py would have to take samples by number and the dataset has none.

    The workload is built for that, without values where it is large. torchtitan trains its own data.
    """
    if framework == "torchtitan":
        return
    from hpc_accel.workloads.facts_without_weights import facts_of

    if facts_of(run.workload, run.seed).is_stream:
        raise ConfigError(
            f"{run.workload.name}: its dataset is a stream",
            f"the train.py for {framework} draws an epoch's samples by their numbers",
            "train it by hpc-accel produce, or give the dataset __getitem__ and __len__",
        )


def deepspeed_config(run: Run) -> dict[str, Any]:
    """ds_config.json."""
    layout, recipe = run.layout, run.recipe
    zero: dict[str, Any] = {"stage": {"none": 0, "optimizer": 1, "full": 3}[layout.shard]}
    if layout.shard != "none":
        zero["overlap_comm"] = recipe.overlap
        if recipe.bucket_mb:
            zero["reduce_bucket_size"] = recipe.bucket_mb * 2**20 // 4
    content: dict[str, Any] = {
        "train_batch_size": layout.dp * layout.micro_batch_size * layout.accumulation_steps,
        "train_micro_batch_size_per_gpu": layout.micro_batch_size,
        "gradient_accumulation_steps": layout.accumulation_steps,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "bf16": {"enabled": recipe.precision == "bf16"},
        "fp16": {"enabled": recipe.precision == "fp16"},
    }
    if run.workload.optimizer.clip_grad_norm is not None:
        content["gradient_clipping"] = run.workload.optimizer.clip_grad_norm
    return content


def accelerate_config(run: Run) -> str:
    """accelerate.yaml: values are numbers and fixed words, so each line is plain YAML."""
    num_nodes, per_node = nodes_of(run, "accelerate")
    on_cpu = _on_cpu(run)
    sharded = run.layout.shard == "full" and not on_cpu
    several = "MULTI_CPU" if on_cpu else "FSDP" if sharded else "MULTI_GPU"
    lines = [
        "compute_environment: LOCAL_MACHINE",
        f"distributed_type: {several if run.layout.dp > 1 else 'NO'}",
        f"num_machines: {num_nodes}",
        f"num_processes: {num_nodes * per_node}",
        f"mixed_precision: '{'bf16' if run.recipe.precision == 'bf16' else 'no'}'",
        f"use_cpu: {'true' if on_cpu else 'false'}",
        "rdzv_backend: static",
        "same_network: true",
    ]
    if sharded:
        lines += ["fsdp_config:", "  fsdp_version: 2", "  fsdp_reshard_after_forward: true"]
        lines += ["  fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP"]
    return "\n".join(lines) + "\n"


def _on_cpu(run: Run) -> bool:
    return run.device == "cpu" or not run.resources.gpus_per_node


def _flags(rows: list[Row]) -> list[str]:
    """Of torchtitan, the options that the table names, each once."""
    found = [flag for row in rows if row.becomes for flag in re.findall(r"--[\w.]+(?:=\S+)?", row.becomes)]
    return [flag for flag in dict.fromkeys(found) if "=" in flag or not any(f.startswith(f"{flag}=") for f in found)]


def _ddp_options(run: Run) -> dict[str, Any]:
    options: dict[str, Any] = {"bucket_cap_mb": run.recipe.bucket_mb} if run.recipe.bucket_mb else {}
    return options | ({"static_graph": True} if run.recipe.static_graph else {})


def _rendered(name: str, run: Run, framework: Framework, **more: Any) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    return environment.get_template(name).render(run=run, framework=framework, on_cpu=_on_cpu(run), **more)
