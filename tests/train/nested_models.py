"""Models and data of forms that people write: dicts, tuples, padded texts, lists, losses of the model's own."""

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Dataset

from hpc_accel.workloads.workload import Metric, Workload

NUM_SAMPLES = 36
"""Two batches of 16 and a rest, which is kept."""


class Samples(Dataset):
    def __init__(self, kind):
        self.kind = kind

    def __len__(self):
        return NUM_SAMPLES

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        ids = torch.randint(1, 20, (8,), generator=generator)
        label = index % 2
        image = torch.randn(3, 4, 4, generator=generator)
        boxes = torch.randn(1 + index % 3, 4, generator=generator)
        text = torch.randint(1, 20, (4 + index % 5,), generator=generator)
        return {
            "dict": ({"ids": ids, "mask": {"kept": torch.ones(8), "scale": 2.0}}, label),
            "masked": {"ids": ids},
            "stages": {"ids": ids, "mask": (ids > 4).float(), "label": label},
            "keys": {"ids": ids, "label": label, "weight": 1.0 + label},
            "nested": (image, (ids, {"more": ids}), ({"label": label}, float(label))),
            "detector": (image, {"boxes": boxes, "label": label}),
            "padded": (text, label),
            "texts": {"input_ids": text, "labels": text},
            "own": {"ids": ids, "labels": label},
        }[self.kind]


def padded(sequences, value):
    return nn.utils.rnn.pad_sequence(sequences, batch_first=True, padding_value=value)


def collate_detector(samples):
    return torch.stack([image for image, _ in samples]), [target for _, target in samples]


def collate_padded(samples):
    return padded([ids for ids, _ in samples], 0), torch.tensor([label for _, label in samples])


def collate_masked(samples):
    """Half of the words are masked, at random, and are what is to be found."""
    ids = torch.stack([each["ids"] for each in samples])
    masked = torch.rand(ids.shape) < 0.5
    return {"ids": ids.masked_fill(masked, 0), "labels": ids.masked_fill(~masked, -100)}


def collate_texts(samples):
    ids, labels = ([each[key] for each in samples] for key in ("input_ids", "labels"))
    return {"input_ids": padded(ids, 0), "attention_mask": padded(ids, 0) > 0, "labels": padded(labels, -100)}


class Net(nn.Module):
    """One model for all: `forward` takes what the kind of data gives it."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.embedding, self.images = nn.Embedding(20, 8), nn.Linear(48, 8)
        self.head, self.value, self.tokens = nn.Linear(8, 2), nn.Linear(8, 1), nn.Linear(8, 20)
        texts = (self.images, self.head, self.value)
        idle = {
            "keys": (self.images, self.tokens),
            "nested": (self.tokens,),
            "detector": (self.embedding, self.tokens),
            "texts": texts,
            "masked": texts,
        }
        for module in idle.get(kind, (self.images, self.tokens, self.value)):
            module.requires_grad_(False)

    def forward(self, *inputs, **named):
        return getattr(self, f"_{self.kind}")(*inputs, **named)

    def _dict(self, ids, mask):
        states = self.embedding(ids) * mask["kept"][..., None] * mask["scale"].float()[:, None, None]
        return {"classes": self.head(states.mean(1))}

    def _keys(self, ids):
        states = self.embedding(ids).mean(1)
        return self.head(states), self.value(states)

    def _nested(self, image, pair):
        ids, more = pair
        states = self.images(image.flatten(1)) + self.embedding(ids).mean(1) + self.embedding(more["more"]).mean(1)
        return self.head(states), {"value": self.value(states)}

    def _detector(self, image):
        states = self.images(image.flatten(1))
        pairs = zip(self.head(states), self.value(states), strict=True)
        return [{"classes": one, "value": other} for one, other in pairs]

    def _padded(self, ids):
        return self.head(self.embedding(ids).mean(1))  # over padding too: it depends on how long the longest is

    def _texts(self, input_ids, attention_mask, labels):
        logits = self.tokens(self.embedding(input_ids) * attention_mask[..., None])
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)
        return {"loss": loss, "logits": logits}

    def _masked(self, ids, labels):
        logits = self.tokens(self.embedding(ids))
        return {"loss": F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)}

    def _own(self, ids, labels):
        logits = self.head(self.embedding(ids).mean(1))
        return F.cross_entropy(logits, labels), logits


class Stacked(nn.Module):
    """Blocks that take a mask beside what they work on; the first layer's weight is the last one's too."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

    def forward(self, ids, mask):
        states = self.embedding(ids)
        for layer in self.layers:
            states = states + torch.tanh(layer(states)) * mask[..., None]
        return F.linear(states.mean(1), self.embedding.weight)


def loss_dict(outputs, targets):
    return F.cross_entropy(outputs["classes"], targets)


def loss_keys(outputs, targets):
    losses = F.cross_entropy(outputs[0], targets["label"], reduction="none") + outputs[1][:, 0].square()
    return (losses * targets["weight"]).sum() / targets["weight"].sum()


def loss_nested(outputs, targets):
    logits, more = outputs
    return F.cross_entropy(logits, targets[0]["label"]) + F.mse_loss(more["value"][:, 0], targets[1].float())


def loss_detector(outputs, targets):
    values = [
        F.cross_entropy(output["classes"], torch.tensor(target["label"]))
        + F.mse_loss(output["value"], target["boxes"].mean()[None])
        for output, target in zip(outputs, targets, strict=True)
    ]
    return torch.stack(values).mean()


def accuracy(outputs, targets):
    return float((outputs[1].argmax(1) == targets).float().mean())


def build(kind):
    options = {
        "dict": {"loss": loss_dict},
        "stages": {"loss": F.cross_entropy, "blocks": "layers"},
        "keys": {"loss": loss_keys, "target": ("label", "weight"), "weight": lambda targets: targets["weight"].sum()},
        "nested": {"loss": loss_nested},
        "detector": {"loss": loss_detector, "collate": collate_detector},
        "padded": {"loss": F.cross_entropy, "collate": collate_padded},
        "texts": {"loss": None, "collate": collate_texts},
        "masked": {"loss": None, "collate": collate_masked},
        "own": {"loss": None},
    }[kind]
    if kind == "own":
        name = {"name": "accuracy", "compute": accuracy, "higher_is_better": True}
        options["metric"] = Metric(**name, dataset=Samples(kind))
    model = Stacked() if kind == "stages" else Net(kind)
    return Workload(model=model, dataset=Samples(kind), **options)
