"""Which layouts cannot work on nodes that differ: what lies across node kinds that are not equally fast."""

from __future__ import annotations

from collections.abc import Iterator

from hpc_accel.errors import ConfigError
from hpc_accel.study.node_kinds import coordinates, node_kinds_of, owners
from hpc_accel.study.refusal import refusal
from hpc_accel.study.run import Run
from hpc_accel.study.study_file import ResourcesChoice


def node_kind_refusals(run: Run, limits: ResourcesChoice) -> Iterator[ConfigError]:
    """Every rule about node kinds that `run`, of a study that names some, breaks."""
    node_kinds = node_kinds_of(limits)
    yield from _gpus(run, limits)
    if run.layout.num_ranks != run.resources.num_ranks:
        sizes = " + ".join(f"{each.num_nodes} node(s) x {each.ranks_per_node}" for each in node_kinds)
        yield refusal(
            run,
            f"{run.layout.num_ranks} ranks on node kinds of {sizes} rank(s)",
            "a run fits one node kind, in whole nodes, or it fills the first two or more node kinds",
            "choose dp, pp and tp whose product does, or change a node kind's ranks_per_node",
        )
    elif len(run.resources.each_kind) > 1:
        yield from _device(run)
        yield from _shard(run)
        yield from _across(run)


def _gpus(run: Run, limits: ResourcesChoice) -> Iterator[ConfigError]:
    available = {each.number: each.gpus_per_node for each in node_kinds_of(limits)}
    for part in run.resources.each_kind:
        if part.ranks_per_node > available[part.number] > 0:
            yield refusal(
                run,
                f"{part.ranks_per_node} ranks per node on {available[part.number]} GPU(s)",
                "every rank has a GPU of its own",
                "lower ranks_per_node of that node kind to its number of GPUs",
            )


def _device(run: Run) -> Iterator[ConfigError]:
    without = [part for part in run.resources.each_kind if not part.gpus_per_node]
    if without and (run.device == "cuda" or run.backend == "nccl"):
        yield refusal(
            run,
            f"{'device cuda' if run.device == 'cuda' else 'backend nccl'} with node kind {without[0].number}, "
            "which has no GPUs",
            "every rank of such a run has a GPU",
            "set gpus_per_node of that node kind, or device: auto and backend: mpi4py for CPUs beside GPUs",
        )


def _shard(run: Run) -> Iterator[ConfigError]:
    some = {bool(part.gpus_per_node) for part in run.resources.each_kind}
    if len(some) == 2 and run.device != "cpu" and run.layout.shard == "full":
        yield refusal(
            run,
            "shard full over CPUs beside GPUs",
            "FSDP2 divides parameters over devices of one kind",
            "use shard: none or optimizer, or device: cpu",
        )


def _across(run: Run) -> Iterator[ConfigError]:
    """Equal work on unequal ranks: tensor-parallel groups always, replicas with shares of their own, mixed stages."""
    layout = run.layout
    replicas: dict[int, set[int]] = {}
    stages: dict[int, set[int]] = {}
    groups: dict[tuple[int, int], set[int]] = {}
    for part, place in zip(
        owners(run.resources.each_kind), coordinates(layout.dp, layout.pp, layout.tp, layout.order), strict=True
    ):
        replicas.setdefault(place[0], set()).add(part.number)
        stages.setdefault(place[1], set()).add(part.number)
        groups.setdefault(place, set()).add(part.number)
    if split := [place for place, numbers in groups.items() if len(numbers) > 1]:
        replica, stage = split[0]
        yield refusal(
            run,
            f"the {layout.tp} tensor-parallel ranks of replica {replica}, stage {stage}, on several node kinds",
            "they hold equal parts of each layer, so the slowest node kind would decide for all",
            "choose tp that divides every node kind's ranks, or an order that ends in tp",
        )
        return
    mixed_replicas = [replica for replica, numbers in replicas.items() if len(numbers) > 1]
    mixed_stages = [stage for stage, numbers in stages.items() if len(numbers) > 1]
    if mixed_replicas and layout.shares is not None and len(set(layout.shares)) > 1:
        yield refusal(
            run,
            f"shares {list(layout.shares)} with replica {mixed_replicas[0]} on several node kinds",
            "a share is in proportion to the speed of one node kind",
            "set order: dp.pp.tp, so that each replica lies in one node kind, or leave shares out",
        )
    elif mixed_replicas and mixed_stages:
        yield refusal(
            run,
            f"replica {mixed_replicas[0]} and stage {mixed_stages[0]} both on several node kinds",
            "each replica, or each stage, lies in one node kind: else no share and no split evens them out",
            "choose dp (with order: dp.pp.tp) or pp so that node kinds hold whole replicas or whole stages",
        )
