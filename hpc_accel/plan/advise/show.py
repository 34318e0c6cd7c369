"""The answer as lines for people, and as JSON for programs."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from hpc_accel.plan.advise.budget import Bought
from hpc_accel.plan.advise.catalogue import Device
from hpc_accel.plan.advise.choose import Advice, figures_of, is_allowed
from hpc_accel.plan.advise.options import Option
from hpc_accel.plan.advise.queue import Account, Wait
from hpc_accel.plan.advise.uncertainty import Range

MAX_SHOWN = 12


def option_json(option: Option) -> dict[str, Any]:
    """One option."""
    return {
        "place": option.place.name,
        "partition": option.place.partition,
        "num_nodes": option.num_nodes,
        "layout": option.layout.model_dump(mode="json"),
        "label": option.label,
        "recipe": option.recipe.model_dump(mode="json", include={"precision", "recompute"}),
        "step_time_ms": option.step_time_s * 1e3,
        "hours": asdict(option.hours),
        "node_hours": option.node_hours,
        "mfu": option.mfu,
        "power_w": asdict(option.power) if option.power else None,
        "energy_kwh": asdict(option.energy_kwh) if option.energy_kwh else None,
        "energy_reason": None if option.energy_kwh else option.place.power_reason,
        "energy_source": option.place.power_source or None,
        "cost": asdict(option.cost) if option.cost else None,
        "cost_reason": None if option.cost else "no price was given",
        "peak_memory_bytes": option.peak_memory_bytes,
        "memory_limit_bytes": option.memory_limit_bytes,
        "measured_device": option.place.measured,
        "assumed": list(option.place.assumed),
        "beyond": list(option.beyond),
        "not_run_here": option.place.not_run_here or None,
    }


def advice_json(advice: Advice, wait: Wait | None, known: list[Account]) -> dict[str, Any]:
    """The whole answer."""
    question = advice.question
    return {
        "model": question.model.name,
        "num_parameters": question.model.num_parameters,
        "num_samples": question.num_samples,
        "num_steps": question.num_steps,
        "weights": question.weights,
        "limits": asdict(question.limits),
        "currency": question.currency,
        "best": option_json(advice.best) if advice.best else None,
        "runner_up": option_json(advice.runner_up) if advice.runner_up else None,
        "is_tie": advice.is_tie,
        "changes": list(advice.changes),
        "front": [option_json(each) for each in advice.front],
        "options": [option_json(each) for each in advice.options],
        "impossible": [asdict(each) for each in advice.impossible],
        "queue_wait": asdict(wait) if wait else None,
        "accounts": [asdict(each) | {"left_hours": each.left_hours} for each in known],
    }


def advice_lines(advice: Advice, wait: Wait | None, known: list[Account]) -> list[str]:
    """For people: the answer, the runner-up, what would change it, then the others."""
    question = advice.question
    model = question.model
    lines = [f"{model.name}: {model.num_parameters / 1e9:.3g} billion parameters, {question.num_steps:.4g} steps"]
    if advice.best is None:
        return [*lines, "nothing fits:", *_others(advice)]
    lines += ["", "best for " + ", ".join(f"{k}^{v:g}" if v != 1 else k for k, v in question.weights.items()) + ":"]
    lines += _told(advice.best, question.currency)
    lines += _wait_lines(wait, known)
    if advice.runner_up:
        lines += ["", "runner-up:" if not advice.is_tie else "runner-up (the planner cannot tell the two apart):"]
        lines += _told(advice.runner_up, question.currency)
    lines += ["", "what would change the answer:", *(f"  {change}" for change in advice.changes)]
    lines += ["", _front_line(advice), ""]
    lines += ["all, the best first:", *_others(advice)]
    return lines


def _front_line(advice: Advice) -> str:
    """Names what was compared: a figure that is known of no option was not."""
    known = [figures_of(each) for each in advice.options if is_allowed(each)]
    compared = [what for what in ("time", "energy", "cost") if any(what in each for each in known)]
    together = " and ".join(filter(None, (", ".join(compared[:-1]), compared[-1])))
    partly = [what for what in compared if not all(what in each for each in known)]
    less = f" (those whose {' or '.join(partly)} is not known are compared with their like alone)" if partly else ""
    front = ", ".join(each.name for each in advice.front)
    return f"not beaten in {together}{' together' if len(compared) > 1 else ''}{less}: {front}"


def _told(option: Option, currency: str) -> list[str]:
    place = option.place
    basis = "rates measured by others or by a probe" if place.measured else "its data sheet alone"
    mfu = f", {option.mfu:.0%} of peak" if option.mfu else ""
    source = f" ({place.power_source})" if option.energy_kwh else ""
    lines = [
        f"  {option.name}: {option.label}",
        f"  time    {_range(option.hours, 'h')}; a step takes {option.step_time_s:.4g} s{mfu}; "
        f"{option.node_hours:.4g} node-hours, {place.hardware.ranks_per_node} device(s) a node",
        f"  energy  {_range(option.energy_kwh, 'kWh', place.power_reason)}{source}",
        f"  power   {_range(option.power, 'W', place.power_reason)}, of all nodes on average",
        f"  cost    {_range(option.cost, currency, 'no price was given')}",
        f"  memory  {option.peak_memory_bytes / 1e9:.1f} GB of {(option.memory_limit_bytes or 0) / 1e9:.1f} GB a rank",
        f"  from    {basis}" + ("; assumed: " + "; ".join(place.assumed) if place.assumed else ""),
    ]
    if place.max_hours and option.hours.value > place.max_hours:
        jobs = math.ceil(option.hours.value / place.max_hours)
        lines.append(
            f"  jobs    {jobs} after one another, of {place.max_hours:g} h at most (hpc-accel produce chains them)"
        )
    return lines + ([f"  note    {place.not_run_here}"] if place.not_run_here else [])


def _range(figure: Range | None, unit: str, reason: str = "") -> str:
    if figure is None:
        return f"not known: {reason}"
    return f"{figure.value:.4g} {unit} ({figure.low:.3g} to {figure.high:.3g})"


def _wait_lines(wait: Wait | None, known: list[Account]) -> list[str]:
    lines = []
    if wait is not None:
        lines.append(
            f"  queue   {f'starts in {wait.hours:.3g} h' if wait.hours is not None else f'not known: {wait.reason}'}"
        )
    for each in known:
        left = f"{each.left_hours:.4g} billing-hours left" if each.left_hours is not None else "no limit of billing"
        share = f"{each.fair_share:.3g}" if each.fair_share is not None else "not told"
        lines.append(f"  account {each.name}: fair-share {share}, {left}")
    return lines


def _others(advice: Advice) -> list[str]:
    lines = []
    for each in advice.options[:MAX_SHOWN]:
        cost = f"{each.cost.value:10.4g} {advice.question.currency}" if each.cost else f"{'no price':>14}"
        energy = f"{each.energy_kwh.value:9.4g} kWh" if each.energy_kwh else f"{'no power':>13}"
        why = (
            "" if is_allowed(each) else "  left out: " + "; ".join([*each.beyond, each.place.not_run_here]).strip("; ")
        )
        lines.append(f"  {each.name:28} {each.hours.value:9.4g} h {energy} {cost}  {each.layout.label}{why}")
    if len(advice.options) > MAX_SHOWN:
        lines.append(f"  and {len(advice.options) - MAX_SHOWN} more: --json has all")
    for refused in advice.impossible[:MAX_SHOWN]:
        count = "any number" if refused.num_nodes is None else refused.num_nodes
        lines.append(f"  {count} of {refused.place}: cannot: {refused.why}")
    return lines


def bought_lines(found: Bought) -> list[str]:
    """What a budget buys at one place."""
    lines = [
        f"{found.place}: {found.node_hours:g} node-hours, {found.devices_per_node} device(s) a node, "
        f"are {found.flops:.3g} FLOPs at {found.mfu:.0%} of peak (assumed)",
        f"  {found.num_parameters / 1e9:.3g} billion parameters, 20 tokens each: {found.num_tokens / 1e9:.4g} billion",
        f"  its state alone takes {found.min_devices} device(s)",
        *([f"  note: {found.not_run_here}"] if found.not_run_here else []),
    ]
    if found.reason is not None or found.shape is None or found.layout is None:
        return [*lines, f"  not predicted: {found.reason}"]
    shape = found.shape
    return [
        *lines,
        f"  as {shape.layers} layers of {shape.hidden}, the planner predicts {found.predicted_mfu:.0%} of peak on "
        f"{found.num_nodes} node(s) ({found.layout.label}): {(found.predicted_parameters or 0) / 1e9:.3g} billion "
        f"parameters on {(found.predicted_tokens or 0) / 1e9:.4g} billion tokens in {found.hours:.4g} h",
    ]


def device_lines(devices: list[Device]) -> list[str]:
    """The catalogue as a table."""
    lines = [f"{'name':18}{'bf16 TFLOP/s':>13}{'GB':>6}{'GB/s':>7}{'link GB/s':>11}{'W':>6}  runs"]
    for each in devices:
        half = each.peak_flops_per_s.get("bf16") or each.peak_flops_per_s.get("fp16")
        cells = (half, each.memory_bytes, each.memory_bandwidth_bytes_per_s, each.link_bytes_per_s, each.board_power_w)
        scaled = [f"{c[0] / s:.4g}" if c else "" for c, s in zip(cells, (1e12, 1e9, 1e9, 1e9, 1), strict=True)]
        row = f"{each.name:18}{scaled[0]:>13}{scaled[1]:>6}{scaled[2]:>7}{scaled[3]:>11}{scaled[4]:>6}"
        lines.append(f"{row}  {', '.join(each.frameworks)}")
    return lines
