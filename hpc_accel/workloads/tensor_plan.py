"""Which linear layers a workload's tensor plan means: patterns resolved to module names, in the model's order."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Literal

from torch import nn

from hpc_accel.errors import ConfigError

Cut = Literal["columns", "rows"]


def planned_linears(
    model: nn.Module, plan: Mapping[str, Literal["columns", "rows"]]
) -> dict[str, Literal["columns", "rows"]]:
    """The plan with its patterns resolved to module names. Raises ConfigError for a pattern that fits no Linear."""
    # A list: ranks cut layers together, so all must go through them in the same order.
    linears = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    resolved: dict[str, Cut] = {}
    for pattern, way in plan.items():
        names = [name for name in linears if fnmatchcase(name, pattern)]
        if not names or way not in ("columns", "rows"):
            raise ConfigError(
                f"tensor_plan entry {pattern!r}: {way!r}",
                "each entry names torch.nn.Linear modules and cuts them by 'columns' or 'rows'",
                f"the model's linear layers are: {', '.join(linears) or 'none'}",
            )
        resolved.update(dict.fromkeys(names, way))
    return resolved
