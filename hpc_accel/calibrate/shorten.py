"""A deep model with fewer of its equal layers: what one block takes shows on two as well as on a hundred."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

from hpc_accel.errors import ConfigError
from hpc_accel.plan.calibration import layer_digest
from hpc_accel.study.model_facts import ModelFacts
from hpc_accel.workloads.chain import is_sequence, layers_of
from hpc_accel.workloads.workload import Workload

MOST_EQUAL = 2
"""Equal neighbours that stay: a block between blocks."""


def layers_to_keep(facts: ModelFacts) -> tuple[int, ...] | None:
    """Of runs of equal layers the first `MOST_EQUAL`; None where nothing would be left out, or cannot be."""
    if not facts.sequential:
        return None
    kept: list[int] = []
    before, alike = "", 0
    for index, layer in enumerate(facts.layers):
        digest = layer_digest(layer)
        alike = alike + 1 if digest == before else 1
        before = digest
        if alike <= MOST_EQUAL:
            kept.append(index)
    return tuple(kept) if len(kept) < len(facts.layers) else None


def facts_of_kept(facts: ModelFacts, kept: Sequence[int] | None) -> ModelFacts:
    """Those of the shortened model."""
    return facts if kept is None else replace(facts, layers=tuple(facts.layers[index] for index in kept))


def shortened(workload: Workload, kept: Sequence[int] | None) -> Workload:
    """`workload` with these layers of its model alone, under their own names. Raises ConfigError where it has others.

    Facts must have been counted layer by layer, as they are of a Sequential.
    """
    if kept is None:
        return workload
    if not is_sequence(workload.model) or workload.deferred is not None:
        raise ConfigError(
            "a model that does not fit as a whole",
            "only a Sequential with values is measured with fewer layers",
            "nothing: its predictions rest on probed rates alone",
        )
    layers = layers_of(workload.model)
    model = type(workload.model)(OrderedDict(layers[index] for index in kept))
    return replace(workload, model=model)
