"""A pretrained model's weights and tokenizer, read through transformers, whole or not at all."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging as transformers_logging

from coralx.errors import ModelError
from coralx.supported import check_type
from coralx.train.families import FAMILIES

_PACKAGES = "sentencepiece protobuf"  # which transformers reads a tokenizer's *.model file by
_READERS = (*_PACKAGES.split(), "tiktoken")  # tried last, so what it names where neither is there
# Weights of a DeBERTa that transformers would leave out without a word where config.json does.
_OF_ATTENTION = ("encoder.conv.", "pos_key_proj.", "pos_query_proj.")


def load_tokenizer(path: str, trust_remote_code: bool) -> Any:
    """The model's tokenizer.

    Raises:
        ModelError: there is none; transformers makes an empty one where its files are missing.
    """
    advice = "save it there with tokenizer.save_pretrained"
    try:
        with _silence():
            tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
    except Exception as error:  # transformers raises many kinds; all mean: unreadable
        tokenizer = None
        if any(name in str(error).lower() for name in _READERS):
            advice = f"its own file is read by packages that are not here: pip install {_PACKAGES}"
    if tokenizer is None or len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise ModelError(
            f"base_model: {path} has no tokenizer that transformers can read; {advice}"
        )
    return tokenizer


def load_classifier(
    path: str, trust_remote_code: bool = False, dtype: torch.dtype = torch.float32
) -> nn.Module:
    """The uncut base model with one logit, loaded without progress bars and reports. A head for
    several labels is left out: one for one logit is drawn. Another layer before it stays as it was
    trained; where the base has none it is the same in every process.

    Args:
        dtype: of the weights in memory, in whatever format they are stored.

    Raises:
        ModelError: no supported model, or its weights are damaged, of other shapes or not all
            there. Transformers would draw missing ones anew, differently each time.
    """
    try:
        kind = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code).model_type
        check_type(path, kind)
        with _silence():
            model, report = AutoModelForSequenceClassification.from_pretrained(
                path,
                num_labels=1,
                dtype=dtype,
                attn_implementation=FAMILIES[kind].attention,
                ignore_mismatched_sizes=True,  # of a head for other labels; others are looked at
                use_safetensors=True,
                trust_remote_code=trust_remote_code,
                output_loading_info=True,
            )
    except ModelError:
        raise
    except Exception as error:  # transformers and safetensors raise many kinds
        raise ModelError(_explain_loading(path, error)) from None
    family = FAMILIES[kind]
    _check_report(path, report, tuple(f"{name}." for name in family.saved))
    dense = family.head.get("dense")
    if f"{dense}.weight" in report["missing_keys"]:
        _draw(model.get_submodule(dense), model.config.initializer_range)
    return model  # type: ignore[no-any-return]


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Transformers without reports and progress bars, which the calling program keeps."""
    level, bars = (
        transformers_logging.get_verbosity(),
        transformers_logging.is_progress_bar_enabled(),
    )
    transformers_logging.set_verbosity(logging.CRITICAL)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


@torch.no_grad()
def _draw(layer: nn.Linear, spread: float) -> None:
    """Weights as transformers draws them, always the same."""
    weight = torch.empty(layer.weight.shape)
    layer.weight.copy_(weight.normal_(0, spread, generator=torch.Generator().manual_seed(0)))
    layer.bias.zero_()


def _check_report(path: str, report: Mapping[str, Any], head: tuple[str, ...]) -> None:
    """Pass if all weights were there, those of the head aside, whose names begin so, and were
    taken."""
    if missing := sorted(key for key in report["missing_keys"] if not key.startswith(head)):
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        advice = "save the whole model there with save_pretrained"
        if all(key.startswith("head.") for key in missing):  # of a ModernBERT saved by AutoModel
            advice = (
                "load it with AutoModelForSequenceClassification and save that: what is drawn for "
                "its head then stays the same"
            )
        raise ModelError(f"base_model: {path} lacks the weights {missing[0]}{more}; {advice}")
    left = [key for key in report["unexpected_keys"] if any(part in key for part in _OF_ATTENTION)]
    if left:
        raise ModelError(
            f"base_model: {path} has {min(left)}, of which its config.json says nothing; take the "
            "config.json that the model came with"
        )
    other = sorted(found for found in report["mismatched_keys"] if not found[0].startswith(head))
    if other:
        name, stored, wanted = other[0]
        raise ModelError(
            f"base_model: {path} has {name} of shape {list(stored)} where its config.json has "
            f"{list(wanted)}; save model and config together with save_pretrained"
        )


def _explain_loading(path: str, error: Exception) -> str:
    """Transformers' own words, and what to do where they leave that open."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    cause = lines[0] if lines else type(error).__name__
    if cause.endswith(":"):  # of one setting; what is wrong with it comes next
        cause = " ".join(lines[:2])
    if isinstance(error, KeyError):
        cause = f"unknown {cause}"
    if "trust_remote_code" in str(error):
        advice = (
            "CoralX runs no code of a model; if you trust this one, set trust_remote_code: true or "
            "give --trust-remote-code to a command that has it"
        )
    elif "safetensors" in str(error) or isinstance(error, SafetensorError):
        advice = (
            "weights must be whole model.safetensors files (never pickle); load the model with "
            "AutoModelForSequenceClassification.from_pretrained where you trust it, "
            "save_pretrained that and its tokenizer to a folder, and name the folder"
        )
    else:
        advice = "name a folder that save_pretrained of transformers wrote"
    return f"base_model: {path} cannot be loaded by transformers: {cause}; {advice}"
