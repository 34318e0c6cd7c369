"""Which passes and layouts of a study are measured: those that its candidates use, each once, the best first."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from hpc_accel.plan.calibration import Calibration, MeasuredPass
from hpc_accel.plan.planner import Plan
from hpc_accel.plan.predictable import not_probed
from hpc_accel.probe.hardware import Hardware
from hpc_accel.study.layout import SINGLE, Layout
from hpc_accel.study.recipe import CALIBRATED, Recipe
from hpc_accel.study.run import Run

PASSES, REPLICAS, STAGES = "passes", "replicas", "stages"
SEVERAL = 4
"""Micro-batches of the second layout of replicas: what repeats with each is told from what happens once a step."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """One measurement: a few steps of `run`, of which `at_once` ranks of the node run as many copies as there is room.

    `what` is what it tells of: the passes of a layer, what replicas add, what stages add.
    """

    what: str
    run: Run
    at_once: int

    @property
    def key(self) -> tuple[Any, ...]:
        """What makes it another measurement than the rest."""
        layout, recipe = self.run.layout, self.run.recipe
        if self.what == PASSES:
            divided = layout.sequence_parallel
            own = (recipe.precision, recipe.recompute, recipe.calibrated)
            return (*own, layout.tp, layout.micro_batch_size, divided, self.at_once)
        if self.what == REPLICAS:
            return (layout.shard, recipe.precision, layout.accumulation_steps)
        return ()


def wanted(plan: Plan, hardware: Hardware, num_ranks: int) -> dict[str, list[Wanted]]:
    """By workload, of the plan's candidates; `num_ranks` are those of the node that measures.

    Passes come first, those of better candidates before others, because replicas and stages are composed of them.
    """
    found: dict[str, dict[tuple[Any, ...], Wanted]] = {}
    for run in _runs(plan, hardware):
        for each in _of(run, num_ranks):
            found.setdefault(run.workload.name, {}).setdefault((each.what, *each.key), each)
    order = (PASSES, REPLICAS, STAGES)
    return {name: sorted(each.values(), key=lambda one: order.index(one.what)) for name, each in found.items()}


def missing(each: Iterable[Wanted], known: Calibration | None) -> list[Wanted]:
    """Those that `known` does not tell of yet, and the passes that they are composed of."""
    if known is None:
        return list(each)
    passes = {_key_of(one) for one in known.passes}
    replicas = {(one.shard, one.precision) for one in known.replicated}
    return [
        one
        for one in each
        if (one.what == PASSES and one.key not in passes)
        or (one.what == REPLICAS and one.key[:2] not in replicas)
        or (one.what == STAGES and known.staged is None)
    ]


def _key_of(measured: MeasuredPass) -> tuple[Any, ...]:
    divided = measured.sequence_parallel
    return (*measured.recipe, measured.tp, measured.micro_batch_size, divided, measured.ranks)


def _runs(plan: Plan, hardware: Hardware) -> Iterator[Run]:
    """Candidates whose time can be predicted, chosen ones first."""
    kind = hardware.slowest
    for candidate in sorted(plan.candidates, key=lambda each: not each.chosen):
        run = candidate.run
        crowded = kind.device == "cpu" and run.resources.ranks_per_node > kind.num_cpus
        plain = run.recipe.model_copy(update=dict.fromkeys(CALIBRATED, False))
        unknown = not_probed(plain, kind, run.resources) or run.layout.shares or run.resources.node_kinds
        if candidate.refused is None and run.infer is None and not crowded and not unknown:
            yield run


def _of(run: Run, num_ranks: int) -> Iterator[Wanted]:
    layout = run.layout
    at_once = min(run.resources.ranks_per_node, num_ranks)
    if layout.tp <= at_once:
        alone = {"tp": layout.tp, "sequence_parallel": layout.sequence_parallel}
        several = min(layout.accumulation_steps, 2)
        # What samples take is what a rank takes that fetches them itself: the planner divides it among workers.
        recipe = run.recipe.model_copy(update={"data_workers": 0})
        yield Wanted(what=PASSES, at_once=at_once, run=changed(run, recipe, several, **alone))
    plain = Recipe(precision=run.recipe.precision)
    own = (run.recipe.overlap, run.recipe.average_every, run.recipe.compression)
    if layout.dp > 1 and at_once > 1 and own == (plain.overlap, plain.average_every, plain.compression):
        dp = min(layout.dp, at_once)
        for accumulation_steps in sorted({1, min(layout.accumulation_steps, SEVERAL)}):
            replicas = changed(run, plain, accumulation_steps, dp=dp, shard=layout.shard)
            yield Wanted(what=PASSES, at_once=dp, run=changed(run, plain, 1))
            yield Wanted(what=REPLICAS, at_once=dp, run=replicas)
    if layout.pp > 1 and at_once > 1 and layout.accumulation_steps > 1:
        schedule = layout.schedule if layout.schedule in SINGLE else "1f1b"
        stages = changed(run, plain, min(layout.accumulation_steps, SEVERAL), pp=2, schedule=schedule)
        yield Wanted(what=PASSES, at_once=2, run=changed(run, plain, 1))
        yield Wanted(what=STAGES, at_once=2, run=stages)


def changed(run: Run, recipe: Recipe, accumulation_steps: int, **fields: Any) -> Run:
    """`run` on one node in the layout of `fields`, at its own micro-batch size."""
    layout = Layout(micro_batch_size=run.layout.micro_batch_size, accumulation_steps=accumulation_steps, **fields)
    workload = run.workload.model_dump() | {
        "global_batch_size": layout.dp * layout.micro_batch_size * accumulation_steps
    }
    resources = run.resources.model_dump() | {
        "num_nodes": 1,
        "ranks_per_node": layout.num_ranks,
        "gpus_per_node": min(run.resources.gpus_per_node, layout.num_ranks),
    }
    content = run.model_dump(exclude={"run_id"}) | {
        "repeat": 1,
        "workload": workload,
        "layout": layout.model_dump(),
        "recipe": recipe.model_dump(),
        "resources": resources,
    }
    return Run.model_validate(content)
