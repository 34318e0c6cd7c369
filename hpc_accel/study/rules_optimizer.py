"""Which optimizers cannot work with a layout or a recipe: those that need what a rank does not hold."""

from __future__ import annotations

from collections.abc import Iterator

from hpc_accel.errors import ConfigError
from hpc_accel.study.model_facts import ModelFacts
from hpc_accel.study.optimizer import FUSED
from hpc_accel.study.refusal import refusal
from hpc_accel.study.run import Run

WHOLE = ("muon", "adafactor")
"""Classes that look at a whole matrix to update an element of it."""
NOT_DIVIDED = ("adafactor", "rprop", "sparseadam")
"""Classes whose operations torch cannot do on FSDP2's divided parameters (torch 2.13)."""
FUSED_DIVIDED = ("adam", "adamw")


def optimizer_refusals(run: Run, facts: ModelFacts | None = None) -> Iterator[ConfigError]:
    """Every rule that the optimizer of `run` breaks."""
    layout, spec = run.layout, run.workload.optimizer
    if run.infer is not None:
        return
    for name in spec.names:
        if layout.tp > 1 and name in WHOLE:
            yield refusal(
                run,
                f"optimizer {name} with tp {layout.tp}",
                f"{name} computes with whole matrices, of which a tensor-parallel rank holds a part",
                "use dp, shard or pp, or an optimizer that treats each element by itself, as adamw",
            )
        if layout.shard == "full" and name in NOT_DIVIDED:
            rule = f"torch has no {name} for the divided parameters of FSDP2"
            yield refusal(run, f"optimizer {name} with shard full", rule, "use shard: none or optimizer, or adamw")
        if run.recipe.fused_optimizer and ":" not in name and name not in FUSED:
            rule = f"torch has one kernel for all parameters of {', '.join(FUSED)} only"
            yield refusal(run, f"fused_optimizer with optimizer {name}", rule, "leave fused_optimizer out")
        elif run.recipe.fused_optimizer and ":" not in name and layout.shard == "full" and name not in FUSED_DIVIDED:
            rule = f"torch has no fused {name} for the divided parameters of FSDP2"
            yield refusal(run, f"fused_optimizer of {name} with shard full", rule, "leave it out, or use adamw")
    own = facts.optimizer if facts is not None else None
    if layout.shard == "optimizer" and own is not None and not own.keeps_groups:
        yield refusal(
            run,
            f"optimizer {spec.name} with shard optimizer",
            "ZeroRedundancyOptimizer divides the groups that the study names, and this function makes its own",
            "name the groups in the study (optimizer.groups), or use shard: full",
        )
