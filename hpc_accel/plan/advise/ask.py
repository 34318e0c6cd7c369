"""From what the command line says to the question, and its answer."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast, get_args

from hpc_accel.errors import ConfigError, UsageError
from hpc_accel.jobs.site import Site, load_site
from hpc_accel.plan.advise.budget import Bought, bought
from hpc_accel.plan.advise.catalogue import Device, catalogue
from hpc_accel.plan.advise.choose import Advice, advise
from hpc_accel.plan.advise.models import Model, model_of, model_of_study
from hpc_accel.plan.advise.options import Impossible, options_of
from hpc_accel.plan.advise.question import Limits, Place, Question, place_of, weights_of
from hpc_accel.plan.advise.queue import Account, Wait, accounts, start_wait
from hpc_accel.study.recipe import Precision

GLOBAL_BATCH = 1024
SEQUENCE, BATCH_TOKENS = 2048, 2**21
"""Of a model that a budget sizes: positions, and tokens of a step."""


def places_asked(
    on: Sequence[str],
    site: str,
    max_nodes: int,
    prices: dict[str, float],
    memory_gb: float | None,
    usual: Sequence[str],
) -> tuple[Place, ...]:
    """Where it could be trained. Raises ConfigError."""
    if site:
        here = load_site(site)
        return _partitions(here, _said(here, on), max_nodes, prices)
    names = list(on) or _with_memory(memory_gb) or list(usual)
    unknown = [name for name in prices if name not in names]
    if unknown:
        raise ConfigError(
            f"--price of {', '.join(unknown)}", f"prices are of what is asked about: {', '.join(names)}", "add --on"
        )
    names = list(dict.fromkeys(names))
    places = [place_of(name, max_nodes=max_nodes, price=prices.get(name)) for name in names]
    several = Counter(place.name for place in places)
    return tuple(
        place if several[place.name] == 1 else replace(place, name=f"{place.name} ({name})")
        for name, place in zip(names, places, strict=True)
    )


def currency_of(site: str, asked: str) -> str:
    """Of the prices. Raises ConfigError where the site's are in another than is asked for."""
    if not site:
        return asked or "EUR"
    own = load_site(site).currency
    if asked and asked != own:
        raise ConfigError(f"--currency {asked}", f"the prices of site {site} are in {own}", "leave --currency out")
    return own


def unclear_partitions(site: str, on: Sequence[str]) -> list[Impossible]:
    """A site's partitions with GPUs of which the catalogue cannot tell which they are."""
    here = load_site(site) if site else None
    if here is None:
        return []
    said = _said(here, on)
    return [
        Impossible(place=name, num_nodes=None, why=f"gpu_type {each.gpu_type} names no one device: --on {name}=DEVICE")
        for name, each in here.partitions.items()
        if each.gpu_type and name not in said and _device_called(each.gpu_type) is None
    ]


def _said(site: Site, on: Sequence[str]) -> dict[str, str]:
    """The devices of partitions as --on names them. Raises ConfigError."""
    for each in on:
        if each.partition("=")[0] not in site.partitions or "=" not in each:
            raise ConfigError(
                f"--on {each}",
                f"with --site it says what a partition has: PARTITION=DEVICE, of {', '.join(site.partitions)}",
                "leave --site out to ask for devices",
            )
    return dict(each.split("=", 1) for each in on)


def _with_memory(memory_gb: float | None) -> list[str]:
    """Devices that have so much memory and run this project's training."""
    if memory_gb is None:
        return []
    found = [
        each.name
        for each in catalogue().values()
        if each.kind == "gpu" and each.runs_here and each.memory_bytes and each.memory_bytes[0] == memory_gb * 1e9
    ]
    if not found:
        sizes = sorted({each.memory_bytes[0] / 1e9 for each in catalogue().values() if each.memory_bytes})
        raise ConfigError(
            f"--gpu-memory-gb {memory_gb:g}", "the catalogue has " + ", ".join(f"{s:g}" for s in sizes), "name one"
        )
    return found


def _partitions(site: Site, said: dict[str, str], max_nodes: int, prices: dict[str, float]) -> tuple[Place, ...]:
    """A site's partitions whose device is known."""
    places, devices = [], []
    for name, partition in site.partitions.items():
        device = said.get(name) or _device_called(partition.gpu_type or "")
        if device is None:
            continue
        devices.append(device)
        place = place_of(
            device,
            max_nodes=min(max_nodes, partition.num_nodes or max_nodes),
            price=prices.get(device),
            per_node=partition.gpus_per_node or None,
        )
        changed: dict[str, Any] = {
            "name": f"{device} ({name})",
            "partition": name,
            "price_per_node_hour": place.price_per_node_hour or partition.price_per_node_hour,
            "max_hours": partition.max_time_min / 60 if partition.max_time_min else None,
        }
        if partition.power_w_per_node:
            changed |= {"node_power_w": partition.power_w_per_node, "power_source": "the site's power_w_per_node"}
        places.append(replace(place, **changed))
    if unknown := [each for each in prices if each not in devices]:
        raise ConfigError(
            f"--price of {', '.join(unknown)}",
            f"known of site {site.name}: {', '.join(devices) or 'no device'}",
            "see --on",
        )
    if not places:
        unclear = [f"{name}: {each.gpu_type}" for name, each in site.partitions.items() if each.gpu_type]
        raise ConfigError(
            f"site {site.name}: no partition with a known device ({'; '.join(unclear) or 'none has a gpu_type'})",
            "a partition's gpu_type names one device of the catalogue, or --on says which it is",
            "add --on PARTITION=DEVICE (hpc-accel advise --list shows the devices)",
        )
    return tuple(places)


def _device_called(gpu_type: str) -> str | None:
    """The one device that a Slurm type of GPU can mean."""
    wanted = re.sub(r"^(nvidia|amd|intel|tesla|instinct)-", "", gpu_type.lower().replace("_", "-"))
    if wanted in catalogue():
        return wanted
    words = {re.sub(r"^sxm\d$", "sxm", word) for word in wanted.split("-")}
    # The driver calls the H100 of SXM modules "H100 80GB HBM3"; that of cards has HBM2e.
    words = {"sxm" if word == "hbm3" and "h100" in words else word for word in words}
    found = [each.name for each in catalogue().values() if each.name.split("-")[0] in words <= _words_of(each)]
    return found[0] if len(found) == 1 else None


def _words_of(device: Device) -> set[str]:
    """What Slurm's name of it may be made of."""
    memory = {f"{device.memory_bytes[0] / 1e9:g}gb"} if device.memory_bytes else set()
    return {*device.name.split("-"), *device.title.lower().split(), *memory} | (
        {"sxm"} if "sxm" in device.title.lower() else set()
    )


def answer_budget(place: Place, node_hours: float, mfu: float) -> Bought:
    """What node-hours buy there."""
    return bought(place, node_hours, mfu=mfu, sequence=SEQUENCE, batch_tokens=BATCH_TOKENS)


def answer(
    *,
    study: Path | None,
    model: str,
    tokens: float | None,
    samples: float | None,
    places: tuple[Place, ...],
    global_batch: int | None,
    objective: str,
    limits: dict[str, float | None],
    currency: str,
    precision: str,
    progress: Callable[[int, int], object],
    unclear: Sequence[Impossible] = (),
) -> tuple[Advice, Wait | None, list[Account]]:
    """The advice; where a partition is advised, also when Slurm would start it, and its accounts."""
    if (study is None) == (not model):
        raise UsageError("STUDY and --model", "one of them says what is trained", "give one, not both")
    asked = model_of_study(study, global_batch) if study else model_of(model, global_batch or GLOBAL_BATCH)
    if tokens is not None and samples is not None:
        raise UsageError("--tokens and --samples", "one of them says how long is trained", "leave one out")
    question = Question(
        model=asked,
        num_samples=samples or _samples(asked, tokens or 0.0),
        places=places,
        limits=Limits(**limits),
        weights=weights_of(objective),
        currency=currency,
        precision=_precision(precision or asked.precision or "bf16"),
    )
    found, impossible = options_of(question, progress)
    advice = advise(question, found, [*unclear, *impossible])
    if advice.best is None or not advice.best.place.partition:
        return advice, None, []
    best = advice.best
    per_node = best.place.hardware.ranks_per_node
    gpus = per_node if best.place.hardware.slowest.device == "cuda" else 0
    hours = min(best.hours.high, best.place.max_hours or best.hours.high)
    wait = start_wait(
        partition=best.place.partition,
        num_nodes=best.num_nodes,
        ranks_per_node=per_node,
        gpus_per_node=gpus,
        hours=hours,
    )
    return advice, wait, accounts()[0]


def _precision(text: str) -> Precision:
    if text not in get_args(Precision):
        raise UsageError(f"--precision {text}", "one of " + ", ".join(get_args(Precision)), "bf16")
    return cast(Precision, text)


def _samples(model: Model, tokens: float) -> float:
    if model.tokens_per_sample is None:
        raise UsageError(
            f"--tokens for {model.name}", "how many tokens a sample has is not known of it", "give --samples"
        )
    return tokens / model.tokens_per_sample
