"""A run that starts where another one stopped, in whatever layout: study key `checkpoint: {start_from: DIRECTORY}`.

Both train the same model on the same samples in the same order; the layout, the number of ranks, the recipe and the
number of steps may differ. The position in the data is global, so no sample is left out or seen twice in an epoch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hpc_accel.errors import ConfigError
from hpc_accel.study.run import Run
from hpc_accel.train.checkpoint_directory import NAME, CheckpointDirectory

RULE = "a run starts from the checkpoint of a run of the same model, data, global batch, seed and kind of optimizer"


def checkpoint_of(place: str, comm: Any) -> tuple[CheckpointDirectory, list[str], list[str]]:
    """The checkpoints of the run in directory `place`, or the one that it names; and what is odd about them.

    Collective. Raises ConfigError on all ranks when there is none.
    """
    path = Path(place).absolute()
    if NAME.fullmatch(path.name):
        directory, wanted = CheckpointDirectory(path.parent), [path.name]
    else:
        directory, wanted = CheckpointDirectory(path / "checkpoints"), []
    found: tuple[list[str], list[str]] | None = None
    if comm.Get_rank() == 0:
        names, notes = directory.candidates()
        found = [name for name in wanted or names if name in names], notes
    names, notes = comm.bcast(found)
    if not names:
        raise ConfigError(
            f"checkpoint.start_from: {place}",
            "it names a run's directory with checkpoints in it, or one of them (.../checkpoints/step-000040)",
            "name a run that was stopped: one that came to its end keeps no checkpoints",
        )
    return directory, names, notes


def refuse_other_training(run: Run, other: Run, path: Path) -> None:
    """Raise ConfigError where `other`, whose checkpoint is at `path`, trains something else than `run`."""
    mine, theirs = _identity(run), _identity(other)
    odd = [f"{key} is {theirs[key]!r} there and {mine[key]!r} here" for key in mine if mine[key] != theirs[key]]
    if odd:
        raise ConfigError(f"{path}: {'; '.join(odd)}", RULE, "make them alike, or start the run from its beginning")
    every = (other.recipe.average_every, run.recipe.average_every)
    if max(every) > 1 and (other.layout != run.layout or every[0] != every[1]):
        raise ConfigError(
            f"{path}: average_every {every[0]} with {other.layout.label}, and {every[1]} with {run.layout.label}",
            "replicas that train alone between two averages have optimizers of their own, of no use to other layouts",
            "go on in the same layout with the same average_every",
        )


def refuse_ended(run: Run, step: int) -> None:
    """Raise ConfigError where nothing is left to do after `step` steps."""
    total = run.measure.warmup_steps + run.measure.steps
    if step >= total:
        raise ConfigError(
            f"a checkpoint after step {step} for a run of {total} steps",
            "steps are counted from the beginning of the training, warm-up included",
            f"set measure.steps to more than {step - run.measure.warmup_steps}",
        )


def _identity(run: Run) -> dict[str, Any]:
    workload = run.workload
    return {
        "entry": workload.entry,
        "args": workload.args,
        "global_batch_size": workload.global_batch_size,
        "last_batch": workload.last_batch,
        "optimizer": [workload.optimizer.name, *(group.name for group in workload.optimizer.groups)],
        "seed": run.seed,
    }
