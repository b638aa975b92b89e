"""Tiny checkpoints in Detoxify's format, random but working."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    AlbertConfig,
    AlbertForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
    XLMRobertaConfig,
    XLMRobertaForSequenceClassification,
)

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz", "<s>", "</s>"]
_SIZES: dict[str, Any] = {
    "vocab_size": len(WORDS),
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "pad_token_id": 0,
}
BUILDERS: dict[str, Callable[[int], Any]] = {
    "BertTokenizer": lambda labels: BertForSequenceClassification(
        BertConfig(**_SIZES, max_position_embeddings=32, num_labels=labels)
    ),
    "AlbertTokenizer": lambda labels: AlbertForSequenceClassification(
        AlbertConfig(**_SIZES, embedding_size=8, max_position_embeddings=32, num_labels=labels)
    ),
    "RobertaTokenizer": lambda labels: RobertaForSequenceClassification(
        RobertaConfig(**_SIZES, max_position_embeddings=33, num_labels=labels)
    ),
    "XLMRobertaTokenizer": lambda labels: XLMRobertaForSequenceClassification(
        XLMRobertaConfig(**_SIZES, max_position_embeddings=33, num_labels=labels)
    ),
}
"""Tokeniser class → a model of 32 positions with so many labels."""


def write_ckpt(
    path: Path, tokenizer_class: str = "BertTokenizer", classes: tuple[str, ...] = ("toxic",)
) -> Any:
    """Write a `.ckpt` as Detoxify publishes it, with an output to spare, and return its model."""
    torch.manual_seed(0)
    model = BUILDERS[tokenizer_class](len(classes) + 1)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    arguments = {
        "num_classes": len(classes) + 1,
        "model_type": "some/hub-name",
        "model_name": type(model).__name__,
        "tokenizer_name": tokenizer_class,
    }
    config = {
        "arch": {"type": "X", "args": arguments},
        "dataset": {"args": {"classes": list(classes)}},
    }
    state = dict(model.state_dict())
    prefix = model.base_model_prefix
    positions = model.config.max_position_embeddings
    state[f"{prefix}.embeddings.position_ids"] = torch.arange(positions)[None]  # as in 2020
    torch.save({"config": config, "state_dict": state}, path)
    return model.eval()


def write_base(folder: Path, model: Any, labels: int = 2) -> Path:
    """Write what the hub holds of the base model: a configuration with `labels`, a tokeniser."""
    folder.mkdir(exist_ok=True)
    tokenizer = Tokenizer(_build_vocabulary(model.config.model_type))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )
    fast.save_pretrained(folder)
    shape = model.config.to_dict()
    del shape["id2label"], shape["label2id"]
    type(model.config)(**shape, num_labels=labels).save_pretrained(folder)
    return folder


def _build_vocabulary(model_type: str) -> Any:
    """Whole words, in the kind of vocabulary that the model's tokeniser is."""
    if model_type in {"albert", "xlm-roberta"}:
        return models.Unigram([(word, -1.0) for word in WORDS], unk_id=1)
    return models.WordLevel({word: index for index, word in enumerate(WORDS)}, "[UNK]")
