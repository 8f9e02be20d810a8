"""Digests: of weights, of a base model's files, of whatever a name stands for. Equal content gives
equal ones, on every machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor


def fingerprint(tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> str:
    """SHA-256 over names, types, shapes and bytes of the tensors, in order of name, and `facts`.

    Unlike a file's checksum it does not depend on how a format lays tensors out.
    """
    seen = hashlib.sha256(json.dumps(dict(facts), sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        seen.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        seen.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return seen.hexdigest()


def digest(parts: Sequence[str | bytes]) -> str:
    """A key: SHA-256 over the parts, each with its length."""
    seen = hashlib.sha256()
    for part in parts:
        data = part.encode() if isinstance(part, str) else part
        seen.update(f"{len(data)} ".encode() + data)
    return seen.hexdigest()


def digest_model(folder: str) -> str:
    """Of a model's configuration and weights."""
    kinds = (".json", ".safetensors")
    files = sorted(p for p in Path(folder).iterdir() if p.suffix in kinds and p.is_file())
    parts: list[str | bytes] = []
    for path in files:
        with path.open("rb") as file:
            parts += [path.name, hashlib.file_digest(file, "sha256").digest()]
    return digest(parts)
