"""The six questions of docs/advice.md: what follows from a step is what a hand would compute from it."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from hpc_accel.plan.advise.ask import answer, answer_budget, places_asked
from hpc_accel.plan.advise.choose import Advice, score
from hpc_accel.plan.advise.options import Option
from hpc_accel.plan.advise.show import advice_lines, bought_lines

PAGE = (Path(__file__).parents[3] / "docs" / "advice.md").read_text()
USUAL = ("h100-sxm",)


def ask(model: str, tokens: float, on: list[str], *, objective: str = "time", **given) -> Advice:
    prices, max_nodes = given.pop("prices", {}), given.pop("max_nodes", 16)
    places = places_asked(on, "", max_nodes, prices, None, USUAL)
    return answer(
        study=None,
        model=model,
        tokens=tokens,
        samples=None,
        places=places,
        global_batch=given.pop("global_batch", None),
        objective=objective,
        limits=given,
        currency="EUR",
        precision="bf16",
        progress=lambda done, total: None,
    )[0]


def named(advice: Advice, place: str, num_nodes: int) -> Option:
    return next(each for each in advice.options if (each.place.name, each.num_nodes) == (place, num_nodes))


def test_arithmetic_of_the_page():
    lines = re.findall(r"^([-+*/(). \de]+) = (-?[\d.e]+) ", PAGE, re.MULTILINE)
    assert len(lines) > 25
    for expression, result in lines:
        assert eval(expression, {"__builtins__": {}}) == pytest.approx(
            float(result), rel=2e-3 if float(result) > 10 else 1e-2
        ), expression


def test_cost_within_a_deadline():
    advice = ask(
        "llama2-7b",
        300e9,
        ["h100-sxm", "a100-sxm-80gb"],
        objective="cost",
        prices={"h100-sxm": 20.0, "a100-sxm-80gb": 12.0},
        deadline_h=200,
    )
    best, other = advice.best, advice.runner_up
    steps = 300e9 / 4096 / 1024
    assert advice.question.num_steps == pytest.approx(steps)
    # 6 N D, attention aside, at 30 to 70 % of the peak of 64 GPUs.
    least = 6 * 6.74e9 * 1024 * 4096 / (64 * 989.5e12)
    assert (best.place.name, best.num_nodes) == ("h100-sxm", 8)
    assert least / 0.7 < best.step_time_s < least / 0.3
    hours = steps * best.step_time_s / 3600
    assert best.hours.value == pytest.approx(hours)
    assert (best.hours.low, best.hours.high) == pytest.approx((hours / 1.67, hours / 0.33))
    assert best.cost.value == pytest.approx(hours * 8 * 20)
    assert best.energy_kwh.value == pytest.approx(hours * 8 * 0.76 * 10.2)
    assert best.energy_kwh.high == pytest.approx(hours / 0.33 * 8 * 0.76 * 10.2 * 1.37)
    assert other.place.name == "a100-sxm-80gb"
    even = best.cost.value / other.node_hours
    assert any(f"below {even:.4g} EUR a node-hour" in change for change in advice.changes)
    assert any("kept as predicted" in change for change in advice.changes)
    assert all(each.hours.value <= 200 for each in advice.front)
    assert named(advice, "h100-sxm", 1).beyond


def test_fewest_nodes_and_least_energy():
    advice = ask(
        "gpt3-175b", 300e9, ["h100-sxm"], objective="energy", global_batch=1536, max_nodes=128, deadline_h=2000
    )
    fits = 18 * 174.6e9 / 8 / 75.9e9
    assert {each.num_nodes for each in advice.impossible} == {n for n in (1, 2, 4, 8, 16) if n < fits}
    allowed = [each for each in advice.options if each.hours.value <= 2000]
    assert advice.best.energy_kwh.value == min(each.energy_kwh.value for each in allowed)
    assert all(each.peak_memory_bytes <= each.memory_limit_bytes for each in advice.options)


def test_what_node_hours_buy():
    place = places_asked(["h100-sxm"], "", 16, {}, None, USUAL)[0]
    found = answer_budget(place, 500, 0.4)
    flops = 500 * 3600 * 8 * 989.5e12 * 0.4
    assert found.flops == pytest.approx(flops)
    assert found.num_parameters == pytest.approx(math.sqrt(flops / 120))
    assert found.num_tokens == pytest.approx(20 * found.num_parameters)
    assert 6 * found.num_parameters * found.num_tokens == pytest.approx(flops)
    assert found.min_devices == math.ceil(18 * found.num_parameters / (0.45 * 85e9))
    assert found.predicted_parameters == pytest.approx(found.num_parameters * math.sqrt(found.predicted_mfu / 0.4))
    assert 0.2 < found.predicted_mfu < 0.8
    assert found.hours * found.num_nodes == pytest.approx(500)


def test_what_node_hours_buy_on_few_nodes_or_where_nothing_trains():
    """No more nodes than there are, however many the state takes; and a device that does not train here says so."""
    few = places_asked(["h100-sxm"], "", 1, {}, None, USUAL)[0]
    for node_hours in (1e5, 1e9):
        found = answer_budget(few, node_hours, 0.4)
        assert found.num_nodes is None and "of 1 at most" in (found.reason or "")
        assert found.num_parameters > 0
    tpu = answer_budget(places_asked(["tpu-v5p"], "", 1, {}, None, USUAL)[0], 10, 0.4)
    assert "jax" in (tpu.not_run_here or "") and any("note: this project" in line for line in bought_lines(tpu))


def test_a_power_cap_and_node_hours_tell_their_range():
    advice = ask("gpt2-124m", 1e9, ["h100-sxm"], max_nodes=1, power_w=8000, node_hours=1e9)
    best = advice.best
    assert best.power.high == pytest.approx(0.76 * 10200 * 1.37)
    assert any(
        f"power cap of 8000 W is kept as predicted, not at the upper end of the range ({best.power.high:.4g})" in change
        for change in advice.changes
    )
    close = ask("gpt2-124m", 1e9, ["h100-sxm"], max_nodes=1, node_hours=best.node_hours * 1.01)
    assert any("node-hours is kept as predicted" in change for change in close.changes)


def test_what_is_not_known_is_not_compared():
    """Without a price nothing is beaten in cost, and no line names a figure that is known of none."""
    words = "not beaten in time and energy together: "
    assert any(
        line.startswith(words) for line in advice_lines(ask("gpt2-124m", 1e9, ["h100-sxm"], max_nodes=1), None, [])
    )
    mixed = ask("gpt2-124m", 1e9, ["h100-sxm", "a100-sxm-80gb"], max_nodes=1, prices={"h100-sxm": 20.0})
    assert {each.place.name for each in mixed.front} == {"h100-sxm", "a100-sxm-80gb"}
    assert any("whose cost is not known are compared with their like" in line for line in advice_lines(mixed, None, []))


def test_nodes_within_power():
    advice = ask("llama3-8b", 100e9, ["h100-sxm", "mi300x"], power_w=50_000)
    assert advice.best.num_nodes == 4
    for option in advice.options:
        each = 0.76 * (10200 if option.place.name == "h100-sxm" else 8 * 750 / 0.7)
        assert option.power_w == pytest.approx(option.num_nodes * each)
        assert bool(option.beyond) == (option.num_nodes * each > 50_000)
    assert advice.runner_up.place.name != advice.best.place.name
    assert advice.is_tie == (advice.runner_up.hours.low <= advice.best.hours.high)


def test_a_price_that_is_not_known():
    advice = ask(
        "llama2-13b", 200e9, ["h100-sxm", "mi355x"], objective="cost", prices={"h100-sxm": 20.0}, deadline_h=300
    )
    assert advice.best.place.name == "h100-sxm"
    fewest = min(each.node_hours for each in advice.options if each.place.name == "mi355x" and each.hours.value <= 300)
    even = advice.best.cost.value / fewest
    assert any(f"mi355x has no price: it would be first below {even:.4g} EUR" in change for change in advice.changes)
    one = named(advice, "mi355x", 1)
    assert one.cost is None
    assert one.hours.high == pytest.approx(one.hours.value / 0.62), "a data sheet alone"
    assert any("65% of peak" in each for each in one.place.assumed)


def test_two_things_that_count_and_node_hours():
    advice = ask(
        "gpt2-1.5b",
        30e9,
        ["v100", "a100-sxm-40gb", "tpu-v5p"],
        objective="time=1,energy=1",
        global_batch=512,
        max_nodes=8,
        node_hours=200,
    )
    scores = {each.name: each.hours.value * each.energy_kwh.value for each in advice.options if each.energy_kwh}
    kept = [each.name for each in advice.options if not each.beyond and each.energy_kwh]
    assert advice.best.name == min(kept, key=lambda name: scores[name])
    assert score(advice.best, {"time": 1, "energy": 1}) == pytest.approx(scores[advice.best.name])
    assert all(each.node_hours <= 200 for each in advice.front)
    tpu = named(advice, "tpu-v5p", 1)
    assert tpu.energy_kwh is None and "jax" in tpu.place.not_run_here
    assert advice.best.place.name == "a100-sxm-40gb"
