"""What `from_pretrained` needs beside a model's weights, noted before a layout changes the model's classes."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """A model of transformers inside of a workload's: what stands before its names, and its configurations."""

    prefix: str
    config: Any
    generation_config: Any

    def write(self, directory: Path) -> None:
        """config.json and, of a model that generates, generation_config.json. Raises OSError."""
        self.config.save_pretrained(directory)
        if self.generation_config is not None:
            self.generation_config.save_pretrained(directory)


def pretrained_in(model: nn.Module) -> Pretrained | None:
    """The model of transformers that all parameters of `model` belong to; None where there is none."""
    parameters = {id(each) for each in model.parameters()}
    for name, module in model.named_modules():
        if not any(kind.__name__ == "PreTrainedModel" for kind in type(module).__mro__):
            continue
        if {id(each) for each in module.parameters()} == parameters:
            config = copy.deepcopy(module.config)
            config.architectures = [type(module).__name__]
            generation = copy.deepcopy(getattr(module, "generation_config", None))
            return Pretrained(prefix=f"{name}." if name else "", config=config, generation_config=generation)
    return None
