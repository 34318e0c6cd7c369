"""Bytes of text as training data: windows of a file, or of the language reference that Python carries for `help()`."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Dataset

from hpc_accel.errors import ConfigError
from hpc_accel.workloads.workload import Metric

NUM_BYTE_VALUES = 256
HELD_OUT_SHARE = 0.1
MAX_HELD_OUT_LOGITS = 2**24
"""Logits of the whole held-out set are kept at once: 64 MB in fp32."""


def read_text(workload: str, text: str | None) -> bytes:
    """The file at `text`, or Python's language reference. Raises ConfigError when there is none."""
    if text is None:
        return python_reference(workload)
    try:
        return Path(text).expanduser().read_bytes()
    except OSError as error:
        raise ConfigError(
            f"workload {workload} with text {text}: {error.strerror or error}",
            "text is the path of a file that every node can read, trained on byte by byte",
            "check the path, relative to where the study is started, or leave text out",
        ) from None


def python_reference(workload: str) -> bytes:
    """Python's language reference as plain text, in the order of its topics, each paragraph once.

    Many topics repeat whole sections of others, and what is held out must not have been trained on.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise ConfigError(
            f"workload {workload} without Python's pydoc_data",
            "the text is Python's own language reference, part of the standard library",
            "install the full standard library (Debian: libpython3-stdlib), or name a file of yours as text",
        ) from None
    paragraphs = (part for name in sorted(topics) for part in topics[name].split("\n\n"))
    return "\n\n".join(dict.fromkeys(paragraphs)).encode()


class TextWindows(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Windows of `sequence` tokens, one every `stride`, each with the same window one token later as its target.

    `text` is bytes, or tokens [n] of any integer type.
    """

    def __init__(self, text: bytes | torch.Tensor, sequence: int, stride: int) -> None:
        self.data = torch.frombuffer(bytearray(text), dtype=torch.uint8) if isinstance(text, bytes) else text
        self.sequence = sequence
        self.stride = stride

    def __len__(self) -> int:
        return max(0, (len(self.data) - 1 - self.sequence) // self.stride + 1)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        start = index * self.stride
        window = self.data[start : start + self.sequence + 1].long()
        return window[:-1], window[1:]


def windows(
    workload: str,
    text: bytes | torch.Tensor,
    sequence: int,
    stride: int | None,
    vocabulary: int,
    unit: str = "byte",
) -> tuple[TextWindows, Metric]:
    """Windows of the text to train on, and the metric on windows of its last tenth, which share nothing with them.

    Windows lie side by side unless `stride` says otherwise. Raises ConfigError for a text too short to do both.
    """
    if sequence < 1 or (stride is not None and stride < 1):
        raise ConfigError(
            f"workload {workload} with sequence {sequence}, stride {stride}",
            "a window has at least one byte, and the next begins at least one byte later",
            "set both to 1 or more",
        )
    cut = len(text) - max(int(HELD_OUT_SHARE * len(text)), sequence + 1)
    if cut < sequence + 1:
        raise ConfigError(
            f"workload {workload} with {len(text)} {unit}s of text and sequence {sequence}",
            f"there is one window to train on and one held out, each of sequence + 1 = {sequence + 1} {unit}s",
            "take a shorter sequence or a longer text",
        )
    most = max(1, MAX_HELD_OUT_LOGITS // (sequence * vocabulary))
    held_out = text[cut : cut + most * sequence + 1]
    metric = Metric(
        name=f"bits_per_{unit}",
        compute=bits_per_byte,
        higher_is_better=False,
        dataset=TextWindows(held_out, sequence, sequence),
    )
    return TextWindows(text[:cut], sequence, stride or sequence), metric


def next_byte_loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross entropy in nats per byte; outputs [n, sequence, 256 or more], targets [n, sequence]."""
    return nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())


def bits_per_byte(outputs: torch.Tensor, targets: torch.Tensor) -> float:
    """Cross entropy in bits per byte: what the model would compress the text to, 8 for one that knows nothing."""
    return float(next_byte_loss(outputs, targets)) / math.log(2)
