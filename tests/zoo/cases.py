"""The models of the zoo, and what each is tried in."""

from typing import Any

from tests.zoo.models import batches, hugging_face, tables, text, vision

COLUMNS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "serial": ({}, {}),
    "dp, accumulation": ({"dp": 2, "accumulation_steps": 2}, {}),
    "ZeRO-1": ({"dp": 2, "shard": "optimizer"}, {}),
    "FSDP": ({"dp": 2, "shard": "full"}, {}),
    "pp": ({"pp": 2, "accumulation_steps": 2}, {}),
    "tp": ({"tp": 2}, {}),
    "dp x pp": ({"dp": 2, "pp": 2, "accumulation_steps": 2}, {}),
    "recompute": ({}, {"recompute": "full"}),
    "bf16": ({"dp": 2}, {"precision": "bf16"}),
}
"""Layout and recipe of each column of the table."""
MODELS = {
    "several heads, a scalar parameter": tables.several_heads,
    "tabular, embeddings": tables.tabular,
    "class weights": tables.class_weights,
    "label smoothing": tables.label_smoothing,
    "float64": tables.float64,
    "complex parameters (FFT)": tables.complex_fft,
    "strided parameters": tables.strided,
    "sparse gradients": tables.sparse_embedding,
    "graph network, padded": tables.graph_network,
    "waves, weight norm": tables.waves,
    "variational autoencoder": tables.vae,
    "diffusion step": tables.diffusion,
    "mixture density": tables.mixture_density,
    "counters in buffers": tables.counting_layer,
    "ResNet, BatchNorm": vision.resnet,
    "U-Net": vision.unet,
    "siamese": vision.siamese,
    "GAN discriminator, spectral norm": vision.discriminator,
    "first layer in place": vision.inplace_first,
    "detector": vision.detector,
    "contrastive": vision.contrastive,
    "contrastive, outputs of all replicas": vision.gathered_contrastive,
    "contrastive, gathered by its own loss": vision.contrastive_gathered_by_hand,
    "GRU on packed sequences": text.packed_gru,
    "RNN language model": text.rnn_language_model,
    "tied transformer, ignore_index": text.tied_language_model,
    "tied Sequential": text.tied_sequential,
    "sequence to sequence, masks": text.seq2seq,
    "LoRA": text.lora,
    "LoRA on bf16": text.lora_on_bf16,
    "mixture of experts": text.mixture_of_experts,
    "experts as blocks, an idle head": text.bare_experts,
    "dict batches, the model's own loss": batches.hugging_face,
    "texts of different lengths, collate": batches.collated_text,
    "detector, targets and outputs as dicts": batches.detector_of_dicts,
    "tuple of outputs": batches.tuple_of_outputs,
    "stream without an end": batches.stream,
    "transformer, a plan for tensor parallelism": text.planned_transformer,
    "Hugging Face causal": hugging_face.causal,
    "Hugging Face Llama, a plan for tensor parallelism": hugging_face.llama,
    "Hugging Face masked": hugging_face.masked,
    "Hugging Face classification": hugging_face.classification,
    "Hugging Face mixture of experts": hugging_face.experts_of_mixtral,
    "Hugging Face Llama, its own loss": hugging_face.own_loss_of_llama,
    "Hugging Face BERT, its own loss": hugging_face.own_loss_of_bert,
    "Hugging Face ViT, its own loss": hugging_face.own_loss_of_vit,
}
ADAMW = {"name": "adamw", "learning_rate": 1e-3}
WARM_UP = {"name": "cosine", "warmup_steps": 2, "total_steps": 8}
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "sequence to sequence, masks": {**ADAMW, "clip_grad_norm": 1.0, "schedule": WARM_UP},
    "transformer, a plan for tensor parallelism": {**ADAMW, "no_decay": ["norm", "bias"]},
    "U-Net": {"name": "rmsprop", "learning_rate": 1e-3},
}
"""All others train with plain SGD."""
FAST = (
    "complex parameters (FFT)",
    "first layer in place",
    "experts as blocks, an idle head",
    "tied transformer, ignore_index",
    "texts of different lengths, collate",
)
"""Trained with all other tests; together they have most of what can go wrong."""
COMPARES = "the loss is one of the micro-batch: it compares"
TOLD = {"detector": COMPARES, "contrastive": COMPARES}
"""What parity says, and is right to say, of models whose loss is of all samples of a batch together."""
