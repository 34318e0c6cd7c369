"""The built-in workloads by name: one line each, with the defaults a study may override. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from hpc_accel.study.schema import Optimizer


@dataclass(frozen=True, kw_only=True)
class Builtin:
    """Where a built-in workload is built, and what a study need not say about it."""

    entry: str
    global_batch_size: int
    optimizer: Optimizer
    about: str


BUILTIN: dict[str, Builtin] = {
    "digits": Builtin(
        entry="hpc_accel.workloads.digits:build",
        global_batch_size=64,
        optimizer=Optimizer(name="sgd", learning_rate=0.05, momentum=0.9),
        about="handwritten digits (scikit-learn's, 1,797 images) and a small convolutional classifier",
    ),
    "lm": Builtin(
        entry="hpc_accel.workloads.lm:build",
        global_batch_size=16,
        optimizer=Optimizer(name="adamw", learning_rate=3e-4),
        about="a decoder-only language model on bytes of Python's own documentation text",
    ),
    "mlp": Builtin(
        entry="hpc_accel.workloads.mlp:build",
        global_batch_size=100,
        optimizer=Optimizer(name="sgd", learning_rate=0.01),
        about="Linear(10,5)-ReLU-Linear(5,3) on 100 random samples, mean squared error",
    ),
}
