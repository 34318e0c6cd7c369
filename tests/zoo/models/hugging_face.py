"""Hugging Face's models, by configuration."""

from torch import nn

from hpc_accel.workloads.workload import Workload
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
