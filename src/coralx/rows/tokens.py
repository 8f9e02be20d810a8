"""How many tokens texts are likely to make, without a tokenizer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

CHARACTERS_PER_TOKEN = 4.5  # of English in word pieces
# A vocabulary of English words has other letters alone or in pairs, a token for each sign of
# Chinese and Japanese and one for each letter of a Korean syllable; one of many languages needs
# fewer.
OTHERS_PER_TOKEN = 1.5
TOKENS_PER_SIGN = {
    re.compile(r"[\u3000-\u30ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+"): 1.0,
    re.compile(r"[\uac00-\ud7a3]+"): 2.5,
}
SPECIAL_TOKENS = 2


class Lengths(NamedTuple):
    """Of texts: their mean tokens, as far as they are read, and how many are not read whole."""

    tokens: float
    cut: int


def estimate_lengths(texts: Sequence[str], max_tokens: int) -> Lengths:
    sizes = [_measure_text(text) / CHARACTERS_PER_TOKEN + SPECIAL_TOKENS for text in texts]
    read = sum(min(size, max_tokens) for size in sizes)
    return Lengths(read / len(sizes), sum(size > max_tokens for size in sizes))


def _measure_text(text: str) -> float:
    """The characters of English that make about as many tokens."""
    if text.isascii():
        return len(text)
    ascii_ = len(text.encode("ascii", "ignore"))
    others, tokens = len(text) - ascii_, 0.0
    for script, each in TOKENS_PER_SIGN.items():
        signs = sum(map(len, script.findall(text)))
        others, tokens = others - signs, tokens + each * signs
    return ascii_ + CHARACTERS_PER_TOKEN * (tokens + others / OTHERS_PER_TOKEN)
