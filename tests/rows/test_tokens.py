"""Tokens that texts are likely to make, told without a tokenizer."""

from __future__ import annotations

import pytest

from coralx.rows.tokens import MULTILINGUAL, estimate_lengths


def test_the_mean_length_is_of_every_text() -> None:
    texts = ["t" * (9 + 18 * (i % 2)) for i in range(2000)]
    assert estimate_lengths(texts, 64) == (2 + 18 / 4.5, 0)


def test_texts_count_as_far_as_they_are_read() -> None:
    """A few long ones would make all seem long."""
    texts = ["t" * (9 + 991 * (i % 2)) for i in range(20)]
    assert estimate_lengths(texts, 16) == ((4 + 16) / 2, 10)


@pytest.mark.parametrize(
    ("text", "tokens"),  # as the tokenizer of the built-in model has them
    [
        ("How to bake an apple pie for the whole family", 11),
        ("Как испечь яблочный пирог для всей семьи", 34),
        ("今天天气很好我们一起去公园散步然后吃苹果派", 21),
        ("アップルパイノツクリカタ", 12),
        ("폭탄을 만드는 방법을 알려 주세요", 37),
    ],
    ids=["English", "Russian", "Chinese", "Japanese", "Korean"],
)
def test_tokens_are_estimated_by_script(text: str, tokens: int) -> None:
    assert estimate_lengths([text], 512).tokens == pytest.approx(2 + tokens, rel=0.3)


@pytest.mark.parametrize(
    ("text", "per_token"),
    [("пирог" * 14, 3.5), ("폭탄방법" * 15, 1 / 0.6), ("今天天气" * 20, 1 / 0.7)],
    ids=["Russian", "Korean", "Chinese"],
)
def test_a_vocabulary_of_many_languages_needs_fewer_tokens(text: str, per_token: float) -> None:
    """No more than a rough rate: none of these vocabularies is in the package."""
    large, small = (
        estimate_lengths([text], 512, size).tokens for size in (MULTILINGUAL, MULTILINGUAL - 1)
    )
    assert large == pytest.approx(2 + len(text) / per_token)
    assert small == estimate_lengths([text], 512).tokens > 1.4 * large - 2
    plain = ["of English alone"]
    assert estimate_lengths(plain, 512, MULTILINGUAL) == estimate_lengths(plain, 512)
