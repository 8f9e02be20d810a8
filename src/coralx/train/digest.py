"""A checkpoint's fingerprint: equal weights give equal ones, on every machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

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
