"""Batches as people have them: dicts, targets as dicts, texts of different lengths, models that return their loss."""

import torch
from torch import nn
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from hpc_accel.workloads.workload import Workload

F = nn.functional
VOCABULARY, COUNT = 24, 48


class Texts(Dataset):
    """Each as long as it is; `encoded` ones are padded dicts, as tokenizers return them."""

    def __init__(self, encoded=False):
        generator = torch.Generator().manual_seed(1)
        lengths = torch.randint(2, 9, (COUNT,), generator=generator).tolist()
        self.texts = [torch.randint(1, VOCABULARY, (each,), generator=generator) for each in lengths]
        self.encoded = encoded

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        text = self.texts[index]
        if not self.encoded:
            return text, text.sum() % 4
        words = F.pad(text, (0, 8 - len(text)))
        mask = (words != 0).long()
        return {"input_ids": words, "attention_mask": mask, "labels": torch.where(mask == 1, words, -100)}


def hugging_face():
    """Dict batches into a model that returns its loss, as a Trainer has it."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model("gpt2", n_layer=2, n_embd=16, n_head=2, vocab_size=VOCABULARY, n_positions=8)
    return Workload(model=AutoModelForCausalLM.from_config(config), loss=None, dataset=Texts(encoded=True))


class Bag(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 16, padding_idx=0)
        self.score = nn.Linear(16, 4)

    def forward(self, words):
        present = (words != 0).float()[..., None]
        return self.score((self.embedding(words) * present).sum(1) / present.sum(1))


def padded(samples):
    texts, labels = zip(*samples, strict=True)
    return pad_sequence(list(texts), batch_first=True), torch.stack(labels)


def collated_text():
    return Workload(model=Bag(), loss=nn.CrossEntropyLoss(), dataset=Texts(), collate=padded)


class Regions(Dataset):
    """Pictures with what is in them: a class and a box."""

    def __init__(self):
        generator = torch.Generator().manual_seed(1)
        self.images = torch.randn(COUNT, 3, 8, 8, generator=generator)
        self.boxes = torch.rand(COUNT, 4, generator=generator)
        self.labels = torch.randint(0, 4, (COUNT,), generator=generator)

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        return self.images[index], {"boxes": self.boxes[index], "labels": self.labels[index]}


class Detector(nn.Module):
    def __init__(self):
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Flatten())
        self.classes, self.box = nn.Linear(72, 4), nn.Linear(72, 4)

    def forward(self, images):
        features = self.backbone(images)
        return {"logits": self.classes(features), "boxes": self.box(features).sigmoid()}


def detection_loss(outputs, targets):
    boxes = F.l1_loss(outputs["boxes"], targets["boxes"])
    return F.cross_entropy(outputs["logits"], targets["labels"]) + 2 * boxes


def detector_of_dicts():
    return Detector(), detection_loss, Regions()


class TwoOutputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(16, 32), nn.ReLU())
        self.one, self.other = nn.Linear(32, 4), nn.Linear(32, 1)

    def forward(self, x):
        states = self.trunk(x)
        return self.one(states), self.other(states)


def both(outputs, labels):
    logits, figure = outputs
    return F.cross_entropy(logits, labels) + 0.1 * figure.square().mean()


def tuple_of_outputs():
    generator = torch.Generator().manual_seed(1)
    data = TensorDataset(torch.randn(COUNT, 16, generator=generator), torch.arange(COUNT) % 4)
    return TwoOutputs(), both, data


class Simulation(IterableDataset):
    """Samples as a simulation makes them, without an end that is known."""

    def __iter__(self):
        while True:
            x = torch.randn(16)
            yield x, x.sum()[None]


def stream():
    model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 1))
    return model, nn.MSELoss(), Simulation()
