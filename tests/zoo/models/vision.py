"""Images: ResNet with BatchNorm, U-Net, detector, siamese pairs, a GAN's discriminator, contrastive pairs."""

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.nn.functional import all_gather
from torch.nn.utils.parametrizations import spectral_norm
from torch.utils.data import Dataset, TensorDataset

from hpc_accel.workloads.workload import Workload

F = nn.functional


def pictures(count=48, size=8, channels=3):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, channels, size, size, generator=generator), torch.randint(0, 4, (count,))


class Residual(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += x
        return self.relu(out)


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.layers = nn.Sequential(Residual(8), Residual(8))
        self.fc = nn.Linear(8, 4)

    def forward(self, x):
        x = self.layers(self.stem(x))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


def resnet():
    return ResNet(), nn.CrossEntropyLoss(), TensorDataset(*pictures())


class Up(nn.Module):
    def __init__(self, inside, outside):
        super().__init__()
        self.up = nn.ConvTranspose2d(inside, outside, 2, stride=2)
        self.conv = nn.Conv2d(2 * outside, outside, 3, padding=1)

    def forward(self, x, skip):
        return F.relu(self.conv(torch.cat([self.up(x), skip], dim=1)))


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down1 = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.GroupNorm(2, 8), nn.ReLU())
        self.down2 = nn.Sequential(nn.Conv2d(8, 16, 3, padding=1, stride=2), nn.GroupNorm(2, 16), nn.ReLU())
        self.up = Up(16, 8)
        self.head = nn.Conv2d(8, 3, 1)

    def forward(self, x):
        skip = self.down1(x)
        return self.head(self.up(self.down2(skip), skip))


def unet():
    images, _ = pictures()
    return UNet(), nn.CrossEntropyLoss(), TensorDataset(images, (images.sum(1) > 0).long())


class Pairs(nn.Module):
    """One encoder for both pictures of a pair."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.ReLU(), nn.Linear(32, 8))

    def forward(self, first, second):
        return F.pairwise_distance(self.encoder(first), self.encoder(second))


class PairData(Dataset):
    def __init__(self):
        self.images, labels = pictures()
        self.same = (labels == labels.roll(1)).float()

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return (self.images[index], self.images[index - 1]), self.same[index]


def margin_loss(distance, same):
    return (same * distance**2 + (1 - same) * F.relu(1.0 - distance) ** 2).mean()


def siamese():
    return Pairs(), margin_loss, PairData()


def discriminator():
    model = nn.Sequential(
        spectral_norm(nn.Conv2d(3, 8, 3, stride=2)),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Flatten(),
        spectral_norm(nn.Linear(72, 1)),
    )
    images, labels = pictures()
    return model, nn.BCEWithLogitsLoss(), TensorDataset(images, (labels % 2).float()[:, None])


def inplace_first():
    """Each child begins with an operation in place, the model's first too."""
    model = nn.Sequential(
        nn.Sequential(nn.SiLU(inplace=True), nn.Flatten(), nn.Linear(192, 32)),
        nn.Sequential(nn.ELU(inplace=True), nn.Linear(32, 32)),
        nn.Sequential(nn.SiLU(inplace=True), nn.Linear(32, 4)),
    )
    return model, nn.CrossEntropyLoss(), TensorDataset(*pictures())


class Detector(nn.Module):
    """A score and a box for each cell; the loss is over the cells that hold something."""

    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
        self.score, self.box = nn.Conv2d(8, 1, 1), nn.Conv2d(8, 4, 1)

    def forward(self, images):
        features = self.backbone(images)
        return torch.cat([self.score(features), self.box(features)], dim=1)


def detection_loss(outputs, targets):
    holds = targets[:, 0]
    score = F.binary_cross_entropy_with_logits(outputs[:, 0], holds)
    apart = F.smooth_l1_loss(outputs[:, 1:], targets[:, 1:], reduction="none").sum(1)
    return score + (apart * holds).sum() / holds.sum().clamp(min=1)


def detector():
    images, _ = pictures()
    generator = torch.Generator().manual_seed(2)
    targets = torch.randn(48, 5, 4, 4, generator=generator)
    targets[:, 0] = (targets[:, 0] > 1).float()
    return Detector(), detection_loss, TensorDataset(images, targets)


def contrast(outputs, _):
    first, second = F.normalize(outputs, dim=-1).chunk(2, dim=1)
    return F.cross_entropy(first @ second.t() / 0.1, torch.arange(len(outputs), device=outputs.device))


def contrastive():
    images, labels = pictures()
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 32), nn.Tanh(), nn.Linear(32, 16))
    return model, contrast, TensorDataset(images, labels)


def gathered_contrastive():
    """Every other sample of the batch is a negative, those of other replicas too."""
    model, loss, dataset = contrastive()
    return Workload(model=model, loss=loss, dataset=dataset, gather_outputs=True)


def contrast_of_all_ranks(outputs, _):
    """As people write it: own samples against those of all ranks, whose outputs get their gradients back."""
    first, second = F.normalize(outputs, dim=-1).chunk(2, dim=1)
    begin = 0
    if dist.is_initialized():
        begin = dist.get_rank() * len(second)
        # The group by name: torch takes the default's when its module is imported, and here runs follow each other.
        second = torch.cat(all_gather(second.contiguous(), dist.group.WORLD))
    return F.cross_entropy(first @ second.t() / 0.1, begin + torch.arange(len(outputs), device=outputs.device))


def contrastive_gathered_by_hand():
    model, _, dataset = contrastive()
    return model, contrast_of_all_ranks, dataset
