"""Hugging Face's models, by configuration."""

from dataclasses import replace

import torch
from torch import nn
from torch.utils.data import Dataset

from hpc_accel.workloads.workload import Metric, Workload
from tests.zoo.models.text import LENGTH, VOCABULARY, next_words, sentences, token_loss


class Logits(nn.Module):
    """What of a Hugging Face model's outputs the loss wants."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, words):
        return self.model(input_ids=words, attention_mask=(words != 0).long()).logits


def causal():
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model("gpt2", n_layer=2, n_embd=16, n_head=2, vocab_size=VOCABULARY, n_positions=LENGTH)
    return Logits(AutoModelForCausalLM.from_config(config)), token_loss, next_words()


def masked():
    from transformers import BertConfig, BertForMaskedLM

    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    return Logits(BertForMaskedLM(config)), token_loss, next_words()


def classification():
    from transformers import DistilBertConfig, DistilBertForSequenceClassification

    config = DistilBertConfig(vocab_size=VOCABULARY, dim=16, n_layers=2, n_heads=2, hidden_dim=32, num_labels=4)
    return Logits(DistilBertForSequenceClassification(config)), nn.CrossEntropyLoss(), sentences()


def experts_of_mixtral():
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=4,
        num_experts_per_tok=1,
        max_position_embeddings=LENGTH,
    )
    return Logits(MixtralForCausalLM(config)), token_loss, next_words()


def llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=LENGTH,
    )
    model = Logits(LlamaForCausalLM(config))
    return Workload(model=model, loss=token_loss, dataset=next_words(), tensor_plan="transformer")


class Labelled(Dataset):
    """Dicts as a Trainer takes them: words with the words or the class that are to be told, or pictures."""

    def __init__(self, *, classes=False, pictures=False, count=48):
        generator = torch.Generator().manual_seed(1)
        self.words = torch.randint(1, VOCABULARY, (count, LENGTH), generator=generator)
        self.labels = torch.arange(count) % 4 if classes or pictures else self.words
        self.pictures = torch.randn(count, 3, 16, 16, generator=generator) if pictures else None

    def __len__(self):
        return len(self.words)

    def __getitem__(self, index):
        if self.pictures is not None:
            return {"pixel_values": self.pictures[index], "labels": self.labels[index]}
        words = self.words[index]
        return {"input_ids": words, "attention_mask": torch.ones_like(words), "labels": self.labels[index]}


SMALL = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


def own_loss_of_llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(vocab_size=VOCABULARY, num_key_value_heads=2, max_position_embeddings=LENGTH, **SMALL)
    return Workload(model=LlamaForCausalLM(config), loss=None, dataset=Labelled())


def own_loss_of_bert():
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(vocab_size=VOCABULARY, num_labels=4, **SMALL)
    return Workload(model=BertForSequenceClassification(config), loss=None, dataset=Labelled(classes=True))


def mean_score(outputs, _):
    return float(outputs["logits"].square().mean())


def scored_bert():
    """With a metric of outputs that hold the loss too; six samples fill no batch. Nothing is dropped, as layouts draw
    other numbers in timed steps, and their weights would differ.
    """
    held_out = Metric(name="score", compute=mean_score, higher_is_better=True, dataset=Labelled(classes=True, count=6))
    built = own_loss_of_bert()
    for module in built.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return replace(built, metric=held_out)


def own_loss_of_vit():
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(image_size=16, patch_size=8, num_labels=4, **SMALL)
    return Workload(model=ViTForImageClassification(config), loss=None, dataset=Labelled(pictures=True))
