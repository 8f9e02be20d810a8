"""Values as JSON can hold them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def plain(value: Any) -> Any:
    """The value with tuples as lists and what JSON has no word for (NaN, infinity) as None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    return value


def to_json(value: Any, encoding: str | None, indent: int | None = None) -> str:
    """The value as JSON in plain characters, if the encoding has them all: of half a character, or
    at a terminal that has fewer, their numbers."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, default=str, indent=indent)
    try:
        text.encode(encoding or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(value, allow_nan=False, default=str, indent=indent)
    return text
