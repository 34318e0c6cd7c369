"""Text: packed GRU, RNN and tied language models, sequence to sequence with masks, LoRA, experts."""

import math

import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.data import Dataset, TensorDataset

from hpc_accel.workloads.workload import Workload

F = nn.functional
VOCABULARY, LENGTH, COUNT = 24, 8, 48


def tokens(seed=1):
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(1, VOCABULARY, (COUNT, LENGTH), generator=generator)
    lengths = torch.randint(2, LENGTH + 1, (COUNT,), generator=generator)
    words[torch.arange(LENGTH) >= lengths[:, None]] = 0
    return words, lengths


class PackedGRU(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 16, padding_idx=0)
        self.gru = nn.GRU(16, 16, batch_first=True, bidirectional=True)
        self.fc = nn.Linear(32, 4)

    def forward(self, words, lengths):
        packed = pack_padded_sequence(self.embedding(words), lengths.cpu(), batch_first=True, enforce_sorted=False)
        _, hidden = self.gru(packed)
        return self.fc(torch.cat([hidden[0], hidden[1]], dim=1))


class Reviews(Dataset):
    def __init__(self):
        self.words, self.lengths = tokens()

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        return (self.words[index], self.lengths[index]), self.words[index].sum() % 4


def packed_gru():
    return PackedGRU(), nn.CrossEntropyLoss(), Reviews()


class RNNLanguageModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 16)
        self.rnn = nn.LSTM(16, 16, num_layers=2, batch_first=True, dropout=0.1)
        self.decoder = nn.Linear(16, VOCABULARY)

    def forward(self, words):
        states, _ = self.rnn(self.embedding(words))
        return self.decoder(states)


def token_loss(logits, targets):
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), targets.reshape(-1), ignore_index=-100)


def next_words():
    words, _ = tokens()
    targets = torch.cat([words[:, 1:], torch.zeros(COUNT, 1, dtype=torch.long)], dim=1)
    return TensorDataset(words, torch.where(targets == 0, -100, targets))


def rnn_language_model():
    return RNNLanguageModel(), token_loss, next_words()


class TiedTransformer(nn.Module):
    """Embedding and head share a weight; positions are a buffer."""

    def __init__(self, width=16):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        angles = torch.arange(LENGTH)[:, None] * torch.exp(torch.arange(0, width, 2) * (-math.log(1e4) / width))
        self.register_buffer("positions", torch.cat([angles.sin(), angles.cos()], dim=1))
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 2, 32, dropout=0.1, batch_first=True, norm_first=True) for _ in range(2)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, VOCABULARY, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, words):
        states = self.embedding(words) + self.positions[: words.shape[1]]
        mask = nn.Transformer.generate_square_subsequent_mask(words.shape[1], device=words.device)
        for layer in self.layers:
            states = layer(states, src_mask=mask, is_causal=True)
        return self.head(self.norm(states))


def tied_language_model():
    return TiedTransformer(), token_loss, next_words()


class Embed(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, width)

    def forward(self, words):
        return self.table(words)


class Head(nn.Module):
    def __init__(self, table):
        super().__init__()
        self.weight = table.weight

    def forward(self, states):
        return F.linear(states, self.weight)


def tied_sequential():
    embed = Embed()
    layers = [nn.Sequential(nn.Linear(16, 16), nn.GELU()) for _ in range(2)]
    return nn.Sequential(embed, *layers, Head(embed.table)), token_loss, next_words()


class Translator(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 16, padding_idx=0)
        self.transformer = nn.Transformer(16, 2, 1, 1, 32, dropout=0.0, batch_first=True)
        self.head = nn.Linear(16, VOCABULARY)

    def forward(self, source, target):
        mask = self.transformer.generate_square_subsequent_mask(target.shape[1], device=target.device)
        states = self.transformer(
            self.embedding(source),
            self.embedding(target),
            tgt_mask=mask,
            src_key_padding_mask=source == 0,
            tgt_is_causal=True,
        )
        return self.head(states)


class Translations(Dataset):
    def __init__(self):
        self.source, _ = tokens()
        self.target, _ = tokens(2)

    def __len__(self):
        return COUNT

    def __getitem__(self, index):
        target = self.target[index]
        return (self.source[index], target.roll(1)), torch.where(target == 0, -100, target)


def seq2seq():
    return Translator(), token_loss, Translations()


class LoraLinear(nn.Module):
    """A frozen layer beside two small ones that are trained, as peft writes it."""

    def __init__(self, base, rank=4, alpha=8):
        super().__init__()
        self.base_layer = base
        for each in base.parameters():
            each.requires_grad = False
        self.lora_dropout = nn.ModuleDict({"default": nn.Identity()})
        self.lora_A = nn.ModuleDict({"default": nn.Linear(base.in_features, rank, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(rank, base.out_features, bias=False)})
        nn.init.normal_(self.lora_B["default"].weight, std=0.02)
        self.scaling = {"default": alpha / rank}

    def forward(self, x):
        result = self.base_layer(x)
        adapter = "default"
        x = x.to(self.lora_A[adapter].weight.dtype)
        lora = self.lora_B[adapter](self.lora_A[adapter](self.lora_dropout[adapter](x))) * self.scaling[adapter]
        return result + lora.to(result.dtype)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x):
        return x + self.down(F.gelu(self.up(self.norm(x))))


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 16)
        self.layers = nn.ModuleList(Block() for _ in range(2))
        self.score = nn.Linear(16, 4)

    def forward(self, words):
        states = self.embed(words)
        for layer in self.layers:
            states = layer(states)
        return self.score(states.mean(1))


def adapted(model):
    for each in model.parameters():
        each.requires_grad = False
    for layer in model.layers:
        layer.up, layer.down = LoraLinear(layer.up), LoraLinear(layer.down)
    return model


def sentences():
    words, _ = tokens()
    return TensorDataset(words, words.sum(1) % 4)


def lora():
    return adapted(Classifier()), nn.CrossEntropyLoss(), sentences()


def lora_on_bf16():
    """Adapters in fp32 on a base in bf16, which is how large models are tuned."""
    model = adapted(Classifier())
    for name, each in model.named_parameters():
        if "lora" not in name:
            each.data = each.data.bfloat16()
    return model, nn.CrossEntropyLoss(), sentences()


class SparseExperts(nn.Module):
    """Each token goes to its best expert; an expert without tokens does not run."""

    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(16, 4, bias=False)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16)) for _ in range(4))

    def forward(self, states):
        flat = states.reshape(-1, states.shape[-1])
        weights, chosen = self.gate(flat).softmax(-1).max(-1)
        result = torch.zeros_like(flat)
        for index, expert in enumerate(self.experts):
            where = torch.where(chosen == index)[0]
            if where.numel() == 0:
                continue
            result = result.index_add(0, where, expert(flat[where]) * weights[where, None])
        return states + result.view_as(states)


def mixture_of_experts():
    layers = [nn.Embedding(VOCABULARY, 16), SparseExperts(), SparseExperts(), nn.Linear(16, VOCABULARY)]
    return nn.Sequential(*layers), token_loss, next_words()


class BareExperts(nn.Module):
    """Experts that are the model's own list, and a spare head that nothing uses."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, 16)
        self.gate = nn.Linear(16, 4)
        self.experts = nn.ModuleList(nn.Linear(16, 16) for _ in range(4))
        self.score = nn.Linear(16, 4)
        self.auxiliary = nn.Linear(16, 4)

    def forward(self, words):
        states = self.embed(words).mean(1)
        weight, chosen = self.gate(states).softmax(-1).max(-1)
        result = states.clone()
        for index, expert in enumerate(self.experts):
            rows = (chosen == index).nonzero().flatten()
            if len(rows):
                result = result.index_add(0, rows, expert(states[rows]) * weight[rows, None])
        return self.score(result)


def bare_experts():
    return BareExperts(), nn.CrossEntropyLoss(), sentences()


def planned_transformer():
    """The tied transformer, whose perceptrons tensor parallelism divides."""
    return Workload(model=TiedTransformer(), loss=token_loss, dataset=next_words(), tensor_plan="transformer")
