"""Tables, series, graphs, sound, and distributions: what is neither text nor pictures."""

import math

import torch
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.data import Dataset, TensorDataset

F = nn.functional


def rows(count=48, width=16, classes=4, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, width, generator=generator, dtype=dtype), torch.randint(0, classes, (count,))


def mlp(width=16, outputs=4):
    return nn.Sequential(nn.Linear(width, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, outputs))


class TwoHeads(nn.Module):
    """Classes and a figure from one trunk, weighed by a temperature that is trained."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(16, 32), nn.ReLU())
        self.classes, self.figure = nn.Linear(32, 4), nn.Linear(32, 1)
        self.log_temperature = nn.Parameter(torch.tensor(0.0))

    def forward(self, x):
        x = self.trunk(x)
        return torch.cat([self.classes(x) * self.log_temperature.exp(), self.figure(x)], dim=1)


def both_losses(outputs, targets):
    classes = F.cross_entropy(outputs[:, :4], targets[:, 0].long())
    return classes + 0.5 * F.mse_loss(outputs[:, 4], targets[:, 1])


def several_heads():
    x, y = rows()
    return TwoHeads(), both_losses, TensorDataset(x, torch.stack([y.float(), x.sum(1)], dim=1))


class Table(nn.Module):
    def __init__(self, sizes=(5, 7, 3), numbers=4):
        super().__init__()
        self.embeddings = nn.ModuleList(nn.Embedding(size, 4) for size in sizes)
        self.norm = nn.LayerNorm(numbers)
        self.body = mlp(4 * len(sizes) + numbers, 1)

    def forward(self, categories, numbers):
        parts = [embed(categories[:, index]) for index, embed in enumerate(self.embeddings)]
        return self.body(torch.cat([*parts, self.norm(numbers)], dim=1)).squeeze(1)


class Records(Dataset):
    def __init__(self):
        generator = torch.Generator().manual_seed(1)
        self.categories = torch.randint(0, 3, (48, 3), generator=generator)
        self.numbers = torch.randn(48, 4, generator=generator)

    def __len__(self):
        return 48

    def __getitem__(self, index):
        return (self.categories[index], self.numbers[index]), (self.numbers[index].sum() > 0).float()


def tabular():
    return Table(), nn.BCEWithLogitsLoss(pos_weight=torch.tensor(3.0)), Records()


def class_weights():
    loss = nn.CrossEntropyLoss(weight=torch.tensor([1.0, 0.2, 3.0, 0.5]))
    return mlp(), loss, TensorDataset(*rows())


def label_smoothing():
    return mlp(), nn.CrossEntropyLoss(label_smoothing=0.1), TensorDataset(*rows())


def float64():
    x, _ = rows(dtype=torch.float64)
    return mlp(outputs=1).double(), nn.MSELoss(), TensorDataset(x, x.sum(1, keepdim=True))


class Fourier(nn.Module):
    """Complex weights on low frequencies, as in a Fourier neural operator."""

    def __init__(self, width=32):
        super().__init__()
        self.weight = nn.Parameter(0.1 * torch.randn(width // 2 + 1, dtype=torch.cfloat) + 1)

    def forward(self, x):
        return torch.fft.irfft(torch.fft.rfft(x) * self.weight, n=x.shape[-1])


def complex_fft():
    x, y = rows()
    return nn.Sequential(nn.Linear(16, 32), Fourier(), nn.Linear(32, 4)), nn.CrossEntropyLoss(), TensorDataset(x, y)


class Transposed(nn.Module):
    """A weight as a converted checkpoint has it: stored the other way round."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter((0.1 * torch.randn(32, 16)).t())

    def forward(self, x):
        return torch.relu(x @ self.weight)


def strided():
    return nn.Sequential(Transposed(), nn.Linear(32, 4)), nn.CrossEntropyLoss(), TensorDataset(*rows())


def sparse_embedding():
    generator = torch.Generator().manual_seed(1)
    words = torch.randint(0, 100, (48, 5), generator=generator)
    model = nn.Sequential(nn.EmbeddingBag(100, 16, sparse=True), nn.Linear(16, 4))
    return model, nn.CrossEntropyLoss(), TensorDataset(words, words.sum(1) % 4)


class GraphNetwork(nn.Module):
    """Messages along a padded adjacency matrix; nodes that are padding count for nothing."""

    def __init__(self):
        super().__init__()
        self.encode = nn.Linear(6, 16)
        self.layers = nn.ModuleList(nn.Linear(32, 16) for _ in range(2))
        self.readout = nn.Linear(16, 1)

    def forward(self, nodes, adjacency, present):
        states = self.encode(nodes)
        degree = adjacency.sum(-1, keepdim=True).clamp(min=1)
        for layer in self.layers:
            states = F.relu(layer(torch.cat([states, adjacency @ states / degree], dim=-1)))
        pooled = (states * present[..., None]).sum(1) / present.sum(1, keepdim=True)
        return self.readout(pooled).squeeze(1)


class Graphs(Dataset):
    def __init__(self):
        generator = torch.Generator().manual_seed(1)
        self.nodes = torch.randn(48, 7, 6, generator=generator)
        self.sizes = torch.randint(2, 8, (48,), generator=generator)
        self.edges = (torch.rand(48, 7, 7, generator=generator) < 0.4).float()

    def __len__(self):
        return 48

    def __getitem__(self, index):
        present = (torch.arange(7) < self.sizes[index]).float()
        adjacency = self.edges[index] * present * present[:, None]
        return (self.nodes[index], adjacency, present), self.nodes[index].mean()


def graph_network():
    return GraphNetwork(), nn.MSELoss(), Graphs()


def waves():
    layers = [nn.Conv1d(1, 8, 5, dilation=2), nn.Conv1d(8, 8, 5, dilation=4)]
    body = [part for layer in layers for part in (weight_norm(layer), nn.LeakyReLU(0.1))]
    model = nn.Sequential(*body, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 4))
    generator = torch.Generator().manual_seed(1)
    return model, nn.CrossEntropyLoss(), TensorDataset(torch.randn(48, 1, 64, generator=generator), rows()[1])


class Autoencoder(nn.Module):
    """A variational autoencoder; what the loss needs beside the reconstruction goes out in one tensor."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8))
        self.decoder = nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 16))

    def forward(self, x):
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        latent = mean + torch.randn_like(mean) * (0.5 * log_variance).exp()
        return torch.cat([self.decoder(latent), mean, log_variance], dim=1)


def elbo(outputs, x):
    reconstruction, mean, log_variance = outputs.split([16, 4, 4], dim=1)
    divergence = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum(1).mean()
    return F.mse_loss(reconstruction, x) + 0.1 * divergence


def vae():
    x, _ = rows()
    return Autoencoder(), elbo, TensorDataset(x, x)


class Denoiser(nn.Module):
    """One training step of diffusion: noise of a random strength, which the model predicts."""

    def __init__(self, steps=20):
        super().__init__()
        self.register_buffer("kept", torch.cumprod(1 - torch.linspace(1e-3, 0.2, steps), dim=0))
        self.time = nn.Embedding(steps, 16)
        self.net = nn.Sequential(nn.Linear(32, 64), nn.SiLU(), nn.Linear(64, 16))

    def forward(self, x):
        step = torch.randint(0, len(self.kept), (len(x),), device=x.device)
        kept = self.kept[step][:, None]
        noise = torch.randn_like(x)
        noisy = kept.sqrt() * x + (1 - kept).sqrt() * noise
        return self.net(torch.cat([noisy, self.time(step)], dim=1)) - noise


def prediction_loss(difference, _):
    return difference.square().mean()


def diffusion():
    return Denoiser(), prediction_loss, TensorDataset(*rows())


def mixture_loss(outputs, y):
    logits, means, scales = outputs.chunk(3, dim=1)
    scales = F.softplus(scales) + 1e-3
    inside = -0.5 * ((y - means) / scales) ** 2 - scales.log() - 0.5 * math.log(2 * math.pi)
    return -torch.logsumexp(logits.log_softmax(1) + inside, dim=1).mean()


def mixture_density():
    x, _ = rows()
    return mlp(outputs=9), mixture_loss, TensorDataset(x, x.sum(1, keepdim=True))


class Counted(nn.Module):
    """A running scale of its own, and a count of calls: state that forward changes and outputs do not use."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.register_buffer("scale", torch.ones(16))
        self.linear = nn.Linear(16, 16)

    def forward(self, x):
        if self.training:
            self.calls += 1
            self.scale.lerp_(x.detach().abs().mean(0), 0.1)
        return F.relu(self.linear(x))


def counting_layer():
    return nn.Sequential(Counted(), nn.Linear(16, 4)), nn.CrossEntropyLoss(), TensorDataset(*rows())
