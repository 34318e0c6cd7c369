"""What a layout's cut of the batch changes of a model that acts on samples together."""

from __future__ import annotations

from hpc_accel.study.run import Run
from hpc_accel.train.parity.facts import Dependence


def changed_by_cut(run: Run, dependence: Dependence) -> Dependence:
    """Of `dependence`, what the layout of `run` does not compute as the whole batch does; nothing of a serial one."""
    layout = run.layout
    if layout.dp * layout.accumulation_steps == 1:
        return Dependence()
    normalises_whole = run.recipe.sync_batch_norm and layout.accumulation_steps == 1
    changed = {
        "outputs": dependence.outputs and not (normalises_whole and dependence.layers),
        "loss": dependence.loss and not dependence.gathered,
    }
    return dependence.model_copy(update=changed)


def pass_size(run: Run) -> int:
    """Samples that BatchNorm layers of `run` normalise over."""
    return run.layout.micro_batch_size * (run.layout.dp if run.recipe.sync_batch_norm else 1)
