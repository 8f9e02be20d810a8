"""What a run's texts are to the model that reads them: some are cut, some hold nothing that it
knows, and some that are measured are training rows to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from coralx.train.prefix import EncodedRows


def compare_reading(
    train: EncodedRows, measured: Mapping[str, EncodedRows], pictured: bool
) -> dict[str, Any]:
    """By split, `rows` and those whose texts are `cut` or `unknown`; and of the measured splits
    those `trained_on`: rows of the same tokens as a training row and, if
    pictures are looked at, the same picture."""
    splits = {"train": train, **measured}
    keys = {name: own.keys(pictured) for name, own in measured.items()}
    wanted = {key for own in keys.values() for key in own}  # fewer than all that are trained on
    met = {key for key in train.keys(pictured) if key in wanted}
    return {
        "rows": {name: len(own) for name, own in splits.items()},
        "cut": {name: own.cut for name, own in splits.items()},
        "unknown": {name: own.unknown for name, own in splits.items()},
        "trained_on": {name: sum(key in met for key in own) for name, own in keys.items()},
    }
