"""The levers of naive_vs_coralx one at a time: each line adds one to those before it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from printer import Printer

from coralx.compare.ways import run_coralx
from coralx.config import Config, load_config
from coralx.train.worker import Worker

Overrides = Mapping[str, Mapping[str, Any]]

# Rank growth belongs to the stages: without them every genome keeps its rank.
LEVERS: tuple[tuple[str, Overrides], ...] = (
    (
        "last block for the pooled token alone, buckets, one genome at a time",
        {
            "hyperband": {"enable_hyperband": False},
            "training": {
                "pack_size": 1,
                "prefix_cache": False,
                "patience": None,
                "frozen_products": "float32",
            },
        },
    ),
    ("packs of 8", {"training": {"pack_size": 8}}),
    ("frozen prefix", {"training": {"prefix_cache": True}}),
    ("stages", {"hyperband": {"enable_hyperband": True}}),
    ("leaving early", {"training": {"patience": 2}}),
    ("frozen products in bfloat16, if native", {"training": {"frozen_products": "auto"}}),
)


def measure_ablation(config: Config) -> list[dict[str, Any]]:
    """One generation of the configuration's seed for each line, cold each time."""
    settings: dict[str, dict[str, Any]] = {"evolution": {"generations": 1}}
    lines: list[dict[str, Any]] = []
    for lever, overrides in LEVERS:
        for section, values in overrides.items():
            settings[section] = {**settings.get(section, {}), **values}
        with tempfile.TemporaryDirectory() as folder:
            own = load_config(config, settings)
            worker = Worker(own, Path(folder) / "checkpoints", print)
            side = run_coralx(own, worker, Path(folder), Printer())
        before = lines[-1]["seconds"] if lines else side["seconds"]
        lines.append(
            {
                "lever": lever,
                "seconds": side["seconds"],
                "steps": side["steps"],
                "share": side["seconds"] / before,
                "auroc_best": side["best"],
            }
        )
        print(f"{lever}: {side['seconds']:.0f} s")
    return lines
