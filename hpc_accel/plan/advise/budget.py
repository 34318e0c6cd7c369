"""Backwards: which model, on how many tokens, a budget of node-hours trains.

C = 6 N D and D = 20 N (Hoffmann et al., arXiv 2203.15556), so N = sqrt(C / 120): C are the FLOPs that the node-hours
give at an assumed share of peak (MFU). The planner then predicts that model on these nodes, and its own share of peak
gives a second answer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from hpc_accel.errors import ConfigError
from hpc_accel.plan.advise.models import of_sizes
from hpc_accel.plan.advise.options import best_layout, node_counts, step_models
from hpc_accel.plan.advise.question import Place
from hpc_accel.plan.transformer import TransformerSizes
from hpc_accel.study.layout import Layout

TOKENS_PER_PARAMETER = 20
FLOPS_PER_PARAMETER_AND_TOKEN = 6
ASSUMED_MFU = 0.4
STATE_BYTES = 18
"""Of a parameter: fp32 weight, gradient and two moments of Adam, and the weight in 16 bits."""
STATE_SHARE = 0.5
"""Of a device's usable memory, what the state may take; activations take the rest."""
USABLE = 0.9
ASPECT = 128
"""Width over depth of the shape that stands for a number of parameters."""
VOCABULARY = 50304


@dataclass(frozen=True, kw_only=True)
class Bought:
    """What node-hours buy at one place."""

    place: str
    node_hours: float
    devices_per_node: int
    mfu: float
    flops: float
    num_parameters: float
    num_tokens: float
    min_devices: int
    """That hold the state, divided among them."""
    predicted_mfu: float | None = None
    """The planner's, of such a model there."""
    predicted_parameters: float | None = None
    predicted_tokens: float | None = None
    num_nodes: int | None = None
    """On which it was predicted."""
    hours: float | None = None
    layout: Layout | None = None
    shape: TransformerSizes | None = None
    reason: str | None = None
    """Why nothing was predicted."""
    not_run_here: str | None = None
    """Why this project's training does not run there, where it does not."""


def bought(place: Place, node_hours: float, *, mfu: float = ASSUMED_MFU, sequence: int, batch_tokens: int) -> Bought:
    """What `node_hours` buy at `place`. Raises ConfigError where its peak or memory is unknown."""
    memory = place.hardware.slowest.device_memory_bytes
    if place.peak_flops_per_s is None or memory is None:
        raise ConfigError(
            f"{place.name}: peak in 16 bits or memory unknown",
            "a budget becomes FLOPs by the peak rate of the catalogue",
            "name a device of the catalogue that has both",
        )
    per_node = place.hardware.ranks_per_node
    peak = node_hours * 3600 * per_node * place.peak_flops_per_s
    parameters = _parameters(peak * mfu)
    devices = math.ceil(STATE_BYTES * parameters / (STATE_SHARE * USABLE * memory))
    plain: dict[str, Any] = {
        "place": place.name,
        "node_hours": node_hours,
        "devices_per_node": per_node,
        "mfu": mfu,
        "flops": peak * mfu,
        "num_parameters": parameters,
        "num_tokens": TOKENS_PER_PARAMETER * parameters,
        "min_devices": devices,
        "not_run_here": place.not_run_here or None,
    }
    shape = shape_of(parameters, sequence)
    try:
        num_nodes, seconds, layout, flops = _predicted(place, shape, batch_tokens, math.ceil(devices / per_node))
    except ConfigError as error:
        return Bought(**plain, shape=shape, reason=error.value)
    share = flops / seconds / (num_nodes * per_node) / place.peak_flops_per_s
    own = _parameters(peak * share)
    return Bought(
        **plain,
        predicted_mfu=share,
        predicted_parameters=own,
        predicted_tokens=TOKENS_PER_PARAMETER * own,
        num_nodes=num_nodes,
        hours=node_hours / num_nodes,
        layout=layout,
        shape=shape,
    )


def _parameters(flops: float) -> float:
    return math.sqrt(flops / FLOPS_PER_PARAMETER_AND_TOKEN / TOKENS_PER_PARAMETER)


def shape_of(num_parameters: float, sequence: int) -> TransformerSizes:
    """A transformer of about so many parameters: 12 l h^2 with h = 128 l, widths in multiples of 128."""
    hidden = max(128, 128 * round((num_parameters * ASPECT / 12) ** (1 / 3) / 128))
    layers = max(1, round(num_parameters / 12 / hidden**2))
    return TransformerSizes(
        layers=layers,
        hidden=hidden,
        heads=hidden // 128,
        feed_forward=4 * hidden,
        vocabulary=VOCABULARY,
        sequence=sequence,
        dropout=False,
        positions=sequence,
    )


def _predicted(
    place: Place, shape: TransformerSizes, batch_tokens: int, least: int
) -> tuple[int, float, Layout, float]:
    """On the fewest nodes that hold it: how many, seconds of a step, the layout, and FLOPs of the step.

    Raises ConfigError where as many nodes as there are do not.
    """
    if least > place.max_nodes:
        raise ConfigError(
            f"its state takes {least} nodes, of {place.max_nodes} at most",
            "a model is predicted on nodes that hold its state",
            "ask with more --max-nodes, or for fewer node-hours",
        )
    batch = 2 ** max(0, round(math.log2(batch_tokens / shape.sequence)))
    model = of_sizes("sized-by-budget", shape, batch)
    models = step_models(model, place, "bf16")
    error: ConfigError | None = None
    for count in node_counts(place):
        if count < least:
            continue
        try:
            seconds, run = best_layout(model, place, count, models)
        except ConfigError as refused:
            error = refused
            continue
        return count, seconds, run.layout, model.flops_per_sample * batch
    assert error is not None
    raise error
