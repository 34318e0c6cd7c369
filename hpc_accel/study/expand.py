"""A study into runs: cross products of listed choices, defaults filled, every number resolved."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hpc_accel.errors import ConfigError
from hpc_accel.study.builtin_workloads import BUILTIN
from hpc_accel.study.choices import LayoutChoice, RecipeChoice
from hpc_accel.study.layout import SINGLE, Layout, micro_batch_rule, plain_order
from hpc_accel.study.model_facts import ModelFacts
from hpc_accel.study.node_kinds import Speed, place_on_node_kinds, replica_speeds
from hpc_accel.study.optimizer import Optimizer
from hpc_accel.study.recipe import Recipe
from hpc_accel.study.run import Measure, Resources, Run, WorkloadSpec
from hpc_accel.study.shares import ROUNDING, proportional
from hpc_accel.study.sources import sources
from hpc_accel.study.study_file import MeasureChoice, ResourcesChoice, Study, WorkloadChoice


def _optimizer(chosen: Optimizer | None, usual: Optimizer) -> Optimizer:
    """The built-in's, with what the study says of it; all of the study's where that names another kind."""
    if chosen is None or (chosen.name != usual.name and "name" in chosen.model_fields_set):
        return chosen or usual
    return Optimizer(**usual.model_dump() | chosen.model_dump(exclude_unset=True))


def _sources(entry: str, choice: WorkloadChoice, optimizer: Optimizer) -> dict[str, str]:
    """Of the workload, of its weights, and of what the optimizer names of the user's."""
    weights = Path(choice.weights).expanduser()
    files = [weights, *sorted(weights.glob("*.safetensors"))] if choice.weights else []
    found = sources(entry, {**choice.args, "weights": [str(each) for each in files]} if files else choice.args)
    for function, own in optimizer.entries.items():
        found |= sources(function, own)
    return found


def resolve_workload(choice: WorkloadChoice) -> WorkloadSpec:
    """The workload with its entry point, batch and optimizer filled in. Raises ConfigError."""
    if choice.entry is None:
        builtin = BUILTIN.get(choice.name or "")
        if builtin is None:
            raise ConfigError(
                f"workload name {choice.name!r} without an entry",
                f"built-in workloads are {', '.join(BUILTIN)}",
                'name one of them (hpc-accel init --list says what they are), or add entry: "package.module:function"',
            )
        return WorkloadSpec(
            name=choice.name or "",
            entry=builtin.entry,
            args=choice.args,
            global_batch_size=choice.global_batch_size or builtin.global_batch_size,
            optimizer=_optimizer(choice.optimizer, builtin.optimizer),
            sources=_sources(builtin.entry, choice, _optimizer(choice.optimizer, builtin.optimizer)),
            last_batch=choice.last_batch,
            meta=choice.meta,
            weights=choice.weights,
        )
    if choice.global_batch_size is None:
        raise ConfigError(
            f"workload entry {choice.entry!r} without global_batch_size",
            "every layout trains on the same global batch, so the study must say how large it is",
            "add `global_batch_size: 64` to the workload",
        )
    return WorkloadSpec(
        name=choice.name or choice.entry.replace(":", ".").split(".")[-2],
        entry=choice.entry,
        args=choice.args,
        global_batch_size=choice.global_batch_size,
        optimizer=choice.optimizer or Optimizer(),
        sources=_sources(choice.entry, choice, choice.optimizer or Optimizer()),
        last_batch=choice.last_batch,
        meta=choice.meta,
        weights=choice.weights,
    )


def resolve_workloads(study: Study) -> list[WorkloadSpec]:
    """The workloads of a study, each resolved. Raises ConfigError, also where two have one name."""
    workloads = [resolve_workload(choice) for choice in study.workloads]
    names = [workload.name for workload in workloads]
    if len(set(names)) < len(names):
        raise ConfigError(
            f"workload names {', '.join(names)}", "every workload has a name of its own", "add `name:` to one of them"
        )
    return workloads


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """One combination of a study's lists that makes no run: its global batch cannot be divided."""

    workload: str
    layout: dict[str, Any]
    """What the study says of it."""
    recipe: Recipe | None
    error: ConfigError


Drop = Callable[[Dropped], object]


def listed_runs(
    study: Study,
    choice: WorkloadChoice,
    facts: ModelFacts,
    speed: Speed | None = None,
    drop: Drop | None = None,
) -> Iterator[Run]:
    """The runs a study lists for one workload, in its order.

    `speed` is what the probe knows of ranks on nodes that differ; `shares: auto` without it takes all for alike.
    A batch that cannot be divided is handed to `drop`; without it, ConfigError is raised.
    """
    layouts = choice.layouts if choice.layouts is not None else study.layouts
    if layouts == "auto":
        return
    workload = resolve_workload(choice)
    for layout_choice in layouts:
        for fields in products(layout_choice):
            for recipe in recipes(choice.recipes, study.recipes):
                speeds = None
                if fields["shares"] == "auto" and speed is not None:
                    speeds = replica_speeds(fields, study.resources, partial(speed, precision=recipe.precision))
                try:
                    layout = resolve_layout(workload, fields, speeds)
                except ConfigError as error:
                    if drop is None:
                        raise
                    drop(Dropped(workload=workload.name, layout=fields, recipe=recipe, error=error))
                    continue
                yield make_run(study, choice, workload, layout, recipe, facts)


def recipes(*levels: list[RecipeChoice] | None) -> list[Recipe]:
    """The recipes of the first level that names some, lists multiplied out."""
    listed = next(level for level in levels if level is not None)
    return [Recipe(**fields) for recipe in listed for fields in products(recipe)]


def products(choice: LayoutChoice | RecipeChoice) -> Iterator[dict[str, Any]]:
    """The cross product of a choice's list-valued fields; tuples (a split) are single values."""
    fields = choice.model_dump()
    values = [value if isinstance(value, list) else [value] for value in fields.values()]
    for combination in itertools.product(*values):
        yield dict(zip(fields, combination, strict=True))


def resolve_layout(workload: WorkloadSpec, fields: dict[str, Any], speeds: Sequence[float] | None = None) -> Layout:
    """A layout with micro-batch, accumulation and schedule filled in from the global batch.

    A pipeline that names neither gets the largest number of micro-batches up to four per stage, which
    keeps the ideal bubble under a fifth. `shares: auto` becomes samples in proportion to `speeds`, one for each
    replica; none where that is the same for all. Of orders that place ranks alike the first counts.
    Raises ConfigError when the batch cannot be divided.
    """
    if fields.get("shares") == "auto":
        fields = _with_shares(workload, fields, speeds or [1.0] * fields["dp"])
    dp, pp, total = fields["dp"], fields["pp"], workload.global_batch_size
    micro, accumulation, schedule = fields["micro_batch_size"], fields["accumulation_steps"], fields["schedule"]
    chunks = _stages_per_rank(fields)
    shares = fields.get("shares")
    share, rest = (max(shares), 0) if shares else divmod(total, dp)
    if rest:
        raise _indivisible(workload, f"dp {dp}", total, f"dp among the divisors of {total}")
    if micro is None and accumulation is None:
        accumulation = _micro_batches(schedule, pp, chunks, shares or (share,)) if pp > 1 else 1
    if micro is None:
        micro, rest = divmod(share, accumulation)
        if rest or not micro:
            raise _indivisible(workload, f"accumulation_steps {accumulation}", share, f"a divisor of {share}")
    if accumulation is None:
        accumulation, rest = divmod(share, micro)
        if rest or not accumulation:
            raise _indivisible(workload, f"micro_batch_size {micro}", share, f"a divisor of {share}")
    schedule = schedule or ("1f1b" if pp > 1 and accumulation >= pp else "gpipe" if pp > 1 else None)
    resolved = {"micro_batch_size": micro, "accumulation_steps": accumulation, "schedule": schedule}
    order = plain_order(fields.get("order", "pp.dp.tp"), dp=dp, pp=pp, tp=fields["tp"])
    return Layout(**{**fields, **resolved, "stages_per_rank": chunks, "order": order})


def _with_shares(workload: WorkloadSpec, fields: dict[str, Any], speeds: Sequence[float]) -> dict[str, Any]:
    """`fields` with the shares as numbers, and the number of micro-batches they are multiples of."""
    dp, total = fields["dp"], workload.global_batch_size
    if fields["micro_batch_size"] is not None and dp > 1:
        raise ConfigError(
            f"{workload.name}: shares auto with micro_batch_size {fields['micro_batch_size']}",
            "shares follow from speeds, and micro_batch_size from the largest share",
            "give accumulation_steps instead, or write the shares out",
        )
    if max(speeds) - min(speeds) <= ROUNDING * max(speeds) and total % dp == 0:
        return {**fields, "shares": None}
    multiple = fields["accumulation_steps"]
    if multiple is None:
        pp, chunks = fields["pp"], _stages_per_rank(fields)
        multiple = _micro_batches(fields["schedule"], pp, chunks, (total,), at_most=total // dp) if pp > 1 else 1
    try:
        shares = proportional(total, speeds, multiple)
    except ValueError as error:
        raise ConfigError(
            f"{workload.name}: shares auto: {error}",
            "each replica gets at least one sample in each of its accumulation_steps micro-batches",
            "choose accumulation_steps among the divisors of the global batch, or fewer replicas",
        ) from None
    return {**fields, "shares": shares, "accumulation_steps": multiple}


def _stages_per_rank(fields: dict[str, Any]) -> int:
    """What the study says; else two for schedules that want several."""
    alone = fields["pp"] == 1 or fields["schedule"] in (None, *SINGLE)
    return int(fields.get("stages_per_rank") or (1 if alone else 2))


def _micro_batches(
    schedule: str | None, pp: int, chunks: int, shares: tuple[int, ...], at_most: int | None = None
) -> int:
    """As many as the schedule takes, up to four per stage; 1, which a rule may refuse, if it takes none of them."""
    most = min(4 * pp * chunks, *shares, *(() if at_most is None else (at_most,)))
    fitting = [m for m in range(1, most + 1) if all(share % m == 0 for share in shares)]
    return max((m for m in fitting if not (schedule and micro_batch_rule(schedule, pp, chunks, m))), default=1)


def _indivisible(workload: WorkloadSpec, value: str, share: int, remedy: str) -> ConfigError:
    return ConfigError(
        f"{workload.name}: {value} does not divide {share} samples",
        f"the global batch of {workload.global_batch_size} is divided evenly over ranks and micro-batches",
        f"choose {remedy}, or another global_batch_size",
    )


def make_run(
    study: Study,
    choice: WorkloadChoice,
    workload: WorkloadSpec,
    layout: Layout,
    recipe: Recipe,
    facts: ModelFacts,
) -> Run:
    """A complete run; whether it can work is for `rules.refusals` to say."""
    if facts.num_samples is None and (choice.measure.epochs is not None or study.measure.epochs is not None):
        raise ConfigError(
            f"{workload.name}: measure.epochs with a stream",
            "an epoch of a stream without a length has no known number of steps",
            "set measure.steps, or give the dataset a __len__",
        )
    whole, rest = divmod(facts.num_samples or 0, workload.global_batch_size)
    steps_per_epoch = max(1, whole + (rest > 0 and workload.last_batch == "keep"))
    measure = _measure(study.measure, choice.measure, recipe, steps_per_epoch)
    if (schedule := workload.optimizer.schedule) is not None:
        schedule = schedule.ending_after(measure.warmup_steps + measure.steps)
        optimizer = workload.optimizer.model_copy(update={"schedule": schedule})
        workload = workload.model_copy(update={"optimizer": optimizer})
    return Run(
        study=study.name,
        site=study.site,
        seed=study.seed,
        workload=workload,
        layout=layout,
        recipe=recipe,
        resources=place(layout, study.resources, study.device),
        measure=measure,
        checkpoint=study.checkpoint,
        backend=study.backend,
        device=study.device,
    )


def repeats(study: Study, choice: WorkloadChoice, run: Run) -> list[Run]:
    """`run`, and the further measurements of the same configuration that the study asks for."""
    count = choice.measure.repeats or study.measure.repeats or 1
    content = run.model_dump(exclude={"run_id"})
    return [run, *(Run.model_validate({**content, "repeat": number}) for number in range(2, count + 1))]


def place(layout: Layout, limits: ResourcesChoice, device: str) -> Resources:
    """As few nodes as hold the layout's ranks; of nodes that differ, the first node kinds that do."""
    if limits.node_kinds is not None:
        return place_on_node_kinds(layout.num_ranks, limits, device)
    per_node = min(layout.num_ranks, limits.ranks_per_node)
    use_gpus = limits.gpus_per_node and device != "cpu"
    used = {
        "num_nodes": max(1, layout.num_ranks // per_node),
        "ranks_per_node": per_node,
        "gpus_per_node": per_node if use_gpus else 0,
    }
    return Resources(**limits.of_each_run, **limits.shape | used)


def _measure(outer: MeasureChoice, inner: MeasureChoice, recipe: Recipe, steps_per_epoch: int) -> Measure:
    fields = {"parity_tolerance": recipe.parity_tolerance, **inner.said(outer)}
    if inner.epochs is not None or (outer.epochs is not None and "steps" not in inner.said(MeasureChoice())):
        # Epochs count from the first step, warm-up included: what is trained is what the study says.
        total = (inner.epochs or outer.epochs or 0) * steps_per_epoch
        warmup = min(fields.get("warmup_steps", Measure().warmup_steps), total - 1)
        fields.update(warmup_steps=warmup, steps=total - warmup)
    return Measure(**fields)
