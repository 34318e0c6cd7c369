"""`hpc-accel advise`: which hardware, how many nodes, which layout, how long, kWh and cost; or what a budget buys."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from hpc_accel.errors import UsageError

DEFAULT_PLACES = ("h100-sxm", "a100-sxm-80gb", "mi300x")
FACTORS = {"K": 1e3, "M": 1e6, "B": 1e9, "G": 1e9, "T": 1e12}
AsJson = Annotated[bool, typer.Option("--json", help="Print the answer as JSON, for programs.")]


def amount(text: str, what: str) -> float:
    """A number as people write it: 300B, 1.4T, 1e9. Raises UsageError."""
    factor = FACTORS.get(text[-1:].upper(), 1.0)
    try:
        value = float(text[:-1] if factor > 1 else text) * factor
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise UsageError(
            f"{what} {text}", "a positive number, K, M, B or T behind it where wanted", "write 300B or 3e11"
        )
    return value


def advise(
    study: Annotated[
        Path | None, typer.Argument(metavar="[STUDY]", help="Ask for this study's first workload.")
    ] = None,
    model: Annotated[
        str, typer.Option(help="Or for a model by name (llama2-7b) or sizes (layers=...,hidden=...).")
    ] = "",
    tokens: Annotated[str, typer.Option(help="How long it is trained, e.g. 300B.")] = "",
    samples: Annotated[str, typer.Option(help="The same in samples.")] = "",
    on: Annotated[
        list[str] | None,
        typer.Option(help="A device of the catalogue, a hardware.json, or PARTITION=DEVICE with --site; repeat it."),
    ] = None,
    site: Annotated[str, typer.Option(help="Ask for this site's partitions, with its prices and power.")] = "",
    max_nodes: Annotated[int, typer.Option(min=1, help="Most nodes of each.")] = 16,
    global_batch: Annotated[
        int, typer.Option(min=0, help="Samples of a step; by default the workload's, or 1024.")
    ] = 0,
    objective: Annotated[str, typer.Option(help="time, energy, cost, or weights: time=1,cost=2.")] = "time",
    deadline_h: Annotated[float | None, typer.Option(help="Hours it may take.")] = None,
    budget: Annotated[float | None, typer.Option(help="What it may cost.")] = None,
    power_kw: Annotated[float | None, typer.Option(help="What all nodes together may draw.")] = None,
    node_hours: Annotated[
        float | None, typer.Option(help="With a length: what it may use. Without: say what they buy.")
    ] = None,
    gpu_memory_gb: Annotated[float | None, typer.Option(help="Of the catalogue, devices with so much memory.")] = None,
    price: Annotated[list[str] | None, typer.Option(help="DEVICE=PRICE of a node-hour; repeat it.")] = None,
    currency: Annotated[str, typer.Option(help="Of the prices; by default the site's, or EUR.")] = "",
    precision: Annotated[str, typer.Option(help="fp32, tf32, bf16 or fp16; else the study's, or bf16.")] = "",
    mfu: Annotated[float, typer.Option(min=0.01, max=1, help="Backwards: assumed share of peak.")] = 0.4,
    list_devices: Annotated[bool, typer.Option("--list", help="Show the catalogue, and no advice.")] = False,
    as_json: AsJson = False,
) -> None:
    """Advise on hardware, nodes and layout for a training of given length, with hours, kWh, cost and their ranges."""
    from hpc_accel.plan.advise import show
    from hpc_accel.plan.advise.catalogue import catalogue

    if list_devices:
        devices = list(catalogue().values())
        _print([each.model_dump(mode="json") for each in devices] if as_json else show.device_lines(devices), as_json)
        return
    prices = _prices(price or [])
    from hpc_accel.plan.advise.ask import answer, answer_budget, currency_of, places_asked, unclear_partitions

    limits = _limits(deadline_h=deadline_h, budget=budget, power_kw=power_kw, node_hours=node_hours)
    currency = currency_of(site, currency)
    places = places_asked(on or [], site, max_nodes, prices, gpu_memory_gb, DEFAULT_PLACES)
    if not tokens and not samples:
        if node_hours is None:
            raise UsageError(
                "neither --tokens nor --samples nor --node-hours",
                "a length is asked about, or what node-hours buy",
                "add --tokens 300B, or --node-hours 500",
            )
        unread = {"STUDY": study, "--model": model, "--deadline-h": deadline_h, "--budget": budget}
        _refuse_unread(unread | {"--power-kw": power_kw, "--global-batch": global_batch})
        found = [answer_budget(place, node_hours, mfu) for place in places]
        content = [asdict(each) | {"layout": each.layout.label if each.layout else None} for each in found]
        _print(content if as_json else [line for each in found for line in show.bought_lines(each)], as_json)
        return
    advice, wait, known = answer(
        study=study,
        model=model,
        tokens=amount(tokens, "--tokens") if tokens else None,
        samples=amount(samples, "--samples") if samples else None,
        places=places,
        global_batch=global_batch or None,
        objective=objective,
        limits=limits,
        currency=currency,
        precision=precision,
        progress=_progress,
        unclear=unclear_partitions(site, on or []),
    )
    _print(show.advice_json(advice, wait, known) if as_json else show.advice_lines(advice, wait, known), as_json)
    if advice.best is None:
        raise typer.Exit(1)


def _limits(*, power_kw: float | None, **given: float | None) -> dict[str, float | None]:
    """As `Limits` has them. Raises UsageError for what is no positive number."""
    for name, value in (given | {"power_kw": power_kw}).items():
        if value is not None and not 0 < value < float("inf"):
            raise UsageError(f"--{name.replace('_', '-')} {value:g}", "a limit is a positive number", "leave it out")
    return given | {"power_w": power_kw * 1000 if power_kw is not None else None}


def _refuse_unread(options: Mapping[str, object]) -> None:
    """Without a length what node-hours buy is any model of the right size: nothing else is read."""
    given = [name for name, value in options.items() if value]
    if given:
        raise UsageError(
            f"--node-hours without a length, with {', '.join(given)}",
            "what node-hours buy is told of a model that they size",
            "add --tokens or --samples, or leave those out",
        )


def _prices(given: list[str]) -> dict[str, float]:
    return {name: amount(value, f"--price {name}") for name, _, value in (each.partition("=") for each in given)}


def _print(content: Any, as_json: bool) -> None:
    typer.echo(json.dumps(content, indent=1) if as_json else "\n".join(content))


def _progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{done} of {total} options predicted")
        sys.stderr.flush()
