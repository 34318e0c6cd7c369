"""The catalogue of devices: figures of data sheets, each with its source. What no source says is None."""

from __future__ import annotations

import difflib
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from hpc_accel.errors import ConfigError
from hpc_accel.study.base import StrictModel
from hpc_accel.study.yaml import read_yaml, validated

PATH = Path(__file__).parent / "catalogue.yaml"
USUAL_GPUS = 4
"""In a node, where no source says: an assumption, which the answer states."""
Figure = tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], str]
"""A value and the key of its source."""
Dtype = Literal["fp64", "fp32", "tf32", "bf16", "fp16", "fp8", "int8"]


class Adapters(StrictModel):
    """Of a node, to other nodes: how many, and bytes/s of each in one direction."""

    count: Figure
    bytes_per_s: Figure


class Device(StrictModel):
    """One device: an accelerator, a die that a program sees as one, or a socket. Rates are dense, in FLOP/s."""

    name: str
    title: str
    kind: Literal["gpu", "tpu", "cpu", "other"]
    planned_as: str | None = None
    """The package's hardware file of it, which has measured figures."""
    frameworks: tuple[str, ...]
    sources: dict[str, str]
    peak_flops_per_s: dict[Dtype, Figure] = {}
    memory_bytes: Figure | None = None
    memory_bandwidth_bytes_per_s: Figure | None = None
    link_bytes_per_s: Figure | None = None
    """To its neighbours in a node, one direction, all links together."""
    has_inline_ecc: bool = False
    """Whether the memory itself holds its error correction, as GDDR's does, and HBM's does not."""
    board_power_w: Figure | None = None
    board_has_cpu: bool = False
    """Whether that is the power of a module which holds the host's processor too."""
    cores: Figure | None = None
    per_node: Figure | None = None
    """Devices of a usual node."""
    node_power_w: Figure | None = None
    """What the vendor rates such a node at."""
    adapters: Adapters | None = None

    @property
    def figures(self) -> dict[str, Figure]:
        """All figures by name; those that are unknown are left out."""
        plain = ("memory_bytes", "memory_bandwidth_bytes_per_s", "link_bytes_per_s", "board_power_w", "cores")
        found = {f"peak {dtype}": figure for dtype, figure in self.peak_flops_per_s.items()}
        for name in (*plain, "per_node", "node_power_w"):
            if (figure := getattr(self, name)) is not None:
                found[name] = figure
        if self.adapters is not None:
            found |= {"adapters": self.adapters.count, "adapter_bytes_per_s": self.adapters.bytes_per_s}
        return found

    @property
    def devices_per_node(self) -> int:
        """Of a usual node; where nobody says, `USUAL_GPUS`, and one of anything else."""
        if self.per_node:
            return int(self.per_node[0])
        return USUAL_GPUS if self.kind == "gpu" else 1

    @property
    def runs_here(self) -> bool:
        """Whether this project's training runs on it: torch on a CPU, or on a GPU that torch calls cuda."""
        return any(word in self.frameworks for word in ("torch (cpu)", "torch (cuda)", "torch (rocm)"))

    @model_validator(mode="after")
    def _sourced(self) -> Device:
        for name, (_, source) in self.figures.items():
            if source not in self.sources:
                raise ValueError(f"{self.name}: {name} names the source {source!r}, which `sources` has not")
        return self


class Catalogue(StrictModel):
    """catalogue.yaml."""

    format: Literal[1]
    devices: tuple[Device, ...]


@lru_cache(maxsize=1)
def catalogue() -> dict[str, Device]:
    """All devices by name."""
    content, lines = read_yaml(PATH)
    return {device.name: device for device in validated(Catalogue, content, PATH, lines).devices}


def device_of(name: str) -> Device:
    """The device of that name. Raises ConfigError."""
    known = catalogue()
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.4)
    raise ConfigError(
        f"hardware {name!r}",
        "the catalogue has: " + ", ".join(known),
        f"did you mean {near[0]}?" if near else "name one of those, or a hardware.json that was probed",
    )
