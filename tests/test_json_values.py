"""What JSON has no word for becomes null."""

from __future__ import annotations

import math

from coralx.json_values import plain


def test_plain() -> None:
    value = {"a": (1, math.inf), "b": {"c": -math.inf}, "d": True, "e": None}
    assert plain(value) == {"a": [1, None], "b": {"c": None}, "d": True, "e": None}
