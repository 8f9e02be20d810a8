"""How many tokens texts are likely to make, without a tokenizer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

CHARACTERS_PER_TOKEN = 4.5  # of English in word pieces
MULTILINGUAL = 100_000  # tokens; a vocabulary as large, such as XLM-R's, is of many languages
SPECIAL_TOKENS = 2
CHINESE_OR_JAPANESE = re.compile(r"[\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+")
KOREAN = re.compile(r"[\uac00-\ud7a3]+")


class Scripts(NamedTuple):
    """How a vocabulary divides what is not ASCII: its tokens by sign of some scripts, and the
    letters of any other that make a token."""

    tokens_per_sign: Mapping[re.Pattern[str], float]
    others_per_token: float


# One of English words has other letters alone or in pairs, a token for each sign of Chinese and
# Japanese and one for each letter of a Korean syllable.
ENGLISH = Scripts({CHINESE_OR_JAPANESE: 1.0, KOREAN: 2.5}, 1.5)
# One of many languages has their words or parts of them. Rough: such vocabularies differ.
MANY = Scripts({CHINESE_OR_JAPANESE: 0.7, KOREAN: 0.6}, 3.5)


class Lengths(NamedTuple):
    """Of texts: their mean tokens, as far as they are read, and how many are not read whole."""

    tokens: float
    cut: int


def estimate_lengths(texts: Sequence[str], max_tokens: int, vocabulary: int = 0) -> Lengths:
    """Of texts under a vocabulary of so many tokens; where it is unknown, as if of English."""
    scripts = MANY if vocabulary >= MULTILINGUAL else ENGLISH
    sizes = [_measure_text(text, scripts) / CHARACTERS_PER_TOKEN + SPECIAL_TOKENS for text in texts]
    read = sum(min(size, max_tokens) for size in sizes)
    return Lengths(read / len(sizes), sum(size > max_tokens for size in sizes))


def _measure_text(text: str, scripts: Scripts) -> float:
    """The characters of English that make about as many tokens."""
    if text.isascii():
        return len(text)
    ascii_ = len(text.encode("ascii", "ignore"))
    others, tokens = len(text) - ascii_, 0.0
    for script, each in scripts.tokens_per_sign.items():
        signs = sum(map(len, script.findall(text)))
        others, tokens = others - signs, tokens + each * signs
    return ascii_ + CHARACTERS_PER_TOKEN * (tokens + others / scripts.others_per_token)
