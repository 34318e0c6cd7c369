"""Language models and classifiers of Hugging Face transformers, by their configuration; nothing downloaded.

T. Wolf et al., "Transformers: State-of-the-Art Natural Language Processing" (2020). Weights are random unless a local
directory gives them. A byte is its own token, so that no tokenizer is needed; the rest of the vocabulary stays unused.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hpc_accel.errors import ConfigError
from hpc_accel.workloads.builtin.hf_tasks import make_task
from hpc_accel.workloads.builtin.optional_packages import check_installed
from hpc_accel.workloads.deferred import is_building
from hpc_accel.workloads.tensor_plan import Plan
from hpc_accel.workloads.transformers_plan import as_patterns, mark, plan_of
from hpc_accel.workloads.workload import Workload


def build(
    architecture: str = "gpt2",
    config: str | Mapping[str, Any] | None = None,
    weights: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    sequence: int = 128,
    text: str | None = None,
    stride: int | None = None,
    tensor_plan: Plan | None = None,
    task: str = "causal",
    tokenizer: str | None = None,
    folder: str | None = None,
) -> Workload:
    """A model of `architecture` (a model type such as gpt2 or llama) with the defaults of its configuration class.

    `config` is a configuration instead: a mapping, or the path of a config.json or of its directory. `weights` is a
    local directory with configuration and weights. `overrides` replace entries of any of these; dropout is what they
    say. `tensor_plan` replaces the plan that the model has, or that is known of it.

    `task`: "causal" predicts the next token, "masked" those that are masked, "parts" tells from which of `num_labels`
    equal parts of the text a window is, "images" classifies those of `folder` (see vision), or synthetic ones. With
    `tokenizer`, the path of a tokenizer.json, tokens are its own instead of bytes. Raises ConfigError for what is not
    on this machine, for unknown entries, and without the extra.
    """
    check_installed("hf", "llm", "transformers")
    os.environ["HF_HUB_OFFLINE"] = "1"
    resolved = _configuration(architecture, config, weights, dict(overrides or {}), is_causal=task == "causal")
    made = make_task(task, resolved, sequence, text, stride, tokenizer, folder)
    later = weights is not None and is_building()
    model = Logits(_model(resolved, None if later else weights, made.auto_class), made.input_name)
    return Workload(
        model=model,
        loss=made.loss,
        dataset=made.dataset,
        tensor_plan=as_patterns(model, plan_of(model.model, "model")) if tensor_plan is None else tensor_plan,
        metric=made.metric,
        weights=str(_local(weights, "weights")) if later and weights is not None else "",
    )


class Logits(nn.Module):
    """A transformers model that takes tokens [n, sequence] or pixels [n, 3, height, width] and returns logits."""

    def __init__(self, model: Any, input_name: str) -> None:
        super().__init__()
        self.model = model
        self.options = {"use_cache": False} if input_name == "input_ids" else {}
        self.input_name = input_name
        mark(model)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.model(**{self.input_name: inputs}, **self.options).logits


def _configuration(
    architecture: str,
    config: str | Mapping[str, Any] | None,
    weights: str | None,
    overrides: dict[str, Any],
    *,
    is_causal: bool,
) -> Any:
    from transformers import AutoConfig

    try:
        if weights is not None:
            resolved = AutoConfig.from_pretrained(_local(weights, "weights"), local_files_only=True)
        elif isinstance(config, str):
            resolved = AutoConfig.from_pretrained(_local(config, "config"), local_files_only=True)
        else:
            given = dict(config or {})
            resolved = AutoConfig.for_model(given.pop("model_type", architecture), **given)
    except (ValueError, KeyError, OSError) as error:
        raise ConfigError(
            f"workload hf with {weights or config or architecture}: {str(error).splitlines()[0][:200]}",
            "it is a model type of the installed transformers, or a configuration that names one",
            "for example architecture: gpt2, llama, mistral, qwen2, or config: path/to/config.json",
        ) from None
    known = resolved.to_dict()
    for name in overrides:
        is_property = isinstance(getattr(type(resolved), name, None), property)  # num_labels
        if name not in known and name not in resolved.attribute_map and not is_property:
            raise ConfigError(
                f"workload hf with overrides {name}",
                f"overrides are entries of {type(resolved).__name__}",
                f"it has: {', '.join(sorted(known))}",
            )
    if is_causal and "is_decoder" in known:
        resolved.is_decoder = True  # BERT and its kin see the future otherwise
    for name, value in overrides.items():
        setattr(resolved, name, value)
    return resolved


def _model(config: Any, weights: str | None, auto_class: str) -> Any:
    import transformers

    auto = getattr(transformers, auto_class)
    try:
        if weights is not None:
            return auto.from_pretrained(
                _local(weights, "weights"), config=config, local_files_only=True, dtype=torch.float32
            ).train()
        return auto.from_config(config, dtype=torch.float32).train()
    except ValueError as error:
        raise ConfigError(
            f"workload hf with {config.model_type}: {str(error).splitlines()[0][:200]}",
            f"the model is one for which transformers has an {auto_class}",
            "choose another architecture or another task",
        ) from None


def _local(path: str, argument: str) -> Path:
    found = Path(path).expanduser()
    if not found.exists():
        raise ConfigError(
            f"workload hf with {argument} {path}",
            "nothing is downloaded: it is the path of a file or directory that every node can read",
            "download it beforehand (hf download NAME --local-dir DIRECTORY) and name the directory",
        )
    return found
