"""Streams: one that draws as it goes, and one that knows its place and ends within an epoch of training."""

import torch
from torch import nn
from torch.utils.data import IterableDataset

from hpc_accel.workloads.workload import Workload


class Endless(IterableDataset):
    """Without a length; what it draws is drawn from torch's own generator."""

    def __iter__(self):
        while True:
            inputs = torch.randn(8)
            yield inputs, int(inputs.sum() > 0)


class Short(IterableDataset):
    """40 samples, so that of batches of 16 eight are left out; the order is another in each epoch."""

    def __init__(self):
        self.epoch = 0
        self.begin = 0

    def __len__(self):
        return 40

    def set_epoch(self, epoch):
        self.epoch, self.begin = epoch, 0

    def state_dict(self):
        return {"epoch": self.epoch, "begin": self.begin}

    def load_state_dict(self, state):
        self.epoch, self.begin = state["epoch"], state["begin"]

    def __iter__(self):
        order = torch.randperm(40, generator=torch.Generator().manual_seed(self.epoch)).tolist()
        while self.begin < 40:
            index = order[self.begin]
            self.begin += 1
            yield {"x": torch.full((8,), index / 40.0) + torch.arange(8.0) / 8, "label": index % 2}


class Net(nn.Sequential):
    def forward(self, x):
        return super().forward(x)


def build(kind):
    layers = nn.Linear(8, 8), nn.Tanh(), nn.Dropout(0.1), nn.Linear(8, 2)
    if kind == "endless":
        return nn.Sequential(*layers), nn.functional.cross_entropy, Endless()
    return Workload(model=Net(*layers), loss=nn.functional.cross_entropy, dataset=Short())
