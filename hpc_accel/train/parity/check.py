"""Parity of one run, before its timed steps: ranks compare what they were given, then steps are taken and compared.

First the layout is proven in fp32 (fp64 for a model of that type), whatever the recipe. Then the same steps are taken
in the recipe's own arithmetic, if that is another. The run is built anew afterwards: nothing of these steps stays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hpc_accel.errors import ConfigError
from hpc_accel.parallel.mesh import RankCoordinates
from hpc_accel.record.parity import Effect, Found, Phase, Twin
from hpc_accel.record.parts import Parity
from hpc_accel.runtime.waiting import quiet_barrier
from hpc_accel.runtime.weight import MeanOver
from hpc_accel.study.recipe import Recipe
from hpc_accel.study.run import Run
from hpc_accel.train.parity import compare, verdict
from hpc_accel.train.parity.cut import changed_by_cut, pass_size
from hpc_accel.train.parity.effect import effects_without_a_twin
from hpc_accel.train.parity.engine import build_still
from hpc_accel.train.parity.facts import each_weight
from hpc_accel.train.parity.judge import finite, judge
from hpc_accel.train.parity.reference import Kind, Reference
from hpc_accel.train.parity.steps import Measured, take_steps
from hpc_accel.train.parity.store import References, changes_numbers, obtain
from hpc_accel.workloads.nested import HALVES
from hpc_accel.workloads.twin import twin_split
from hpc_accel.workloads.workload import Workload


@dataclass(frozen=True, kw_only=True)
class Checked:
    """What the run goes on with, and what the record says."""

    mean: MeanOver
    draws_data: bool
    reference: Reference | None
    parity: Parity

    @property
    def found(self) -> Found:
        """All that was compared."""
        assert self.parity.found is not None
        return self.parity.found


def check_parity(
    run: Run, path: Path, comm: Any, place: RankCoordinates, device: torch.device, split: tuple[int, ...] | None
) -> Checked:
    """Compare the first steps of `run` with the serial run's. Collective over all ranks.

    Raises ConfigError on every rank where ranks built other weights from the same seed.
    """
    workload = build_still(run, raised=True, filled=False)
    _refuse_other_weights(comm, workload)
    norms = verdict.norms_of(workload.model)
    halves, wide = _types(run)
    references, problem = _obtained(run, path, comm, workload, device, halves=bool(halves))
    if references is not None and not problem and not references.whole.reason:
        split, problem = _split_of(run, workload, references.whole.twin, split)
    del workload
    if references is None or references.whole.reason or problem:
        return _unknown(run, references, problem)
    exact = references.whole
    if run.production is not None:
        return _unknown(run, references, "a training to its end: the run that was measured was compared")
    phases: list[tuple[str, Recipe, str, Measured]] = []
    common: dict[str, Any] = {"split": split, "reference": exact}
    proof, changes = _proof(run, halves=bool(halves))
    wide = "fp64" if exact.is_double else wide
    phases.append(("layout", proof, wide, take_steps(run, comm, place, device, recipe=proof, raised=True, **common)))
    if changes:
        kept = "none" if run.recipe.compression == "powersgd" else run.recipe.compression  # its effect stands apart
        own = run.recipe.model_copy(update={"average_every": 1, "compression": kept})
        measured = take_steps(run, comm, place, device, recipe=own, raised=False, **common)
        phases.append(("recipe", own, f"{run.recipe.precision}{f', weights {halves}' if halves else ''}", measured))
    effects = effects_without_a_twin(run, comm, place, device, split=split, reference=exact, plain=proof)
    found = _found(run, references, phases, norms, effects) if comm.Get_rank() == 0 else None
    found = comm.bcast(found, root=0)
    return Checked(mean=exact.mean, draws_data=exact.draws_data, reference=exact, parity=_parity(run, found))


def _refuse_other_weights(comm: Any, workload: Workload) -> None:
    """Raise ConfigError where a rank's initial weights are not those of rank 0."""
    mine = each_weight(workload)
    first = comm.bcast(mine, root=0)
    names = [name for name in first if mine.get(name) != first[name]] or sorted(set(mine) ^ set(first))
    wrong = next(((rank, name) for rank, name in enumerate(comm.allgather(names[0] if names else None)) if name), None)
    if wrong is not None:
        raise ConfigError(
            f"before step 0: ranks 0 and {wrong[0]} built other weights from one seed, first {wrong[1]}",
            "every rank builds the same model, of which it keeps its part",
            "draw from torch, NumPy or random, which are seeded before build(), sort what comes from sets or "
            "directories, and read the same files on every node",
        )


def _split_of(
    run: Run, workload: Workload, twin: Twin | None, split: tuple[int, ...] | None
) -> tuple[tuple[int, ...] | None, str]:
    """Layers of each stage of what is compared, or why a twin cannot be cut into the run's stages."""
    if twin is None or split is None:
        return split, ""
    try:
        return twin_split(workload, twin.blocks, run.layout.num_stages, split), ""
    except ValueError as error:
        return (
            None,
            f"the serial run does not fit into the memory of one rank, and a twin of it does not either: {error}",
        )


def _types(run: Run) -> tuple[str, str]:
    """The 16-bit type that the user's weights have, or ""; and the type that the layout is proven in."""
    workload = build_still(run, raised=False, filled=False)
    types = {each.dtype for each in workload.model.parameters()}
    half = next((str(each).removeprefix("torch.") for each in types if each in HALVES), "")
    return half, "fp64" if torch.float64 in types else "fp32"


def _obtained(
    run: Run, path: Path, comm: Any, workload: Workload, device: torch.device, *, halves: bool
) -> tuple[References | None, str]:
    found: tuple[References | None, str] = (None, "")
    if comm.Get_rank() == 0:
        found = obtain(run, path, workload, device, halves=halves)
    quiet_barrier(comm)
    obtained: tuple[References | None, str] = comm.bcast(found, root=0)
    return obtained


def _proof(run: Run, *, halves: bool) -> tuple[Recipe, bool]:
    """The recipe that the layout is proven with, and whether the run's own changes numbers."""
    recipe = run.recipe
    changes = changes_numbers(run, halves=halves)
    plain: dict[str, Any] = {"compression": "none", "average_every": 1}
    if changes:
        plain |= {"precision": "fp32", "compile": False}
    return recipe.model_copy(update=plain), changes


def _found(
    run: Run,
    references: References,
    phases: list[tuple[str, Recipe, str, Measured]],
    norms: frozenset[str],
    effects: tuple[Effect, ...],
) -> Found:
    """On rank 0: each phase beside what it is compared with, and what a reader must know."""
    exact = references.whole
    told = [f"{exact.twin.told}: the whole model does not fit on one rank"] if exact.twin else []
    grouped = references.variants.get("grouped")
    found: list[Phase] = []
    setting = verdict.Setting(layout=run.layout, names=exact.names, stages=phases[0][3].stages, norms=norms)
    effect = None
    is_alike = False
    for name, recipe, arithmetic, measured in phases:
        serial: Reference | None = None
        if name == "recipe":
            kind: Kind = "grouped recipe" if grouped is not None else "recipe"
            serial = references.variants[kind]
            effect = compare.recipe_effect(grouped or exact, serial)
        phase = judge(run, name, arithmetic, measured, exact, serial, setting)
        if grouped is not None and not phase.passed:
            phase, is_alike = judge(run, name, arithmetic, measured, grouped, serial, setting), True
        found.append(phase)
        told += _without_a_twin(recipe, run)
    told += [*_properties(run, exact, is_alike=is_alike), *(each.told for each in effects)]
    if effect is None and effects:
        effect = max((each.update_distance or 0.0 for each in effects), default=None)
    cause = next((phase.cause for phase in found if phase.cause), "")
    if changed_by_cut(run, exact.dependence).loss and (run.recipe.sync_batch_norm or (is_alike and not cause)):
        cause = _loss_of_micro_batch(run, is_alike=is_alike)
    return Found(
        mean=exact.mean.told,
        own_distance=finite(compare.own_distance(exact)),
        recipe_effect=None if effect is None else finite(effect),
        effects=effects,
        phases=tuple(found),
        told=tuple(dict.fromkeys(told)),
        twin=exact.twin,
        reference_digest=exact.digest,
        reference_s=references.duration_s,
        cause=cause,
    )


def _loss_of_micro_batch(run: Run, *, is_alike: bool) -> str:
    alike = "; the layout computes the same as a serial run grouped alike, which is another training than the whole's"
    return (
        f"the loss is one of the micro-batch: it compares {run.layout.micro_batch_size} samples with each other, the "
        f"serial run {run.workload.global_batch_size}{alike if is_alike else ''}; with "
        "Workload(..., gather_outputs=True) the loss is given the outputs of all replicas"
    )


def _without_a_twin(recipe: Recipe, run: Run) -> list[str]:
    told = []
    if run.recipe.average_every > 1:
        told.append("local SGD has no serial twin: the layout is compared with every gradient averaged")
    if run.recipe.compression == "powersgd":
        told.append("PowerSGD has no serial twin: the layout is compared with gradients sent whole")
    if recipe.compile:
        told.append("compiled graphs are not watched for random numbers: dropout is off, other draws are as they come")
    return told


def _properties(run: Run, exact: Reference, *, is_alike: bool) -> list[str]:
    """What is inherently of the micro-batch, and other things that hold although nothing is wrong."""
    size, total, dependence = pass_size(run), run.workload.global_batch_size, exact.dependence
    told, replicas = [], f", those of {run.layout.dp} replicas together" if run.recipe.sync_batch_norm else ""
    if is_alike and dependence.outputs:
        who = ", ".join(dependence.layers) or "the model"
        verb = "normalises" if dependence.layers else "computes"
        told.append(
            f"{who} {verb} over {size} samples{replicas}; serial over {total}: compared with a serial run grouped alike"
        )
    if is_alike and dependence.collate:
        told.append("the collate function draws numbers for its batch: compared with a serial run grouped alike")
    if is_alike and dependence.state:
        told.append("buffers that forward changes act on outputs: compared with a serial run of as many forward passes")
    if is_alike and run.layout.shard == "full" and not run.recipe.sync_batch_norm:
        told.append("FSDP does not broadcast running statistics: each replica has its own")
    if exact.shared_draws:
        told.append(f"{', '.join(exact.shared_draws[:3])} draws random numbers that belong to no sample")
    return told


def _unknown(run: Run, references: References | None, problem: str) -> Checked:
    whole = references.whole if references is not None else None
    reason = problem or (whole.reason if whole is not None else "")
    mean = whole.mean if whole is not None else MeanOver(reason="not measured, for want of a serial run")
    parity = Parity(
        max_rel_err=None,
        tolerance=run.measure.parity_tolerance,
        steps=0,
        reference="none",
        passed=False,
        reason=reason,
        found=Found(mean=mean.told, cause=reason),
    )
    return Checked(mean=mean, draws_data=bool(whole and whole.draws_data), reference=whole, parity=parity)


def _parity(run: Run, found: Found) -> Parity:
    """The plain keys of the record: those of the phase that failed, else of the last."""
    phase = next((each for each in found.phases if not each.passed), found.phases[-1])
    distance, tolerance = phase.worst
    own, steps = math.inf if found.own_distance is None else found.own_distance, run.measure.parity_steps
    passed, reason = all(each.passed for each in found.phases) and not found.cause, found.cause or None
    exactly = passed and distance is not None and distance <= compare.WHOLE
    if (own > compare.LARGEST_OWN or not math.isfinite(own)) and not exactly:
        distance, tolerance, steps, passed = None, None, 0, False
        reason = f"the serial run's own cuttings of a batch differ by {own:.2g}: parity cannot be shown"
    return Parity(
        max_rel_err=distance,
        tolerance=tolerance,
        steps=steps,
        reference=phase.compared_with + (f"; {found.twin.told}" if found.twin else ""),
        passed=passed,
        reason=reason,
        found=found,
    )
