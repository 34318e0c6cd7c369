"""What the training takes at each place on each number of nodes: the best layout there, hours, kWh and cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hpc_accel.errors import ConfigError
from hpc_accel.plan.advise.models import Model
from hpc_accel.plan.advise.question import Limits, Place, Question
from hpc_accel.plan.advise.uncertainty import POWER, Range, around, error_of
from hpc_accel.plan.cost import StepModel
from hpc_accel.plan.memory_fit import room_of
from hpc_accel.plan.search import Search
from hpc_accel.plan.software import torch_amp
from hpc_accel.study.layout import Layout
from hpc_accel.study.recipe import Precision, Recipe, Recompute
from hpc_accel.study.run import Measure, Run
from hpc_accel.study.study_file import ResourcesChoice

RECOMPUTES: tuple[Recompute, ...] = ("none", "full")
"""What the search may choose to save memory with."""
INSTEAD: tuple[Precision, ...] = ("bf16", "fp16", "tf32", "fp32")
"""Where the precision asked for is not known of a device, the first of these that is."""


@dataclass(frozen=True, kw_only=True)
class Option:
    """One place and number of nodes, with its best layout. Figures are of the whole training."""

    place: Place
    num_nodes: int
    layout: Layout
    recipe: Recipe
    step_time_s: float
    hours: Range
    node_hours: float
    mfu: float | None
    """Share of the data sheet's peak in 16 bits that the model's own operations use; recomputation is not counted."""
    power_w: float | None
    """Of all nodes."""
    energy_kwh: Range | None
    cost: Range | None
    peak_memory_bytes: int
    memory_limit_bytes: int | None
    beyond: tuple[str, ...] = ()
    """Limits that it breaks, in words."""

    @property
    def name(self) -> str:
        """For people."""
        nodes = "1 node" if self.num_nodes == 1 else f"{self.num_nodes} nodes"
        return f"{nodes} of {self.place.name}"

    @property
    def label(self) -> str:
        """The layout and what of the recipe matters."""
        again = "" if self.recipe.recompute == "none" else f", recompute {self.recipe.recompute}"
        each = f"micro-batch {self.layout.micro_batch_size} x{self.layout.accumulation_steps}"
        return f"{self.layout.label}, {each}, {self.recipe.precision}{again}"

    @property
    def power(self) -> Range | None:
        """Watts of all nodes, and how far they may be off."""
        if self.power_w is None:
            return None
        one = Range(value=self.power_w, low=self.power_w, high=self.power_w)
        return one.widened(0.0 if self.place.power_measured else POWER)

    def figure(self, what: str) -> Range | None:
        """Of time, energy or cost."""
        return {"time": self.hours, "energy": self.energy_kwh, "cost": self.cost}[what]


@dataclass(frozen=True, kw_only=True)
class Impossible:
    """A place and number of nodes where nothing can be said or run, and why."""

    place: str
    num_nodes: int | None
    """None: any."""
    why: str


def node_counts(place: Place) -> list[int]:
    """Powers of two up to what there is, and that."""
    counts = [2**power for power in range(place.max_nodes.bit_length()) if 2**power <= place.max_nodes]
    return sorted({*counts, place.max_nodes})


def options_of(
    question: Question, progress: Callable[[int, int], object] = lambda done, total: None
) -> tuple[list[Option], list[Impossible]]:
    """All of a question's places and numbers of nodes."""
    wanted = [(number, place, count) for number, place in enumerate(question.places) for count in node_counts(place)]
    found: list[Option] = []
    impossible: list[Impossible] = []
    models: dict[int, dict[Recipe, StepModel]] = {}
    for done, (number, place, count) in enumerate(wanted):
        progress(done, len(wanted))
        if number not in models:
            models[number] = step_models(question.model, place, question.precision)
        try:
            found.append(_option(question, place, count, models[number]))
        except ConfigError as error:
            impossible.append(Impossible(place=place.name, num_nodes=count, why=error.value))
    return found, impossible


def step_models(model: Model, place: Place, precision: Precision) -> dict[Recipe, StepModel]:
    """One for each way to save memory. Empty where the device has a rate of no precision that will do."""
    rates = place.hardware.slowest.matmul_flops_per_s
    usable = [each for each in (precision, *INSTEAD) if rates.get(each)]
    found = {}
    for recompute in RECOMPUTES if usable else ():
        recipe = Recipe(
            precision=usable[0], recompute=recompute, fused_optimizer=place.hardware.slowest.device == "cuda"
        )
        software = torch_amp(model.workload.optimizer, recipe, "nccl", model.facts.optimizer)
        found[recipe] = StepModel(model.facts, place.hardware, recipe.precision, software)
    return found


def best_layout(model: Model, place: Place, count: int, models: dict[Recipe, StepModel]) -> tuple[float, Run]:
    """Predicted seconds of a step and the fastest run: on all of these nodes, or on one of them in part.

    Raises ConfigError where none can run.
    """
    if not models:
        raise ConfigError(f"{place.name}: no rate of products is known", "a prediction needs one", "probe it")
    device, per_node = place.hardware.slowest.device, place.hardware.ranks_per_node
    limits = ResourcesChoice(
        num_nodes=count,
        ranks_per_node=per_node,
        gpus_per_node=per_node if device == "cuda" else 0,
        memory_mb=0,
    )

    def make_run(layout: Layout, recipe: Recipe) -> Run:
        from hpc_accel.study.expand import place as nodes_of

        resources = nodes_of(layout, limits, device)
        return Run(
            study="advice",
            site=place.name,
            workload=model.workload,
            layout=layout,
            recipe=recipe,
            resources=resources,
            measure=Measure(),
            device=device,
        )

    search = Search(model.workload, models, limits, device=device, objective="time", make_run=make_run, whole=count > 1)
    found = search.run(1)
    if not found.ranked:
        most = max(found.refused.values(), key=lambda refusal: refusal.count)
        raise ConfigError(f"no layout can run; most often, {most.error.value}", most.error.rule, most.error.remedy)
    return found.ranked[0]


def _option(question: Question, place: Place, count: int, models: dict[Recipe, StepModel]) -> Option:
    seconds, run = best_layout(question.model, place, count, models)
    hours = around(seconds, error_of(measured_device=place.measured, num_nodes=count)) * (question.num_steps / 3600)
    flops = question.model.flops_per_sample * question.model.workload.global_batch_size
    num_devices = run.resources.num_ranks
    room = room_of(run.layout, run.resources, models[run.recipe])
    power_w = place.node_power_w * count if place.node_power_w else None
    option = Option(
        place=place,
        num_nodes=count,
        layout=run.layout,
        recipe=run.recipe,
        step_time_s=seconds,
        hours=hours,
        node_hours=hours.value * count,
        mfu=flops / seconds / num_devices / place.peak_flops_per_s if place.peak_flops_per_s else None,
        power_w=power_w,
        energy_kwh=(hours * (power_w / 1000)).widened(0.0 if place.power_measured else POWER) if power_w else None,
        cost=hours * (count * place.price_per_node_hour) if place.price_per_node_hour else None,
        peak_memory_bytes=room.need_bytes,
        memory_limit_bytes=room.limit_bytes,
    )
    return _limited(option, question.limits, question.currency)


def _limited(option: Option, limits: Limits, currency: str) -> Option:
    from dataclasses import replace

    beyond = []
    checks = (
        (limits.deadline_h, option.hours.value, "h", "the deadline"),
        (limits.budget, option.cost.value if option.cost else None, currency, "the budget"),
        (limits.power_w, option.power_w, "W", "the power cap"),
        (limits.node_hours, option.node_hours, "node-hours", "the node-hours"),
    )
    for limit, value, unit, what in checks:
        if limit is not None and value is None:
            beyond.append(f"{what} of {limit:g} {unit}: not known")
        elif limit is not None and value is not None and value > limit:
            beyond.append(f"{what}: {value:.4g} of {limit:g} {unit}")
    return replace(option, beyond=tuple(beyond))
