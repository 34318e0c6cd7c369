"""`layouts: auto`: the layouts predicted best, found exactly and without simulating more than can matter.

Each layout first gets a bound that no simulation can undercut. Layouts are then simulated in the order of their
bounds until the next bound is worse than all that would be kept.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from hpc_accel.errors import ConfigError
from hpc_accel.plan.cost import StepModel
from hpc_accel.plan.layouts import factors, variants
from hpc_accel.study.expand import place, resolve_layout
from hpc_accel.study.layout import Layout
from hpc_accel.study.recipe import Recipe
from hpc_accel.study.rules import refusals
from hpc_accel.study.schema import Objective, Resources, Run, Workload
from hpc_accel.study.study import ResourcesChoice

MakeRun = Callable[[Layout, Recipe], Run]


@dataclass(kw_only=True)
class Refusal:
    """All layouts one rule refuses: how many, and the first of them."""

    run: Run | None
    error: ConfigError
    count: int = 0


@dataclass(kw_only=True)
class Found:
    """What a search saw. `ranked` holds (score, run) of the best, ascending; `feasible` counts all it compared."""

    ranked: list[tuple[float, Run]] = field(default_factory=list)
    serial: dict[Recipe, Run] = field(default_factory=dict)
    refused: dict[str, Refusal] = field(default_factory=dict)
    num_enumerated: int = 0
    num_feasible: int = 0
    num_simulated: int = 0


@dataclass(frozen=True, kw_only=True, order=True)
class _Option:
    """One layout that could run, ordered by its bound."""

    bound: float
    number: int
    layout: Layout = field(compare=False)
    recipe: Recipe = field(compare=False)
    resources: Resources = field(compare=False)


class Search:
    """One workload's layouts and recipes on the ranks that `limits` allow."""

    def __init__(
        self,
        workload: Workload,
        models: dict[Recipe, StepModel],
        limits: ResourcesChoice,
        *,
        device: str,
        objective: Objective,
        make_run: MakeRun,
    ) -> None:
        self.workload = workload
        self.models = models
        self.limits = limits
        self.device = device
        self.objective = objective
        self.make_run = make_run
        self.found = Found()

    def run(self, keep: int) -> Found:
        """The `keep` best layouts, and for every recipe the best serial one if any fits."""
        options = sorted(self._options())
        self.found.num_feasible = len(options)
        best: list[tuple[float, int, _Option]] = []
        for option in options:
            if len(best) >= keep and option.bound >= best[keep - 1][0]:
                break
            score = self._weighted(option.resources, self._exact_s(option))
            insort(best, (score, option.number, option))
        self.found.ranked = [(score, self.make_run(o.layout, o.recipe)) for score, _, o in best[:keep]]
        for recipe in self.models:
            serial = [option for option in options if option.recipe == recipe and option.layout.num_ranks == 1]
            if serial:  # One rank has no pipeline to simulate: its bound is its prediction.
                self.found.serial[recipe] = self.make_run(serial[0].layout, recipe)
        return self.found

    def _options(self) -> Iterator[_Option]:
        for dp, pp, tp in factors(self.limits):
            if not self._allowed(dp, pp, tp):
                continue
            for layout in variants(dp, pp, tp, self.workload.global_batch_size):
                resources = place(layout, self.limits, self.device)
                for recipe, model in self.models.items():
                    self.found.num_enumerated += 1
                    why = self._unfit(layout, resources, model)
                    if why is not None:
                        self._refuse(why, partial(self.make_run, layout, recipe))
                        continue
                    seconds = model.bound_s(layout, resources)
                    yield _Option(
                        bound=self._weighted(resources, seconds),
                        number=self.found.num_enumerated,
                        layout=layout,
                        recipe=recipe,
                        resources=resources,
                    )

    def _allowed(self, dp: int, pp: int, tp: int) -> bool:
        """Whether the rules that know no micro-batch let (dp, pp, tp) work; if not, that is counted."""
        recipe, model = next(iter(self.models.items()))
        fields: dict[str, Any] = {"dp": dp, "pp": pp, "tp": tp, "schedule": None, "split": "auto"}
        try:
            share = self.workload.global_batch_size // dp if self.workload.global_batch_size % dp == 0 else None
            layout = resolve_layout(self.workload, {**fields, "micro_batch_size": share, "accumulation_steps": None})
        except ConfigError as error:
            self.found.num_enumerated += 1
            self._refuse(error, lambda: None)
            return False
        run = self.make_run(layout, recipe)
        broken = next(refusals(run, self.limits, model.facts), None)
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


def memory_refusal(name: str, layout: Layout, resources: Resources, model: StepModel) -> ConfigError | None:
    """Why `layout` would run out of memory, or None."""
    need = model.peak_memory_bytes(layout)
    if model.kind.device == "cuda":
        limit, what = model.kind.device_memory_bytes, "memory of the device"
    else:
        node = min(model.kind.memory_bytes, resources.memory_mb * 10**6)
        limit, what = node // resources.ranks_per_node, "a rank's share of resources.memory_mb and of the node's memory"
    if limit is None or need <= limit:
        return None
    size = f"micro_batch_size {layout.micro_batch_size}"
    return ConfigError(
        f"{name} {layout.label}: {size} needs {need / 1e9:.1f} GB of {limit / 1e9:.1f} GB per rank",
        f"predicted peak memory stays within {what}",
        "use a smaller micro_batch_size, more stages or tensor-parallel ranks, or raise resources.memory_mb",
    )
