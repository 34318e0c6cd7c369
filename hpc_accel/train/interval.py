"""How often a run saves when its study does not say: after the interval of Young and Daly.

With a save that costs `c` and a failure every `m` on average, the least time is lost when a run saves every
sqrt(2 c m) (Young, Communications of the ACM 17, 1974; Daly, Future Generation Computer Systems 22, 2006). Of a run on
n nodes, m is a node's mean time between failures over n. The cost is how long saves have taken so far; before the first
one it is guessed from the bytes.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

NODE_MTBF_H = 6000.0
"""Hours between failures of a node that end a job: 419 in 54 days on 2,048 nodes (Llama 3, arXiv 2407.21783) are one in
6,300 hours. A site's own figure is its `node_mtbf_h`."""
GUESSED_BYTES_PER_S = 200e6
"""Of each node, before a save has been measured."""


@dataclass(frozen=True, kw_only=True)
class Interval:
    """Seconds between two saves, None where only the end's warning saves; and why."""

    seconds: float | None
    reason: str


def interval(
    saves_s: Sequence[float],
    *,
    state_bytes_per_node: float,
    num_nodes: int,
    node_mtbf_h: float | None,
    time_limit_min: int,
) -> Interval:
    """The interval for a run whose saves took `saves_s`."""
    known = "the site's" if node_mtbf_h is not None else "assumed"
    mtbf_h = (node_mtbf_h or NODE_MTBF_H) / num_nodes
    if saves_s:
        cost_s, how = statistics.median(saves_s), f"the median of {len(saves_s)}"
    else:
        cost_s, how = state_bytes_per_node / GUESSED_BYTES_PER_S, "a guess from its bytes"
    best_s = math.sqrt(2 * cost_s * mtbf_h * 3600)
    told = (
        f"Young/Daly: {best_s:.0f} s, for a save of {cost_s:.2g} s ({how}) and a failure every {mtbf_h:.4g} h "
        f"({known} {node_mtbf_h or NODE_MTBF_H:g} h per node on {num_nodes})"
    )
    if best_s >= time_limit_min * 60:
        told += f"; the time limit of {time_limit_min} min comes first, and its warning saves"
        return Interval(seconds=None, reason=told)
    return Interval(seconds=best_s, reason=told)
