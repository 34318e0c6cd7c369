"""What parity found, as it stands in the record: which steps were compared with what, how far apart, and why."""

from __future__ import annotations

from typing import Literal

from hpc_accel.record.figure import Number, Part, Whole
from hpc_accel.record.text import Text


class Phase(Part):
    """Steps in one arithmetic. `layout` proves the layout in fp32, or fp64; `recipe` has the run's own arithmetic."""

    name: Literal["layout", "recipe"]
    arithmetic: Text
    compared_with: Text
    gradient_distances: tuple[Number | None, ...]
    """Of each step ||g - r|| / ||r|| over the whole gradient; null where it is not finite."""
    gradient_tolerances: tuple[Number, ...]
    gradient_factors: tuple[Number | None, ...]
    """<g, r> / <r, r>."""
    losses: tuple[Number | None, ...]
    reference_losses: tuple[Number | None, ...]
    update_distance: Number | None
    optimizer_distance: Number | None
    passed: bool
    cause: Text = ""
    """What differs first, by how much, and what such a pattern means; "" where nothing does."""

    @property
    def worst(self) -> tuple[Number | None, Number | None]:
        """The distance nearest to its tolerance, or farthest beyond, and that tolerance."""
        pairs = list(zip(self.gradient_distances, self.gradient_tolerances, strict=True))
        if not pairs or any(distance is None for distance, _ in pairs):
            return None, max((tolerance for _, tolerance in pairs), default=None)
        return max(pairs, key=lambda pair: (pair[0] or 0.0) / pair[1])


class Effect(Part):
    """What a part of a recipe changes that no serial run has: the same layout takes the same steps without it.

    Distances are relative to the steps without it; null where they were not measured or are not finite.
    """

    of: Text
    num_steps: Whole
    gradient_distance: Number | None = None
    """Of the first gradient that PowerSGD compresses: until then the weights are equal."""
    update_distance: Number | None = None
    """Of the change of the weights over all steps; under local SGD after the average."""
    replica_drift: Number | None = None
    """Under local SGD: how far replicas are from their mean before the average, root mean square over replicas."""
    told: Text


class Twin(Part):
    """A smaller model that stood for one too large for one rank: `blocks` of its `of` alike blocks."""

    blocks: Whole
    of: Whole

    @property
    def told(self) -> str:
        """In words."""
        return f"shown on a twin of {self.blocks} of {self.of} blocks"


class Found(Part):
    """All that was compared. `told` are properties of the layout that a reader must know although nothing is wrong."""

    mean: Text
    own_distance: Number | None = None
    """The largest distance among the reference's own cuttings."""
    recipe_effect: Number | None = None
    """What the recipe changes, whatever the layout: how far its serial run is from the one in fp32.

    Of PowerSGD and local SGD, which have none, how otherwise the weights moved than in the same layout without them.
    """
    effects: tuple[Effect, ...] = ()
    phases: tuple[Phase, ...] = ()
    told: tuple[Text, ...] = ()
    twin: Twin | None = None
    """What was compared where the whole model does not fit on one rank; null where it was the whole."""
    reference_digest: Text = ""
    reference_s: Number | None = None
    """How long the serial runs took to compute, in seconds: once for all runs of one model, seed and batch."""
    cause: Text = ""
