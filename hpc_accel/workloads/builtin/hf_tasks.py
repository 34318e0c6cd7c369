"""What a model of transformers is trained for: data, loss and metric of each task, and transformers' class for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset, Subset

from hpc_accel.errors import ConfigError
from hpc_accel.workloads.builtin.images import SyntheticImages, folder_images
from hpc_accel.workloads.builtin.metrics import accuracy, majority_share
from hpc_accel.workloads.builtin.text import NUM_BYTE_VALUES, TextWindows, next_byte_loss, read_text, windows
from hpc_accel.workloads.workload import Metric

IGNORED = -100
"""Targets that do not count, as in transformers."""
MASKED_SHARE = 0.15
"""Devlin et al., "BERT" (2019): of each sample's tokens, those to be guessed."""
HELD_OUT_EVERY = 10


@dataclass(frozen=True, kw_only=True)
class Task:
    """transformers' class for it, the name of the model's input, and what it is trained on."""

    auto_class: str
    input_name: str
    loss: Callable[[Any, Any], torch.Tensor]
    dataset: Dataset[Any]
    metric: Metric


def make_task(
    task: str,
    config: Any,
    sequence: int,
    text: str | None,
    stride: int | None,
    tokenizer: str | None,
    folder: str | None,
) -> Task:
    """Data for the `task` of a model with `config`. Raises ConfigError where they do not fit."""
    if task not in TASKS:
        raise ConfigError(f"workload hf with task {task!r}", f"tasks are {', '.join(TASKS)}", "name one of them")
    if task == "images":
        return _images(config, folder)
    tokens = _tokens(text, tokenizer)
    vocabulary = getattr(config, "vocab_size", None) or 0  # none where there is no text
    needed = max(int(tokens.max()) + 1, 0 if tokenizer else NUM_BYTE_VALUES) + (task == "masked")
    if vocabulary < needed:
        raise ConfigError(
            f"workload hf with vocab_size {vocabulary}",
            f"{needed} tokens are needed: those of the text, and one for what is masked"
            if task == "masked"
            else f"each of {needed} {'tokens of the text' if tokenizer else 'byte values'} is a token",
            f"set overrides: {{vocab_size: {needed}}} or more",
        )
    if task == "causal":
        dataset, metric = windows("hf", tokens, sequence, stride, vocabulary, "token" if tokenizer else "byte")
        return Task(
            auto_class="AutoModelForCausalLM",
            input_name="input_ids",
            loss=next_byte_loss,
            dataset=dataset,
            metric=metric,
        )
    return _masked(tokens, sequence, stride, vocabulary) if task == "masked" else _parts(tokens, sequence, config)


def _tokens(text: str | None, tokenizer: str | None) -> torch.Tensor:
    data = read_text("hf", text)
    if tokenizer is None:
        return torch.frombuffer(bytearray(data), dtype=torch.uint8)
    from tokenizers import Tokenizer

    try:
        found = Tokenizer.from_file(str(Path(tokenizer).expanduser()))
    except Exception as error:
        raise ConfigError(
            f"workload hf with tokenizer {tokenizer}: {str(error)[:200]}",
            "it is the path of a tokenizer.json that every node can read",
            "download it beforehand, or leave it out: then every byte is a token",
        ) from None
    return torch.tensor(found.encode(data.decode(errors="replace")).ids, dtype=torch.int32)


class MaskedWindows(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Windows of which the same number of tokens is masked in each, drawn from the window's number."""

    def __init__(self, of: TextWindows, mask: int) -> None:
        self.of, self.mask = of, mask
        self.num_masked = max(1, round(MASKED_SHARE * of.sequence))

    def __len__(self) -> int:
        return len(self.of)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        tokens, _ = self.of[index]
        generator = torch.Generator().manual_seed(index)
        chosen = torch.randperm(len(tokens), generator=generator)[: self.num_masked]
        targets = torch.full_like(tokens, IGNORED)
        targets[chosen] = tokens[chosen]
        return tokens.index_fill(0, chosen, self.mask), targets


def _masked(tokens: torch.Tensor, sequence: int, stride: int | None, vocabulary: int) -> Task:
    train, metric = windows("hf", tokens, sequence, stride, vocabulary)
    held_out: Any = metric.dataset
    mask = vocabulary - 1
    return Task(
        auto_class="AutoModelForMaskedLM",
        input_name="input_ids",
        loss=_guess_loss,
        dataset=MaskedWindows(train, mask),
        metric=Metric(
            name="masked_accuracy",
            compute=_masked_accuracy,
            higher_is_better=True,
            dataset=MaskedWindows(held_out, mask),
        ),
    )


def _guess_loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten(), ignore_index=IGNORED)


def _masked_accuracy(outputs: torch.Tensor, targets: torch.Tensor) -> float:
    counts = targets != IGNORED
    return float((outputs.argmax(-1)[counts] == targets[counts]).float().mean())


class PartsOfText(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Windows side by side, and from which of so many equal parts of the text each one is."""

    def __init__(self, tokens: torch.Tensor, sequence: int, classes: int) -> None:
        self.of, self.classes = TextWindows(tokens, sequence, sequence), classes

    def __len__(self) -> int:
        return len(self.of)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.of[index][0], torch.tensor(index * self.classes // len(self.of))


def _parts(tokens: torch.Tensor, sequence: int, config: Any) -> Task:
    whole = PartsOfText(tokens, sequence, config.num_labels)
    if len(whole) < HELD_OUT_EVERY:
        raise ConfigError(
            f"workload hf with {len(whole)} windows of text",
            f"one of {HELD_OUT_EVERY} is held out",
            "take a shorter sequence or a longer text",
        )
    kept = [index for index in range(len(whole)) if index % HELD_OUT_EVERY]
    return Task(
        auto_class="AutoModelForSequenceClassification",
        input_name="input_ids",
        loss=nn.functional.cross_entropy,
        dataset=Subset(whole, kept),
        metric=_accuracy(Subset(whole, range(0, len(whole), HELD_OUT_EVERY))),
    )


def _images(config: Any, folder: str | None) -> Task:
    size, classes = config.image_size, config.num_labels
    dataset: Dataset[Any]
    if folder is None:
        dataset, held_out = SyntheticImages(size, classes, 0, 512), SyntheticImages(size, classes, 512, 128)
    else:
        dataset, held_out, names = folder_images(folder, size)  # type: ignore[assignment]
        if len(names) != classes:
            raise ConfigError(
                f"workload hf with {len(names)} classes in {folder} and num_labels {classes}",
                "the model has one output for each class",
                f"set overrides: {{num_labels: {len(names)}}}",
            )
    return Task(
        auto_class="AutoModelForImageClassification",
        input_name="pixel_values",
        loss=nn.functional.cross_entropy,
        dataset=dataset,
        metric=_accuracy(held_out),
    )


def _accuracy(held_out: Dataset[Any]) -> Metric:
    return Metric(
        name="accuracy",
        compute=accuracy,
        higher_is_better=True,
        dataset=held_out,
        also={"majority_share": majority_share},
    )


TASKS = ("causal", "masked", "parts", "images")
