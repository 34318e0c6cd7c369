"""The transformer block that the language model and the vision transformer are made of, and how it is cut.

Pre-norm as in Radford et al., "Language Models are Unsupervised Multitask Learners" (2019); the cut is Megatron's:
M. Shoeybi et al., "Megatron-LM: Training Multi-Billion Parameter Language Models Using Model Parallelism" (2019).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from hpc_accel.workloads.kv_cache import KVCache
from hpc_accel.workloads.tensor_plan import Cut

TENSOR_PLAN: Mapping[str, Cut] = {
    "*.attention.query": "columns",
    "*.attention.key": "columns",
    "*.attention.value": "columns",
    "*.attention.out": "rows",
    "*.up": "columns",
    "*.down": "rows",
}
"""For a Sequential with `Block` children."""


class Attention(nn.Module):
    """Self-attention, causal or not. The number of heads follows from the local width, so a column cut just works."""

    def __init__(self, hidden: int, head_width: int, *, causal: bool) -> None:
        super().__init__()
        self.head_width = head_width
        self.causal = causal
        self.query = nn.Linear(hidden, hidden)
        self.key = nn.Linear(hidden, hidden)
        self.value = nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, hidden)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        query, key, value = self._project(states)
        mixed = nn.functional.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
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

    def __init__(self, hidden: int, head_width: int, *, causal: bool) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(hidden)
        self.attention = Attention(hidden, head_width, causal=causal)
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
