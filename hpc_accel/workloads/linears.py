"""Linear layers as tensor parallelism divides them: torch's, and transformers' Conv1D, whose weight is transposed.

A layer that computes several things at once (query, key and value; gate and up) says so by an attribute `sections`, the
output features of each in order: then each section is divided, so that a rank holds its own heads of all of them.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import nn

Division = tuple[int, tuple[int, ...]]
"""The dimension of a parameter that is divided, and the sizes of the sections along it."""


def is_linear(module: nn.Module) -> bool:
    """Whether `module` is a product with one weight: torch's Linear, or what GPT-2 has instead."""
    return isinstance(module, nn.Linear) or _is_transposed(module)


def features(linear: Any) -> tuple[int, int]:
    """Input and output features."""
    return (linear.nx, linear.nf) if _is_transposed(linear) else (linear.in_features, linear.out_features)


def set_features(linear: Any, inputs: int, outputs: int) -> None:
    """Say what is left of the features of a layer that has been divided."""
    if _is_transposed(linear):
        linear.nx, linear.nf = inputs, outputs
    else:
        linear.in_features, linear.out_features = inputs, outputs


def product(linear: Any, states: Any, bias: Any) -> Any:
    """`states` times the layer's weight, and `bias` (or None) added."""
    weight = linear.weight.t() if _is_transposed(linear) else linear.weight
    return nn.functional.linear(states, weight, bias)


def sections_of(linear: Any) -> tuple[int, ...]:
    """Output features of what the layer computes at once; of most layers all of them are one section."""
    return tuple(getattr(linear, "sections", None) or (features(linear)[1],))


def division(module: Any, way: str) -> dict[str, Division]:
    """How each parameter of a module is divided by a cut of the tensor plan; whole ones are left out."""
    if way == "vocabulary":
        return {"weight": (0, (module.num_embeddings,))}
    if way in ("columns", "gather"):
        sections = sections_of(module)
        return {"weight": (1 if _is_transposed(module) else 0, sections), "bias": (0, sections)}
    if way == "rows":
        return {"weight": (0 if _is_transposed(module) else 1, (features(module)[0],))}
    return {}


def shares(sections: tuple[int, ...], size: int, rank: int) -> list[tuple[int, int]]:
    """Where the parts of `rank` of `size` begin and how long they are, one of each section, as torch.tensor_split cuts.

    They lie side by side in what the rank holds.
    """
    found, begin = [], 0
    for section in sections:
        each, more = divmod(section, size)
        found.append((begin + rank * each + min(rank, more), each + (rank < more)))
        begin += section
    return found


def units(linear: Any, way: Literal["columns", "rows"], width: int) -> list[int]:
    """Equal shares that each divided section has, where no head of `width` features is cut."""
    return [size // width for size in (sections_of(linear) if way == "columns" else features(linear)[:1])]


def _is_transposed(module: nn.Module) -> bool:
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf") and hasattr(module, "nx")
