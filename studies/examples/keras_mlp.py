"""A Keras 3 model, trained by hpc_accel: on its torch backend a Keras model is a torch.nn.Module.

docs/applications/keras.md says what carries over from Keras and what does not.
"""

from __future__ import annotations

import os

os.environ["KERAS_BACKEND"] = "torch"  # before Keras is imported, or it takes the backend of ~/.keras/keras.json

import keras
import torch
from torch import nn

from hpc_accel.workloads.builtin.digits import build as digits
from hpc_accel.workloads.workload import Workload


def build(hidden: int = 128) -> Workload:
    """A Keras perceptron with two hidden layers on the quickstart's digits; data and metric are that workload's."""
    if keras.backend.backend() != "torch":
        raise RuntimeError(
            f"Keras runs on {keras.backend.backend()}: it was imported before this module; import it here"
        )
    keras.utils.set_random_seed(torch.initial_seed() % 2**32)  # Keras draws initial weights from a generator of its own
    with keras.device("cpu"):  # hpc_accel moves the model to each rank's device
        model = keras.Sequential(
            [
                keras.Input(shape=(1, 8, 8)),
                keras.layers.Flatten(),
                keras.layers.Dense(hidden, activation="relu"),
                keras.layers.Dense(hidden, activation="relu"),
                keras.layers.Dense(10),
            ]
        )
    data = digits()
    # The loss is torch's: (outputs, targets) -> mean over the samples.
    return Workload(model=model, loss=nn.functional.cross_entropy, dataset=data.dataset, metric=data.metric)
