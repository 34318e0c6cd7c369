"""Keys and values of the tokens a layer has seen, so that a new token costs one token's work, not the whole sequence's.

A layer that generates has `decode(states, cache)`: like `forward`, for the tokens that come after those in `cache`. Its
cache is its own; a layer without `decode` sees no other token and is simply called.
"""

from __future__ import annotations

import torch


class KVCache:
    """One layer's memory of a batch of sequences, with room for `max_tokens` tokens each."""

    def __init__(self, max_tokens: int) -> None:
        self.max_tokens = max_tokens
        self.num_tokens = 0
        """Tokens seen so far."""
        self._keys: torch.Tensor | None = None
        self._values: torch.Tensor | None = None

    def advance(self, num_tokens: int) -> int:
        """Count `num_tokens` more; the number seen before them. Raises ValueError when there is no room."""
        begin, end = self.num_tokens, self.num_tokens + num_tokens
        if end > self.max_tokens:
            raise ValueError(f"{end} tokens in a cache of {self.max_tokens}")
        self.num_tokens = end
        return begin

    def extend(self, keys: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Add [n, heads, new tokens, head_width] of each; all so far, [n, heads, tokens, head_width]."""
        begin = self.advance(keys.shape[2])
        if self._keys is None or self._values is None:
            shape = (*keys.shape[:2], self.max_tokens, keys.shape[3])
            self._keys, self._values = keys.new_empty(shape), values.new_empty(shape)
        self._keys[:, :, begin : self.num_tokens] = keys
        self._values[:, :, begin : self.num_tokens] = values
        return self._keys[:, :, : self.num_tokens], self._values[:, :, : self.num_tokens]
