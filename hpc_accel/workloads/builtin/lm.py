"""A decoder-only language model on bytes of real text: the language reference that Python carries, or the user's file.

Pre-norm transformer of Radford et al., "Language Models are Unsupervised Multitask Learners" (2019), with
learned positions. One `nn.Sequential` (embedding, blocks, head), so that it can be cut into stages anywhere.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import nn

from hpc_accel.errors import ConfigError
from hpc_accel.workloads.builtin.text import NUM_BYTE_VALUES, next_byte_loss, read_text, windows
from hpc_accel.workloads.builtin.transformer import TENSOR_PLAN, Block
from hpc_accel.workloads.kv_cache import KVCache
from hpc_accel.workloads.workload import Workload


class Size(NamedTuple):
    """Blocks, width, attention heads, and bytes per sample."""

    layers: int
    hidden: int
    heads: int
    sequence: int


SIZES = {
    "tiny": Size(4, 64, 4, 64),
    "small": Size(6, 256, 8, 128),
    # GPT-2: Radford et al. 2019, table 2; widths of a head (64) from the published models.
    "124M": Size(12, 768, 12, 1024),
    "350M": Size(24, 1024, 16, 1024),
    "774M": Size(36, 1280, 20, 1024),
    "1.5B": Size(48, 1600, 25, 1024),
    # OPT: Zhang et al., "OPT: Open Pre-trained Transformer Language Models" (2022), table 1; also GPT-3's, but for 13B.
    "6.7B": Size(32, 4096, 32, 2048),
    "13B": Size(40, 5120, 40, 2048),
    "30B": Size(48, 7168, 56, 2048),
    "66B": Size(64, 9216, 72, 2048),
    "175B": Size(96, 12288, 96, 2048),
}
"""Shapes of the literature by their names there. A vocabulary of 256 bytes makes these models a little smaller."""


def build(
    size: str = "tiny",
    layers: int | None = None,
    hidden: int | None = None,
    heads: int | None = None,
    sequence: int | None = None,
    text: str | None = None,
    stride: int | None = None,
) -> Workload:
    """`layers` blocks of width `hidden`, trained to predict the next byte of `sequence` bytes; `size` gives the rest.

    `text` is the path of the user's own file; a window begins every `stride` bytes, by default every `sequence`.
    Raises ConfigError when `heads` does not divide `hidden`, for an unknown size and for a text that is too short.
    """
    shape = _shape(size, layers, hidden, heads, sequence)
    dataset, metric = windows("lm", read_text("lm", text), shape.sequence, stride, NUM_BYTE_VALUES)
    blocks = [Block(shape.hidden, shape.hidden // shape.heads, causal=True) for _ in range(shape.layers)]
    return Workload(
        model=nn.Sequential(Embedding(shape.hidden, shape.sequence), *blocks, Head(shape.hidden)),
        loss=next_byte_loss,
        dataset=dataset,
        tensor_plan={
            "0.byte": "vocabulary",
            "0": "split",
            "*.norm*": "sequence",
            **TENSOR_PLAN,
            "*.project": "gather",
        },
        metric=metric,
    )


def _shape(size: str, layers: int | None, hidden: int | None, heads: int | None, sequence: int | None) -> Size:
    if size not in SIZES:
        raise ConfigError(
            f"workload lm with size {size!r}",
            f"sizes are {', '.join(SIZES)}",
            "name one of them, or give layers, hidden, heads and sequence",
        )
    given = {"layers": layers, "hidden": hidden, "heads": heads, "sequence": sequence}
    shape = SIZES[size]._replace(**{name: value for name, value in given.items() if value is not None})
    if min(shape) < 1:
        raise ConfigError(f"workload lm with {shape}", "layers, hidden, heads and sequence are at least 1", "raise it")
    if shape.hidden % shape.heads:
        raise ConfigError(
            f"hidden {shape.hidden} with {shape.heads} heads",
            "every attention head has the same width",
            f"choose heads among the divisors of {shape.hidden}",
        )
    return shape


class Embedding(nn.Module):
    """Byte and position embeddings: [n, sequence] -> [n, sequence, hidden]."""

    def __init__(self, hidden: int, sequence: int) -> None:
        super().__init__()
        self.byte = nn.Embedding(NUM_BYTE_VALUES, hidden)
        self.position = nn.Embedding(sequence, hidden)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self._embed(tokens, 0)

    def decode(self, tokens: torch.Tensor, cache: KVCache) -> torch.Tensor:
        """The same for tokens whose positions follow those seen before."""
        return self._embed(tokens, cache.advance(tokens.shape[1]))

    def _embed(self, tokens: torch.Tensor, first: int) -> torch.Tensor:
        positions = torch.arange(first, first + tokens.shape[1], device=tokens.device)
        return self.byte(tokens) + self.position(positions)


class Head(nn.Module):
    """Final norm and projection to byte logits: [n, sequence, hidden] -> [n, sequence, 256]."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(hidden)
        self.project = nn.Linear(hidden, NUM_BYTE_VALUES)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self.project(self.norm(states))

    def decode(self, states: torch.Tensor, cache: KVCache) -> torch.Tensor:
        """Logits of the last token alone, [n, 1, 256]: the next one is all that is asked for."""
        return self(states[:, -1:])
