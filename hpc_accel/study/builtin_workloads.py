"""The built-in workloads by name: one line each, with the defaults a study may override. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from hpc_accel.study.optimizer import Optimizer


@dataclass(frozen=True, kw_only=True)
class Builtin:
    """Where a built-in workload is built, and what a study need not say about it."""

    entry: str
    global_batch_size: int
    optimizer: Optimizer
    about: str


BUILTIN: dict[str, Builtin] = {
    "digits": Builtin(
        entry="hpc_accel.workloads.builtin.digits:build",
        global_batch_size=64,
        optimizer=Optimizer(name="sgd", learning_rate=0.05, momentum=0.9),
        about="handwritten digits (scikit-learn's, 1,797 images) and a small convolutional classifier",
    ),
    "driving": Builtin(
        entry="hpc_accel.workloads.builtin.driving:build",
        global_batch_size=64,
        optimizer=Optimizer(name="adamw", learning_rate=1e-3),
        about="camera, lidar and kinematics of recorded highway episodes, and what a rule-based driver did",
    ),
    "hf": Builtin(
        entry="hpc_accel.workloads.builtin.hf:build",
        global_batch_size=16,
        optimizer=Optimizer(name="adamw", learning_rate=3e-4),
        about="language models and classifiers of Hugging Face transformers by their configuration",
    ),
    "imaging": Builtin(
        entry="hpc_accel.workloads.builtin.imaging:build",
        global_batch_size=8,
        optimizer=Optimizer(name="adamw", learning_rate=5e-3),
        about="grey and white matter in 3D patches of the MNI152 brain template, MONAI's U-Net and Dice loss",
    ),
    "lm": Builtin(
        entry="hpc_accel.workloads.builtin.lm:build",
        global_batch_size=16,
        optimizer=Optimizer(name="adamw", learning_rate=3e-4),
        about="a decoder-only language model on bytes of text, from tiny to 175B",
    ),
    "mlp": Builtin(
        entry="hpc_accel.workloads.builtin.mlp:build",
        global_batch_size=100,
        optimizer=Optimizer(name="sgd", learning_rate=0.01),
        about="Linear(10,5)-ReLU-Linear(5,3) on 100 random samples, mean squared error",
    ),
    "risk": Builtin(
        entry="hpc_accel.workloads.builtin.risk:build",
        global_batch_size=100,
        optimizer=Optimizer(name="adamw", learning_rate=2e-3),
        about="German credit records (1,000), a tabular network, costs of 5 to 1 for the two mistakes",
    ),
    "synthetic": Builtin(
        entry="hpc_accel.workloads.builtin.synthetic:build",
        global_batch_size=64,
        optimizer=Optimizer(name="sgd", learning_rate=0.01),
        about="linear layers of any width and number on fixed random numbers, to measure the engine alone",
    ),
    "vision": Builtin(
        entry="hpc_accel.workloads.builtin.vision:build",
        global_batch_size=32,
        optimizer=Optimizer(name="adamw", learning_rate=1e-3),
        about="image classification with ViT and ResNet sizes, on synthetic images or a folder of yours",
    ),
}


def listing() -> str:
    """The built-in workloads, one a line, for people."""
    width = max(map(len, BUILTIN))
    return "\n".join(f"{name:<{width}}  {builtin.about}" for name, builtin in BUILTIN.items())
