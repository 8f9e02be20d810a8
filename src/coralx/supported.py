"""Which base models are supported, by the settings of their config.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from coralx.errors import ModelError

DECODERS = ("llama", "mistral", "qwen2", "qwen3", "gemma3_text")
ROBERTAS = ("roberta", "xlm-roberta", "camembert")  # count positions from behind that of padding
SUPPORTED = ("bert", "distilbert", *ROBERTAS, "deberta-v2", "modernbert", *DECODERS)  # base models


def check_type(name: str, kind: object) -> None:
    """Pass if a model's type is a supported one.

    Raises:
        ModelError: it is not.
    """
    if kind not in SUPPORTED:
        raise ModelError(
            f"base_model: {name} is of type {kind!r}; supported are {', '.join(SUPPORTED)}"
        )


def check_direction(name: str, kind: str, is_decoder: object) -> None:
    """Pass if a model's tokens see as they are made to see here: in an encoder all others.

    Raises:
        ModelError: it is an encoder that transformers runs as a decoder.
    """
    if kind not in DECODERS and is_decoder:
        raise ModelError(
            f"base_model: {name} is of type {kind!r} with is_decoder: true, whose tokens see those "
            "before them alone, which is not supported; save it with is_decoder: false"
        )


def check_positions(name: str, places: int, max_tokens: int) -> None:
    """Pass if a model of so many places has them for texts of so many tokens.

    Raises:
        ModelError: it has fewer.
    """
    if max_tokens > places:
        raise ModelError(
            f"data.max_tokens: {name} has {places} positions, got {max_tokens}; set {places} or "
            "fewer"
        )


def find_window(settings: Mapping[str, Any]) -> int | None:
    """How many tokens, its own included, a token of some block sees at most; None if all before
    it. Settings that the model's own code does not look at say nothing."""
    kind, layers = settings.get("model_type"), settings.get("layer_types")
    slides = kind == "mistral" or (
        kind in ("qwen2", "qwen3", "gemma3_text")
        and isinstance(layers, list)
        and "sliding_attention" in layers
    )
    window = settings.get("sliding_window") if slides else None
    return window if isinstance(window, int) else None


def check_window(name: str, window: int | None, max_tokens: int) -> None:
    """Pass if texts of so many tokens lie within a model's sliding window, as `find_window` found
    it: every token here sees all before it.

    Raises:
        ModelError: they do not.
    """
    if window is not None and max_tokens > window:
        raise ModelError(
            f"data.max_tokens: attention of {name} slides over {window} tokens, and longer texts "
            f"are not supported, got {max_tokens}; set {window} or fewer"
        )


def count_positions(kind: str, embedded: int, padding: int) -> int:
    """The tokens of the longest text that a model has places for; `padding` is that token's id."""
    return embedded - padding - 1 if kind in ROBERTAS else embedded


def check_attention(name: str, settings: Mapping[str, Any]) -> None:
    """Pass if attention of a deberta-v2 or a gemma3_text is what it is made to be here.

    Raises:
        ModelError: it is of another build.
    """
    kind = settings.get("model_type")
    if kind == "deberta-v2":
        told = _find_other_deberta(settings)
    elif kind == "gemma3_text":
        told = _find_other_gemma(settings)
    else:
        return
    if told:
        raise ModelError(f"base_model: {name} has {told}")


def _find_other_deberta(settings: Mapping[str, Any]) -> str | None:
    """What a DeBERTa has that is not supported."""
    example = "such as microsoft/deberta-v3-base"
    if size := settings.get("conv_kernel_size"):
        return (
            f"conv_kernel_size: {size}, a convolution beside attention (as v2 xlarge has), which "
            f"is not supported; name a model without it, {example}"
        )
    for switch in ("relative_attention", "share_att_key"):
        if not settings.get(switch):
            return f"no {switch}: true, which is not supported; name a model with it, {example}"
    return None


def _find_other_gemma(settings: Mapping[str, Any]) -> str | None:
    """What a Gemma has that is not supported."""
    if both := settings.get("use_bidirectional_attention"):
        return (
            f"use_bidirectional_attention: {json.dumps(both)}, with which tokens see those after "
            "them, which is not supported; name a model without it, such as google/gemma-3-270m"
        )
    if (cap := settings.get("attn_logit_softcapping")) is not None:
        return (
            f"attn_logit_softcapping: {cap}, which is not supported; name a model that has null "
            "there"
        )
    return None
