"""Where random numbers come from: seeds derived from names, and the states of the generators a program draws from.

torch, NumPy and Python's `random` are seeded together. In the timed steps every replica and every stage draws numbers
of its own, and tensor-parallel ranks, which share activations, draw the same.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from hpc_accel.parallel import planted
from hpc_accel.parallel.mesh import RankCoordinates


def seed_of(*names: int | str) -> int:
    """A seed of 63 bits that depends on every name: (0, "replica", 1) and (0, "replica", 2) have nothing alike."""
    return int.from_bytes(hashlib.sha256(repr(names).encode()).digest()[:8], "big") >> 1


def seed_all(seed: int) -> None:
    """Seed torch on every device, NumPy and `random`."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def seed_rank(seed: int, place: RankCoordinates) -> None:
    """Seed this rank for its steps: by replica and stage, alike on the tensor-parallel ranks of one stage."""
    replica = 0 if planted.is_on("one_mask") else place.dp_rank
    seed_all(seed_of(seed, "replica", replica, "stage", place.pp_rank))


def digest_of_states() -> dict[str, str]:
    """A digest of the state of each generator of the host, and of the current GPU's: whoever draws changes it."""
    name, keys, position, *_ = np.random.get_state()
    states: dict[str, object] = {
        "torch": torch.get_rng_state().numpy().tobytes(),
        "numpy": (name, np.asarray(keys).tobytes(), position),
        "random": random.getstate(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state().numpy().tobytes()
    return {key: hashlib.sha256(repr(value).encode()).hexdigest()[:16] for key, value in states.items()}


@contextmanager
def states_kept() -> Iterator[None]:
    """What is drawn inside leaves the generators outside as they were."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() and torch.cuda.is_initialized() else []
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)


States = Sequence[dict[str, str]]


def told_of_draws(places: Sequence[tuple[int, int, int]], before: States, after: States) -> str:
    """What is wrong with the numbers that the ranks drew in a step; "" if nothing is.

    `places` are (replica, stage, tensor-parallel rank) of every rank; `before` and `after` its `digest_of_states`.
    """
    seen: dict[tuple[object, ...], tuple[int, str]] = {}
    for (dp, pp, tp), begin, end in zip(places, before, after, strict=True):
        for kind, state in end.items():
            if begin.get(kind) == state:
                continue
            other, _ = seen.setdefault((kind, "alike", pp, tp, state), (dp, state))
            if other != dp:
                return f"replicas {other} and {dp} draw the same random numbers: one dropout mask serves all replicas"
            other, shared = seen.setdefault((kind, "shared", dp, pp), (tp, state))
            if shared != state:
                return f"tensor-parallel ranks {other} and {tp} share activations and draw other random numbers"
    return ""
