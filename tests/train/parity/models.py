"""Small models of kinds that people train, each `build(kind)`: parity lets them pass; faults are planted in some."""

import random

import numpy as np
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.nn.functional import all_gather
from torch.nn.utils.parametrizations import spectral_norm
from torch.utils.data import Dataset, TensorDataset

from hpc_accel.workloads.workload import Workload

F = nn.functional


def rows(num_features=16, num_classes=4, count=96):
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(count, num_features, generator=generator)
    return inputs, torch.randint(0, num_classes, (count,), generator=generator)


def perceptron(*between, num_features=16, num_classes=4):
    return nn.Sequential(nn.Linear(num_features, 32), nn.Tanh(), *between, nn.Linear(32, num_classes))


class Attending(nn.Module):
    """Dropout in three functional forms: of features, of attention, and of a whole branch."""

    def __init__(self):
        super().__init__()
        self.query, self.out = nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, inputs):
        states = self.query(inputs).unflatten(1, (2, 2, 4))
        mixed = F.scaled_dot_product_attention(states, states, states, dropout_p=0.2)
        mixed = mixed + mixed * (torch.rand(len(mixed), 1, 1, 1) > 0.3)
        return self.out(F.dropout(mixed.flatten(1), 0.3))


class Autoencoder(nn.Module):
    """Draws a latent variable for each sample."""

    def __init__(self):
        super().__init__()
        self.encode, self.decode = nn.Linear(16, 8), nn.Linear(4, 16)

    def forward(self, inputs):
        mean, log_variance = self.encode(inputs).chunk(2, dim=1)
        return self.decode(mean + torch.randn_like(mean) * (0.5 * log_variance).exp())


class Augmented(Dataset):
    """Noise of NumPy, a flip of `random` and a shift of torch, as image data sets have them."""

    def __init__(self):
        self.inputs, self.targets = rows()

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, index):
        noise = torch.from_numpy(np.random.normal(0, 0.1, 16).astype("float32"))
        row = self.inputs[index].flip(0) if random.random() < 0.5 else self.inputs[index]
        return row + noise + 0.1 * torch.rand(1), self.targets[index]


class Tokens(Dataset):
    """Sequences of different lengths, padded."""

    def __init__(self):
        generator = torch.Generator().manual_seed(1)
        self.tokens = torch.randint(0, 20, (96, 12), generator=generator)
        self.targets = torch.randint(0, 20, (96, 12), generator=generator)
        lengths = torch.randint(1, 13, (96,), generator=generator)
        self.targets[torch.arange(12) >= lengths[:, None]] = -100

    def __len__(self):
        return 96

    def __getitem__(self, index):
        return self.tokens[index], self.targets[index]


def token_loss(outputs, targets):
    return F.cross_entropy(outputs.flatten(0, 1), targets.flatten())


def total_loss(outputs, targets, num_items_in_batch=None):
    """As Hugging Face's: it divides by a number that it is told."""
    total = F.cross_entropy(outputs.flatten(0, 1), targets.flatten(), reduction="sum")
    return total / (num_items_in_batch if num_items_in_batch is not None else (targets != -100).sum())


def weighted_loss(outputs, targets):
    return F.cross_entropy(outputs, targets, weight=torch.tensor([1.0, 0.2, 3.0, 0.5]))


def tokens_model():
    return nn.Sequential(nn.Embedding(20, 32), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 20))


def pairs_loss(outputs, _targets):
    first, second = F.normalize(outputs, dim=1).chunk(2, dim=1)
    return F.cross_entropy(first @ second.t() / 0.1, torch.arange(len(outputs)))


def gathering_loss(outputs, targets):
    """Pairs of all ranks, gathered with their gradients: the whole batch's loss on each."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        outputs = torch.cat(all_gather(outputs.contiguous(), dist.group.WORLD))
    return pairs_loss(outputs, targets)


def told_to_gather():
    """The loss compares all samples that it is given, and the workload says that these are of all replicas."""
    return Workload(model=perceptron(), loss=pairs_loss, dataset=TensorDataset(*rows()), gather_outputs=True)


def gathered():
    return perceptron(), gathering_loss, TensorDataset(*rows())


def double():
    inputs, targets = rows()
    model = perceptron().double()
    return model, F.cross_entropy, TensorDataset(inputs.double(), targets)


def halves():
    inputs, targets = rows()
    return perceptron().bfloat16(), F.cross_entropy, TensorDataset(inputs.bfloat16(), targets)


def images():
    inputs, targets = rows(num_features=3 * 6 * 6)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(128, 4))
    return model, F.cross_entropy, TensorDataset(inputs.reshape(-1, 3, 6, 6), targets)


def deep_images():
    """Four layers with parameters, BatchNorm in each but the last."""
    _, loss, data = images()
    convolutions = [nn.Sequential(nn.Conv2d(width, 8, 3), nn.BatchNorm2d(8), nn.ReLU()) for width in (3, 8)]
    head = [nn.Flatten(), nn.Linear(32, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 4)]
    return nn.Sequential(*convolutions, *head), loss, data


def both_together():
    model, _, data = images()
    return Workload(model=model, loss=pairs_loss, dataset=data, gather_outputs=True)


def build(kind):
    data = TensorDataset(*rows())
    if kind == "reconstructed":
        return Autoencoder(), F.mse_loss, TensorDataset(rows()[0], rows()[0])
    makers = {
        "plain": lambda: (perceptron(), F.cross_entropy, data),
        "dropout": lambda: (perceptron(nn.Dropout(0.3)), F.cross_entropy, data),
        "attention": lambda: (Attending(), F.cross_entropy, data),
        "batch norm": images,
        "deep norm": deep_images,
        "augmented": lambda: (perceptron(), F.cross_entropy, Augmented()),
        "smoothed": lambda: (perceptron(), nn.CrossEntropyLoss(label_smoothing=0.1), data),
        "class weights": lambda: (perceptron(), weighted_loss, data),
        "double": double,
        "halves": halves,
        "tokens": lambda: (tokens_model(), token_loss, Tokens()),
        "total": lambda: (tokens_model(), total_loss, Tokens()),
        "spectral": lambda: (perceptron(spectral_norm(nn.Linear(32, 32))), F.cross_entropy, data),
        "together": told_to_gather,
        "both together": both_together,
        "pairs with norm": lambda: (images()[0], pairs_loss, images()[2]),
        "pairs": lambda: (perceptron(), pairs_loss, data),
        "deaf": lambda: (perceptron(Deaf()), F.cross_entropy, data),
    }
    return makers[kind]()


class Deaf(nn.Module):
    """Drops units and seeds torch itself, so that every replica drops the same."""

    def forward(self, states):
        torch.manual_seed(7)
        return states * (torch.rand_like(states) > 0.5)


class Unrepeatable(Dataset):
    """Values that no seed fixes."""

    def __init__(self):
        self.generator = np.random.default_rng()
        self.inputs, self.targets = rows()

    def __len__(self):
        return len(self.inputs)

    def __getitem__(self, index):
        return self.inputs[index] + float(self.generator.normal()), self.targets[index]


def unrepeatable():
    return perceptron(), F.cross_entropy, Unrepeatable()


def _refusing_loss(outputs, targets):
    if len(outputs) > 12:
        raise RuntimeError("this loss wants more than 12 samples away")
    return F.cross_entropy(outputs, targets)


def fails_alone():
    """A loss that the whole batch is too much for, and that of a rank is not."""
    return perceptron(), _refusing_loss, TensorDataset(*rows())
