"""Word tokenisers for generated prompts, digit by digit or in pairs of digits."""

from __future__ import annotations

import re
from collections.abc import Iterable

from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast


def build_word_tokenizer(words: Iterable[str], digits: int = 1) -> PreTrainedTokenizerFast:
    """Each word, each punctuation mark and each run of `digits` digits is one token."""
    numbers = [
        f"{number:0{width}d}" for width in range(1, digits + 1) for number in range(10**width)
    ]
    vocabulary = {
        word: index for index, word in enumerate(["[unk]", ".", ",", *numbers, *sorted(set(words))])
    }
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[unk]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Whitespace(),
            pre_tokenizers.Split(Regex(rf"\d{{1,{digits}}}"), behavior="isolated"),
        ]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[unk]")


def find_words(texts: Iterable[str]) -> list[str]:
    """The words of texts with `{fields}`."""
    return re.findall(r"[A-Za-z]+", re.sub(r"\{.*?\}", " ", " ".join(texts)))
