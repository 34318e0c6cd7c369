"""A decoder-only language model on bytes of real English: the language reference that Python carries for `help()`.

Pre-norm transformer of Radford et al., "Language Models are Unsupervised Multitask Learners" (2019), with
learned positions. One `nn.Sequential` (embedding, blocks, head), so that it can be cut into stages anywhere.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import nn
from torch.utils.data import Dataset

from hpc_accel.errors import ConfigError
from hpc_accel.workloads.kv_cache import KVCache
from hpc_accel.workloads.workload import Workload

NUM_BYTE_VALUES = 256


def build(layers: int = 4, hidden: int = 64, heads: int = 4, sequence: int = 64) -> Workload:
    """`layers` blocks of width `hidden`, trained to predict the next byte of `sequence` bytes.

    Raises ConfigError when `heads` does not divide `hidden`.
    """
    if hidden % heads:
        raise ConfigError(
            f"hidden {hidden} with {heads} heads",
            "every attention head has the same width",
            f"choose heads among the divisors of {hidden}",
        )
    blocks = [Block(hidden, hidden // heads) for _ in range(layers)]
    plan: dict[str, Literal["columns", "rows"]] = {
        "*.attention.query": "columns",
        "*.attention.key": "columns",
        "*.attention.value": "columns",
        "*.attention.out": "rows",
        "*.up": "columns",
        "*.down": "rows",
    }
    return Workload(
        model=nn.Sequential(Embedding(hidden, sequence), *blocks, Head(hidden)),
        loss=next_byte_loss,
        dataset=ByteWindows(python_reference(), sequence),
        tensor_plan=plan,
    )


def next_byte_loss(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross entropy in nats per byte; outputs [n, sequence, 256], targets [n, sequence]."""
    return nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())


def python_reference() -> bytes:
    """Python's language reference as plain text, about 700 kB, in the order of its topics."""
    try:
        from pydoc_data.topics import topics
    except ImportError:
        raise ConfigError(
            "workload lm without Python's pydoc_data",
            "the text is Python's own language reference, part of the standard library",
            "install the full standard library (Debian: libpython3-stdlib)",
        ) from None
    return "\n".join(topics[name] for name in sorted(topics)).encode()


class ByteWindows(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """Consecutive windows of `sequence` bytes, each with the same window one byte later as its target."""

    def __init__(self, text: bytes, sequence: int) -> None:
        self.data = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        self.sequence = sequence

    def __len__(self) -> int:
        return (len(self.data) - 1) // self.sequence

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        start = index * self.sequence
        window = self.data[start : start + self.sequence + 1].long()
        return window[:-1], window[1:]


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


class Attention(nn.Module):
    """Causal self-attention. The number of heads follows from the local width, so a column cut just works."""

    def __init__(self, hidden: int, head_width: int) -> None:
        super().__init__()
        self.head_width = head_width
        self.query = nn.Linear(hidden, hidden)
        self.key = nn.Linear(hidden, hidden)
        self.value = nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, hidden)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        query, key, value = self._project(states)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def decode(self, states: torch.Tensor, cache: KVCache) -> torch.Tensor:
        """The same for tokens after those in `cache`, which they attend to as well: [n, new tokens, hidden]."""
        query, key, value = self._project(states)
        keys, values = cache.extend(key, value)
        new, seen = query.shape[2], keys.shape[2]
        # A new token attends to all before it and to itself; torch's is_causal counts from the first key.
        mask = torch.ones(new, seen, dtype=torch.bool, device=states.device).tril(seen - new) if new > 1 else None
        mixed = nn.functional.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
        return self.out(mixed.transpose(1, 2).flatten(2))

    def _project(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Query, key and value, each [n, heads, tokens, head_width]."""
        query, key, value = (
            project(states).unflatten(-1, (-1, self.head_width)).transpose(1, 2)
            for project in (self.query, self.key, self.value)
        )
        return query, key, value


class Block(nn.Module):
    """Attention and a four-fold wide perceptron, each behind a norm and beside a residual."""

    def __init__(self, hidden: int, head_width: int) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(hidden)
        self.attention = Attention(hidden, head_width)
        self.norm_perceptron = nn.LayerNorm(hidden)
        self.up = nn.Linear(hidden, 4 * hidden)
        self.down = nn.Linear(4 * hidden, hidden)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return self._perceive(states + self.attention(self.norm_attention(states)))

    def decode(self, states: torch.Tensor, cache: KVCache) -> torch.Tensor:
        """The same for tokens after those in `cache`."""
        return self._perceive(states + self.attention.decode(self.norm_attention(states), cache))

    def _perceive(self, states: torch.Tensor) -> torch.Tensor:
        return states + self.down(nn.functional.gelu(self.up(self.norm_perceptron(states))))


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
