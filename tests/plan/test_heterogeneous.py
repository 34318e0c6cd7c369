"""Plans for nodes that differ: shares and stages by probed speed, and predictions of the nodes a run takes."""

from __future__ import annotations

from typing import Any

import pytest

from hpc_accel.errors import ConfigError
from hpc_accel.plan.heterogeneous import rank_speed
from hpc_accel.plan.planner import make_plan
from hpc_accel.plan.prediction import Prices
from hpc_accel.probe.hardware import checked_hardware
from hpc_accel.study.run import NodeKind
from hpc_accel.study.study_file import Study
from tests.plan.examples import machine_json, model

FAST_AND_SLOW = [{"ranks_per_node": 1}, {"ranks_per_node": 1, "partition": "slow"}]


def hardware(*rates: float, bf16: float | None = None) -> dict[str, Any]:
    """Kinds of nodes that multiply matrices at `rates` (FLOP/s) in fp32, one for each node kind."""
    content = machine_json(num_nodes=len(rates), ranks_per_node=1, device="cpu")
    [kind] = content["node_kinds"]
    content["node_kinds"] = [
        {
            **kind,
            "name": f"n{number}",
            "number": number,
            "num_nodes": 1,
            "matmul_flops_per_s": {"fp32": rate, "bf16": bf16},
            "matmul_flops_per_s_reason": {"bf16": "no such instructions"},
            "matmul_by_size": [],
            "levels": [],
        }
        for number, rate in enumerate(rates)
    ]
    return content


def study(layouts, node_kinds=FAST_AND_SLOW, **content) -> Study:
    return Study.model_validate(
        {
            "name": "example",
            "workload": {"name": "lm", "global_batch_size": 64},
            "layouts": layouts,
            "resources": {"node_kinds": node_kinds, "memory_mb": 64_000},
            "device": "cpu",
            **content,
        }
    )


def planned(layouts, rates=(3e11, 1e11), **content):
    return make_plan(study(layouts, **content), hardware(*rates), {"lm": model()}).candidates


def test_shares_are_in_proportion_to_the_probed_speed():
    [candidate] = planned([{"dp": 2, "shares": "auto"}])
    assert candidate.run.layout.shares == (48, 16)
    assert "48+16" in candidate.run.run_id


def test_layers_are_in_proportion_to_the_probed_speed():
    [candidate] = planned([{"pp": 2}])
    assert candidate.run.layout.split == (6, 2)
    [candidate] = planned([{"pp": 2}], rates=(1e11, 3e11))
    assert candidate.run.layout.split == (2, 6)


@pytest.mark.parametrize(
    ("layout", "split"), [({"pp": 2, "split": (4, 4)}, (4, 4)), ({"pp": 2, "split": "measured"}, "measured")]
)
def test_a_split_that_is_said_stays(layout, split):
    [candidate] = planned([layout])
    assert candidate.run.layout.split == split


def test_equally_fast_node_kinds_change_nothing():
    candidates = planned([{"dp": 2, "shares": "auto"}, {"pp": 2}], rates=(1e11, 1e11))
    assert [(each.run.layout.shares, each.run.layout.split) for each in candidates] == [(None, "auto")] * 2


def test_speed_is_that_of_all_ranks_of_the_node_at_work():
    content = hardware(3e11)
    level = {
        "ranks": 2,
        "threads": 1,
        "matmul_flops_per_s": {"fp32": 1e11},
        "memory_bandwidth_bytes_per_s": 1e10,
        "kernel_overhead_s": 1e-5,
    }
    content["node_kinds"][0]["levels"] = [{**level, "ranks": 1, "matmul_flops_per_s": {"fp32": 3e11}}, level]
    machine = checked_hardware(content)
    assert rank_speed(machine, NodeKind(ranks_per_node=1), "fp32") == 3e11
    assert rank_speed(machine, NodeKind(ranks_per_node=2), "fp32") == 1e11


def test_what_was_not_probed_is_refused():
    with pytest.raises(ConfigError, match="nothing of node kind 1"):
        make_plan(study([{"dp": 2, "shares": "auto"}]), hardware(1e11), {"lm": model()})
    with pytest.raises(ConfigError, match=r"no bf16 rate of node kind 0.*no such instructions"):
        planned([{"pp": 2}], recipes=[{"precision": "bf16"}])


def test_search_on_nodes_that_differ_is_refused():
    with pytest.raises(ConfigError, match="layouts auto with resources") as caught:
        planned("auto")
    assert "shares: auto" in caught.value.remedy


def test_a_run_is_predicted_and_priced_by_the_nodes_it_takes():
    node_kinds = [{"ranks_per_node": 1}, {"ranks_per_node": 2, "partition": "slow"}]

    def prices(resources):
        total = {"": 4.0, "slow": 1.0}
        nodes = resources.nodes_by_partition
        return Prices(per_node_hour=sum(total[name] for name, _ in nodes) / len(nodes), unit="EUR")

    machine = hardware(3e11, 1e11)
    made = make_plan(study([{}, {"dp": 2}], node_kinds), machine, {"lm": model()}, prices=prices)
    fast, slow = made.candidates
    steps = fast.run.measure.steps
    for candidate, price in ((fast, 4.0), (slow, 1.0)):
        seconds = candidate.prediction.step_time_ms / 1e3 * steps
        assert candidate.prediction.cost == pytest.approx(price * seconds / 3600)
    alone = make_plan(study([{}], node_kinds), hardware(3e11, 3e11), {"lm": model()}).candidates[0]
    assert fast.prediction.step_time_ms == pytest.approx(alone.prediction.step_time_ms)
