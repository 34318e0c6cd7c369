"""What parity found, as it stands in the record: which steps were compared with what, how far apart, and why."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict


class Model(BaseModel):
    """Frozen, strict."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Phase(Model):
    """Steps in one arithmetic. `layout` proves the layout in fp32, or fp64; `recipe` has the run's own arithmetic."""

    name: Literal["layout", "recipe"]
    arithmetic: str
    compared_with: str
    gradient_distances: tuple[float | None, ...]
    """Of each step ||g - r|| / ||r|| over the whole gradient; null where it is not finite."""
    gradient_tolerances: tuple[float, ...]
    gradient_factors: tuple[float | None, ...]
    """<g, r> / <r, r>."""
    losses: tuple[float | None, ...]
    reference_losses: tuple[float | None, ...]
    update_distance: float | None
    optimizer_distance: float | None
    passed: bool
    cause: str = ""
    """What differs first, by how much, and what such a pattern means; "" where nothing does."""

    @property
    def worst(self) -> tuple[float | None, float | None]:
        """The distance nearest to its tolerance, or farthest beyond, and that tolerance."""
        pairs = list(zip(self.gradient_distances, self.gradient_tolerances, strict=True))
        if not pairs or any(distance is None for distance, _ in pairs):
            return None, max((tolerance for _, tolerance in pairs), default=None)
        return max(pairs, key=lambda pair: (pair[0] or 0.0) / pair[1])


class Found(Model):
    """All that was compared. `told` are properties of the layout that a reader must know although nothing is wrong."""

    mean: str
    own_distance: float | None = None
    """The largest distance among the reference's own cuttings."""
    recipe_effect: float | None = None
    """How far the recipe's serial run is from the one in fp32: what the recipe changes, whatever the layout."""
    phases: tuple[Phase, ...] = ()
    told: tuple[str, ...] = ()
    reference_digest: str = ""
    cause: str = ""
