"""Tokens one by one: the most likely next token after a prompt, with and without a key-value cache.

With the cache a token costs one token's work; without it the whole sequence is computed again for each. Time to first
token is the prompt's, time per output token the mean of the others.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hpc_accel.infer.model import InferenceModel
from hpc_accel.infer.outputs import relative_error
from hpc_accel.measure.statistics import median_ci
from hpc_accel.record.figure import Estimate
from hpc_accel.study.infer_options import Generate
from hpc_accel.workloads.chain import layers_of
from hpc_accel.workloads.kv_cache import KVCache


def decoding_layers(module: nn.Module) -> list[nn.Module]:
    """The parts of a model that `decode` one after the other."""
    return [layer for _, layer in layers_of(module)] if isinstance(module, nn.Sequential) else [module]


def decode(layers: Sequence[nn.Module], caches: Sequence[KVCache], tokens: torch.Tensor) -> torch.Tensor:
    """Logits [n, 1, values] after `tokens` [n, new tokens], which follow those in the caches."""
    states = tokens
    for layer, cache in zip(layers, caches, strict=True):
        states = layer.decode(states, cache) if hasattr(layer, "decode") else layer(states)  # type: ignore[operator]
    return states[:, -1:]


@dataclass(frozen=True, kw_only=True)
class Generated:
    """One batch of sequences: when each token was there (from the start), the tokens, and their logits."""

    token_ns: list[int]
    tokens: torch.Tensor
    """[n, prompt + tokens]"""
    logits: torch.Tensor | None
    """[n, tokens, values], in fp32 on the host; None where nobody asked for them"""


class Generator:
    """Generates on the ranks of one replica, which all call it alike."""

    def __init__(self, model: InferenceModel, comm: Any, wanted: Generate, prompts: torch.Tensor) -> None:
        """`prompts` is [n, at least wanted.prompt] token ids."""
        self.module = model.module
        self.device = model.device
        self.comm = comm
        self.wanted = wanted
        self.prompts = prompts[:, : wanted.prompt].to(model.device)

    def __call__(self, *, kv_cache: bool, keep_logits: bool = False) -> Generated:
        """Generate greedily once. Keeping logits copies them to the host after each token, which is not for timing."""
        layers = decoding_layers(self.module)
        caches = [KVCache(self.wanted.prompt + self.wanted.tokens) for _ in layers]
        sequence, new, times, logits = self.prompts, self.prompts, [], []
        began_ns = time.perf_counter_ns()
        for _ in range(self.wanted.tokens):
            found = decode(layers, caches, new) if kv_cache else self.module(sequence)[:, -1:]
            found = found.clone()  # what it is a view of, logits of the whole sequence, would stay with it
            new = self._chosen(found)
            times.append(time.perf_counter_ns() - began_ns)
            if keep_logits:
                logits.append(found.float().cpu())
            sequence = torch.cat([sequence, new], dim=1)
        return Generated(token_ns=times, tokens=sequence, logits=torch.cat(logits, dim=1) if logits else None)

    def _chosen(self, logits: torch.Tensor) -> torch.Tensor:
        """The most likely token of each sequence, [n, 1]: the leader's choice, so that ranks cannot drift apart."""
        chosen = logits[:, -1].argmax(-1, keepdim=True).cpu()
        if self.comm.Get_size() > 1:
            self.comm.Bcast(chosen.numpy(), root=0)
        return chosen.to(self.device)

    def cache_error(self, generated: Generated) -> float | None:
        """Largest relative difference of the logits kept from one uncached pass over the same tokens."""
        assert generated.logits is not None
        whole = self.module(generated.tokens[:, :-1])
        return relative_error(generated.logits, whole[:, self.wanted.prompt - 1 :].float().cpu())


METHOD = "median over all repeats of all replicas; 95 % bootstrap interval"


def generation_facts(
    wanted: Generate, kv_cache: bool, all_token_ns: Sequence[Sequence[int]], num_sequences: int, seed: int
) -> dict[str, Any]:
    """Times of one setting, as fields of a Generation; `all_token_ns` are those of every repeat of every replica."""
    first_ms = [times[0] / 1e6 for times in all_token_ns]
    each_ms = [(times[-1] - times[0]) / (len(times) - 1) / 1e6 for times in all_token_ns]
    whole_s = [times[-1] / 1e9 for times in all_token_ns]
    return {
        "kv_cache": kv_cache,
        "prompt": wanted.prompt,
        "tokens": wanted.tokens,
        "num_sequences": num_sequences,
        "repeats": len(all_token_ns),
        "time_to_first_token_ms": _median(first_ms, seed),
        "time_per_output_token_ms": _median(each_ms, seed),
        "tokens_per_s": num_sequences * wanted.tokens / (_median(whole_s, seed).value or float("inf")),
    }


def _median(values: Sequence[float], seed: int) -> Estimate:
    return Estimate.between(*median_ci(values, seed=seed), method=METHOD, reason="nothing was generated")
