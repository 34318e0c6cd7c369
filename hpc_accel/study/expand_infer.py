"""A study's `infer` into inference runs: layouts x recipes x batch sizes, beside the training runs or instead of them.

A batch is what one replica computes at once, so the run's global batch is dp x batch size. With stages it is cut into
as many micro-batches as there are stages where that divides it, so that stages work at the same time.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from hpc_accel.errors import ConfigError
from hpc_accel.study.choices import InferChoice, LayoutChoice
from hpc_accel.study.expand import Drop, Dropped, place, products, recipes, resolve_layout, resolve_workload
from hpc_accel.study.infer_options import Infer, InferOptions
from hpc_accel.study.layout import Layout
from hpc_accel.study.recipe import Recipe
from hpc_accel.study.run import Measure, Run, WorkloadSpec
from hpc_accel.study.study_file import Study, WorkloadChoice

TRAINING = ("parity_steps", "max_steps", "target_loss")
"""Keys of `measure` that are about training."""


def inference_runs(study: Study, choice: WorkloadChoice, drop: Drop | None = None) -> Iterator[Run]:
    """The inference runs of one workload, none without `infer`.

    A batch that cannot be divided is handed to `drop`; without it, ConfigError is raised.
    """
    infer = choice.infer or study.infer
    if infer is None:
        if not study.train:
            raise ConfigError(
                f"train: false, and workload {resolve_workload(choice).name} has no infer",
                "a workload is trained, or serves requests, or both",
                "give it (or the study) `infer: {arrival_rates_per_s: [10]}`, or delete `train: false`",
            )
        return
    workload = resolve_workload(choice)
    for layout_choice in _layouts(study, choice, infer):
        for fields in products(layout_choice):
            for batch_size in infer.batch_sizes:
                try:
                    layout = _layout(workload, fields, batch_size)
                except ConfigError as error:
                    if drop is None:
                        raise
                    drop(Dropped(workload=workload.name, layout=fields, recipe=None, error=error))
                    continue
                for recipe in recipes(infer.recipes, choice.recipes, study.recipes):
                    yield _make_run(study, choice, workload, layout, recipe, resolved(infer, batch_size))


def resolved(infer: InferChoice, batch_size: int) -> Infer:
    """One run's part of a study's choice."""
    content = infer.model_dump(include=set(InferOptions.model_fields))
    return Infer(**content, batch_size=batch_size)


def _layouts(study: Study, choice: WorkloadChoice, infer: InferChoice) -> list[LayoutChoice]:
    found = next((each for each in (infer.layouts, choice.layouts) if each is not None), study.layouts)
    if found == "auto":
        raise ConfigError(
            "infer with layouts: auto",
            "the planner predicts training; what is to serve is listed",
            "add `layouts:` to `infer`, for example [{}, {dp: 2}]",
        )
    assert isinstance(found, list)
    return found


def _layout(workload: WorkloadSpec, fields: dict[str, Any], batch_size: int) -> Layout:
    """A layout whose global batch is one batch on every replica."""
    dp, pp, parts = fields["dp"], fields["pp"], fields["accumulation_steps"]
    name = f"{workload.name}: infer with batch size {batch_size}"
    if fields["micro_batch_size"] is not None:
        raise ConfigError(
            f"{name} and micro_batch_size {fields['micro_batch_size']}",
            "an inference batch is infer.batch_sizes; stages cut it into accumulation_steps micro-batches",
            "leave micro_batch_size out, or give `infer` layouts of its own",
        )
    if parts is None:
        parts = max(count for count in range(1, pp + 1) if batch_size % count == 0)
    elif batch_size % parts:
        raise ConfigError(
            f"{name} in {parts} micro-batches (accumulation_steps)",
            "a batch is cut into equal micro-batches",
            "leave accumulation_steps out, or give `infer` layouts of its own",
        )
    whole = workload.model_copy(update={"global_batch_size": dp * batch_size})
    schedule = fields["schedule"] or ("gpipe" if pp > 1 else None)
    return resolve_layout(whole, {**fields, "accumulation_steps": parts, "schedule": schedule})


def _make_run(
    study: Study, choice: WorkloadChoice, workload: WorkloadSpec, layout: Layout, recipe: Recipe, infer: Infer
) -> Run:
    batch = layout.dp * infer.batch_size
    measured = choice.measure.said(study.measure, but=TRAINING)
    return Run(
        study=study.name,
        site=study.site,
        seed=study.seed,
        workload=workload.model_copy(update={"global_batch_size": batch, "last_batch": "drop"}),
        layout=layout,
        recipe=recipe,
        resources=place(layout, study.resources, study.device),
        measure=Measure(**{"parity_tolerance": recipe.parity_tolerance, **measured}),
        backend=study.backend,
        device=study.device,
        infer=infer,
    )
