"""Ranks that are not equally fast: their probed speeds, and a pipeline cut so that its stages take equally long."""

from __future__ import annotations

from functools import partial

from hpc_accel.errors import ConfigError
from hpc_accel.plan.cost import StepModel
from hpc_accel.probe.hardware import Hardware
from hpc_accel.study.model_facts import ModelFacts
from hpc_accel.study.node_kinds import Speed, stage_speeds
from hpc_accel.study.recipe import Precision
from hpc_accel.study.run import NodeKind, Run
from hpc_accel.study.stage_partition import automatic_split


def rank_speed(hardware: Hardware, node_kind: NodeKind, precision: Precision) -> float:
    """FLOP/s of matrix products on one rank while all ranks of its node compute. Of several kinds, the slowest.

    Raises ConfigError where the probe did not measure it.
    """
    kinds = [kind for kind in hardware.node_kinds if kind.number == node_kind.number]
    if not kinds:
        raise ConfigError(
            f"hardware.json knows nothing of node kind {node_kind.number}",
            "shares and stages on nodes that differ follow the probed speed of each node kind",
            "probe again (delete hardware.json), or write shares and split out",
        )
    rates = []
    for kind in kinds:
        rate = kind.level(node_kind.ranks_per_node).matmul_flops_per_s.get(precision)
        if rate is None:
            why = kind.matmul_flops_per_s_reason.get(precision, "not probed")
            raise ConfigError(
                f"no {precision} rate of node kind {node_kind.number} ({kind.device_name or kind.name}): {why}",
                "shares and stages on nodes that differ follow the probed speed of each node kind",
                "choose another precision, or write shares and split out",
            )
        rates.append(rate)
    return min(rates)


def with_balanced_split(run: Run, facts: ModelFacts, speed: Speed) -> Run:
    """`run` with its `split: auto` written out where its stages are not equally fast, so that training needs no probe.

    What cannot be cut into so many stages stays as it is, for the rules to refuse.
    """
    layout, parts = run.layout, run.resources.each_kind
    cuttable = facts.sequential and layout.num_stages <= facts.num_cuttable_layers
    if layout.pp == 1 or layout.split != "auto" or len(parts) == 1 or not cuttable:
        return run
    if layout.num_ranks != run.resources.num_ranks:
        return run
    speeds = stage_speeds(layout, parts, partial(speed, precision=run.recipe.precision))
    if len(set(speeds)) == 1:
        return run
    balanced = layout.model_copy(update={"split": automatic_split(facts, layout.num_stages, speeds)})
    return Run.model_validate({**run.model_dump(exclude={"run_id"}), "layout": balanced.model_dump()})


def on_own_nodes(model: StepModel, run: Run) -> StepModel:
    """`model`, or one of the nodes alone that `run` takes: a run on the fast ones must not be predicted by the slow.

    On several node kinds every step is predicted to take as long as the slowest would for its ranks' equal work.
    """
    numbers = {part.number for part in run.resources.node_kinds or ()}
    kinds = tuple(kind for kind in model.hardware.node_kinds if kind.number in numbers)
    if not kinds or len(kinds) == len(model.hardware.node_kinds):
        return model
    nodes = model.hardware.model_copy(update={"node_kinds": kinds})
    return StepModel(model.facts, nodes, model.precision, model.software, model.backend, model.calibration)
