"""The schedules are torch's own, and obey rules every schedule obeys."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest
from torch.distributed.pipelining import schedules as torch_schedules

from hpc_accel.plan.schedules import SCHEDULES, Action, in_flight, told
from hpc_accel.study.layout import LOOPED, SINGLE, V_SHAPED, Layout, micro_batch_rule

TORCH = {
    "gpipe": "ScheduleGPipe",
    "1f1b": "Schedule1F1B",
    "interleaved_1f1b": "ScheduleInterleaved1F1B",
    "looped_bfs": "ScheduleLoopedBFS",
    "interleaved_zero_bubble": "ScheduleInterleavedZeroBubble",
    "zbv_zero_bubble": "ScheduleZBVZeroBubble",
    "dualpipev": "ScheduleDualPipeV",
}


def shapes(most_ranks: int = 6, most_chunks: int = 4, most_micro: int = 26):
    """Every (schedule, p, v, m) the study's rules allow."""
    for schedule in SCHEDULES:
        chunks = [1] if schedule in SINGLE else [2] if schedule in V_SHAPED else range(2, most_chunks + 1)
        for p, v, m in itertools.product(range(2, most_ranks + 1), chunks, range(1, most_micro + 1)):
            if micro_batch_rule(schedule, p, v, m) is None:
                yield schedule, p, v, m


def torchs_order(schedule: str, p: int, v: int, m: int) -> list[list[Action]]:
    """What torch's class makes of the same shape, without its process group: only the order is asked for."""
    made = object.__new__(getattr(torch_schedules, TORCH[schedule]))
    made._n_microbatches, made.pp_group_size, made.n_local_stages = m, p, v
    made._num_stages = made.num_stages = p * v
    made._stages = [SimpleNamespace()] * v
    made.number_of_rounds = max(1, m // p)
    made.microbatches_per_round = m // made.number_of_rounds
    if schedule in SINGLE:
        by_rank = made._get_pipeline_order()
    else:
        by_rank = {rank: made._calculate_single_rank_operations(rank) for rank in range(p)}
    order = [[passed for action in by_rank[rank] for passed in flat(action)] for rank in range(p)]
    if schedule == "1f1b":
        # What torch prints of the last rank counts its forwards from 1; what it runs counts from 0.
        order[-1] = [(kind, stage, i - (kind == "F")) for kind, stage, i in order[-1]]
    return order


def flat(action) -> list[Action]:
    """One of torch's actions in our words; idle slots, and steps that reduce gradients, are no passes."""
    if action is None:
        return []
    if action.sub_actions:
        return [inner for part in action.sub_actions for inner in flat(part)]
    kind = action.computation_type.value
    return [(kind, action.stage_index, action.microbatch_index)] if kind in tuple("FBIW") else []


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_order_is_torchs(schedule):
    compared = 0
    for name, p, v, m in shapes():
        if name == schedule:
            assert SCHEDULES[name](p, v, m) == torchs_order(name, p, v, m), (p, v, m)
            compared += 1
    assert compared >= 50


def test_every_stage_runs_every_pass_once_in_an_order_that_can_work():
    for schedule, p, v, m in shapes(4, 3, 9):
        held = layout(schedule, p, v).stages
        for rank, actions in enumerate(SCHEDULES[schedule](p, v, m)):
            place = {action: i for i, action in enumerate(actions)}
            assert len(place) == len(actions)
            for stage, i in itertools.product(held[rank], range(m)):
                forward, whole = place.pop(("F", stage, i)), place.pop(("B", stage, i), None)
                if whole is None:
                    assert forward < place.pop(("I", stage, i)) < place.pop(("W", stage, i))
                else:
                    assert forward < whole
            assert not place, (schedule, p, v, m, rank)


def layout(schedule: str, p: int, v: int) -> Layout:
    return Layout(pp=p, schedule=schedule, stages_per_rank=v, micro_batch_size=1, accumulation_steps=1)


def most_held(actions: list[Action]) -> int:
    held = most = 0
    for kind, _, _ in actions:
        held += {"F": 1, "B": -1, "W": -1, "I": 0}[kind]
        most = max(most, held)
    return most


def test_in_flight_is_what_the_order_holds():
    for schedule, p, v, m in shapes():
        for rank, actions in enumerate(SCHEDULES[schedule](p, v, m)):
            most, held = in_flight(schedule, p, v, m, rank), most_held(actions)
            full = schedule not in V_SHAPED or m >= 2 * p + 1
            assert (most == held) if full else (most >= held), (schedule, p, v, m, rank)


def test_the_docstrings_picture_is_the_schedule():
    picture = [told(actions) for actions in SCHEDULES["1f1b"](2, 1, 3)]
    assert picture == [
        "F0.0 F0.1 B0.0 F0.2 B0.1 B0.2",
        "F1.0 B1.0 F1.1 B1.1 F1.2 B1.2",
    ]


def test_a_study_can_name_exactly_these():
    assert set(SCHEDULES) == {*SINGLE, *LOOPED, *V_SHAPED}
