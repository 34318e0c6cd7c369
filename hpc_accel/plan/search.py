"""`layouts: auto`: the layouts predicted best, found exactly and without simulating more than can matter.

Layouts that differ only in how they save memory share a bound at first, from the work of the whole model alone. In the
order of these bounds they are looked at one by one: whether they fit, and a bound of their own, which no simulation
can undercut. In the order of those they are simulated, until the next bound is worse than all that would be kept.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Any, NamedTuple

from hpc_accel.errors import ConfigError
from hpc_accel.plan.cost import StepModel
from hpc_accel.plan.layouts import MemoryVariants, factors, memory_variants
from hpc_accel.plan.memory_fit import memory_refusal
from hpc_accel.study.expand import place, resolve_layout
from hpc_accel.study.layout import Layout
from hpc_accel.study.recipe import Recipe
from hpc_accel.study.rules import refusals
from hpc_accel.study.run import Objective, Resources, Run, WorkloadSpec
from hpc_accel.study.study_file import ResourcesChoice

MakeRun = Callable[[Layout, Recipe], Run]
_ANY: dict[str, Any] = {"micro_batch_size": 1, "accumulation_steps": 1}


@dataclass(kw_only=True)
class Refusal:
    """All layouts one rule refuses: how many, and the first of them."""

    run: Run | None
    error: ConfigError
    count: int = 0


@dataclass(kw_only=True)
class Found:
    """What a search saw. `ranked` holds (score, run) of the best, ascending.

    `num_feasible` counts all not refused, also those too slow to be looked at one by one.
    """

    ranked: list[tuple[float, Run]] = field(default_factory=list)
    serial: dict[Recipe, Run] = field(default_factory=dict)
    refused: dict[str, Refusal] = field(default_factory=dict)
    num_enumerated: int = 0
    num_feasible: int = 0
    num_simulated: int = 0


class _Option(NamedTuple):
    """One layout that fits."""

    layout: Layout
    recipe: Recipe
    resources: Resources


class _Variants(NamedTuple):
    """Layouts not yet looked at one by one."""

    variants: MemoryVariants
    recipe: Recipe
    resources: Resources


class Search:
    """One workload's layouts and recipes on the ranks that `limits` allow."""

    def __init__(
        self,
        workload: WorkloadSpec,
        models: dict[Recipe, StepModel],
        limits: ResourcesChoice,
        *,
        device: str,
        objective: Objective,
        make_run: MakeRun,
        whole: bool = False,
    ) -> None:
        """`whole`: only layouts that use all ranks."""
        self.whole = whole
        self.workload = workload
        self.models = models
        self.limits = limits
        self.device = device
        self.objective = objective
        self.make_run = make_run
        self.found = Found()
        self._numbers = count()

    def run(self, keep: int) -> Found:
        """The `keep` best layouts, and for every recipe the best serial one if any fits."""
        entries = list(self._entries())
        serial = [entry for _, _, entry in sorted(entries) if isinstance(entry, _Option)]
        heapify(entries)
        best: list[tuple[float, int, _Option]] = []
        while entries:
            bound, number, entry = heappop(entries)
            if len(best) >= keep and bound >= best[keep - 1][0]:
                break
            if isinstance(entry, _Variants):
                for one in self._fitting(entry):
                    heappush(entries, one)
            elif self._may_run(entry):
                insort(best, (self._weighted(entry.resources, self._exact_s(entry)), number, entry))
        self.found.ranked = [(score, self.make_run(o.layout, o.recipe)) for score, _, o in best[:keep]]
        for option in serial:
            if option.recipe not in self.found.serial:
                self.found.serial[option.recipe] = self.make_run(option.layout, option.recipe)
        self.found.num_feasible = self.found.num_enumerated - sum(each.count for each in self.found.refused.values())
        return self.found

    def _entries(self) -> Iterator[tuple[float, int, _Variants | _Option]]:
        """Groups of variants with the quickest bound there is; those of one rank are looked at already: baselines."""
        facts = next(iter(self.models.values())).facts
        # A model that torch's tracer cuts runs under schedules with one stage a rank.
        cuttable = facts.num_cuttable_layers if facts.sequential else 0
        shape: dict[str, Any] = {"num_cuttable_layers": cuttable, "sequence_length": facts.sequence_length}
        shape["ranks_per_node"] = self.limits.ranks_per_node
        for dp, pp, tp in factors(self.limits, whole=self.whole):
            recipes = [recipe for recipe in self.models if self._allowed(dp, pp, tp, recipe)]
            if not recipes:
                continue
            resources = place(Layout(dp=dp, pp=pp, tp=tp, **_ANY), self.limits, self.device)
            for variants in memory_variants(dp, pp, tp, self.workload.global_batch_size, **shape):
                for recipe in recipes:
                    group = _Variants(variants, recipe, resources)
                    self.found.num_enumerated += variants.num_layouts
                    if dp * pp * tp == 1:
                        yield from self._fitting(group)
                        continue
                    quick = self.models[recipe].quick_bound_s(variants, resources)
                    yield self._weighted(resources, quick), next(self._numbers), group

    def _fitting(self, group: _Variants) -> Iterator[tuple[float, int, _Option]]:
        """Those of a group that fit."""
        variants, recipe, resources = group
        model = self.models[recipe]
        for layout in variants.layouts():
            why = self._unfit(layout, resources, model)
            if why is not None:
                self._refuse(why, partial(self.make_run, layout, recipe))
                continue
            bound = self._weighted(resources, model.bound_s(layout, resources))
            yield bound, next(self._numbers), _Option(layout, recipe, resources)

    def _may_run(self, option: _Option) -> bool:
        """Whether no rule about its schedule, sharding and recipe together refuses it; if one does, that is counted."""
        run = self.make_run(option.layout, option.recipe)
        broken = next(refusals(run, self.limits, self.models[option.recipe].facts), None)
        if broken is not None:
            self._refuse(broken, lambda: run)
        return broken is None

    def _allowed(self, dp: int, pp: int, tp: int, recipe: Recipe) -> bool:
        """Whether the rules that know no micro-batch let (dp, pp, tp) work; if not, that is counted."""
        fields: dict[str, Any] = {"dp": dp, "pp": pp, "tp": tp, "schedule": None, "split": "auto"}
        try:
            share = self.workload.global_batch_size // dp if self.workload.global_batch_size % dp == 0 else None
            layout = resolve_layout(self.workload, {**fields, "micro_batch_size": share, "accumulation_steps": None})
        except ConfigError as error:
            self.found.num_enumerated += 1
            self._refuse(error, lambda: None)
            return False
        run = self.make_run(layout, recipe)
        broken = next(refusals(run, self.limits, self.models[recipe].facts), None)
        if broken is not None:
            self.found.num_enumerated += 1
            self._refuse(broken, lambda: run)
        return broken is None

    def _unfit(self, layout: Layout, resources: Resources, model: StepModel) -> ConfigError | None:
        reason = model.unpredictable(layout, resources, self.device)
        if reason is not None:
            return ConfigError(
                f"{self.workload.name} {layout.label}: {reason}",
                "layouts: auto compares predicted times",
                "probe where the study will run, or list the layouts to measure",
            )
        return memory_refusal(self.workload.name, layout, resources, model)

    def _refuse(self, error: ConfigError, example: Callable[[], Run | None]) -> None:
        if error.rule not in self.found.refused:
            self.found.refused[error.rule] = Refusal(run=example(), error=error)
        self.found.refused[error.rule].count += 1

    def _exact_s(self, option: _Option) -> float:
        model = self.models[option.recipe]
        before = model.num_simulations
        seconds = sum(model.parts_s(option.layout, option.resources).values())
        self.found.num_simulated += model.num_simulations - before
        return seconds

    def _weighted(self, resources: Resources, seconds: float) -> float:
        """Seconds, or node-seconds: equal nodes cost and draw alike, so neither price nor power changes the order."""
        return seconds if self.objective == "time" else seconds * resources.num_nodes
