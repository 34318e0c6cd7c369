"""Layouts, recipes and inference as a study names them: values, or lists of values that are compared.

Each option is defined once, in Layout, Recipe, Measure, NodeKind or InferOptions. `fields_of` gives a study's form of
these the same fields: as lists of values, or as values that may be left out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Annotated, Any, Literal, Self, TypeVar, get_type_hints

from pydantic import Field, create_model, model_validator

from hpc_accel.study.base import PositiveInt, StrictModel
from hpc_accel.study.infer_options import InferOptions
from hpc_accel.study.layout import Layout
from hpc_accel.study.recipe import Recipe

Own = TypeVar("Own", bound=StrictModel)


def fields_of(
    model: type[StrictModel], *, listed: bool = False, optional: Collection[str] = (), but: Collection[str] = ()
) -> Callable[[type[Own]], type[Own]]:
    """Class decorator: the fields of `model` beside the class's own, which win.

    `listed`: a field takes a value or a list of values. `optional`: fields that may be left out, with None for a
    default. `but`: fields that a study cannot say.
    """

    def decorate(own: type[Own]) -> type[Own]:
        hints = get_type_hints(model, include_extras=True)
        fields: dict[str, Any] = {}
        for key, info in model.model_fields.items():
            if key in but or key in own.model_fields:
                continue
            kind: Any = hints[key]
            if listed:
                kind = kind | list[kind]
            fields[key] = (kind | None, None) if key in optional else (kind, info.default)
        return create_model(own.__name__, __base__=own, __module__=own.__module__, __doc__=own.__doc__, **fields)

    return decorate


class Choice(StrictModel):
    """Values, or lists of values that are compared."""

    @model_validator(mode="after")
    def _something(self) -> Self:
        for key in self.model_fields_set:
            if getattr(self, key) == []:
                raise ValueError(f"{key} lists nothing, so nothing would run; give a value or leave the key out")
        return self


@fields_of(Layout, listed=True, optional=("stages_per_rank", "micro_batch_size", "accumulation_steps"))
class LayoutChoice(Choice):
    """One layout, or with lists the cross product of several.

    Give `micro_batch_size` or `accumulation_steps`; the other follows from the global batch.
    """

    split: Literal["auto", "measured"] | tuple[PositiveInt, ...] = "auto"
    """One value: a list is the layers of each stage."""
    shares: tuple[PositiveInt, ...] | Literal["auto"] | None = None
    """One value: a list is the samples of each replica."""


@fields_of(Recipe, listed=True)
class RecipeChoice(Choice):
    """One recipe, or with lists the cross product of several."""


class InferChoice(InferOptions):
    """A study's `infer`. Its own layouts and recipes win over the workload's and the study's."""

    batch_sizes: Annotated[list[PositiveInt], Field(min_length=1)] = [1]
    layouts: list[LayoutChoice] | None = None
    recipes: list[RecipeChoice] | None = None
