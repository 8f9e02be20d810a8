"""Where benchmark results go, and what they say of the machine."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

FOLDER = Path(__file__).parent / "results"
PACKAGES = ("coralx", "torch", "transformers", "peft", "numpy")


def describe_machine() -> dict[str, Any]:
    """Processor, cores, GPU and versions: what a figure depends on."""
    known = {}
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8").split("\n\n")[0].splitlines()
        known = {key.strip(): value.strip() for key, _, value in (x.partition(":") for x in lines)}
    model = known.get("model name", "")
    if "cpu family" in known:  # one name is given to processors that differ by a factor of two
        model += f" (family {known['cpu family']}, model {known['model']})"
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    machine = {
        "processor": model or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": versions,
    }
    gpu = {"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}
    return machine | gpu


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest."""
    return {
        "median": float(np.median(values)),
        "low": float(np.min(values)),
        "high": float(np.max(values)),
    }


def slope(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """b of the least-squares fit cost = a x size^b: 0 for what does not grow, 1 for what grows in
    proportion."""
    return float(np.polyfit(np.log(sizes), np.log(costs), 1)[0])


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Lines of a Markdown table."""
    lines = [headings, ["---"] * len(headings), *rows]
    return [f"| {' | '.join(map(str, line))} |" for line in lines]


def between(spread: Mapping[str, float], digits: int) -> str:
    """A median with its lowest and highest: 1.5 (1.2 to 1.9)."""
    median, low, high = (f"{spread[name]:.{digits}f}" for name in ("median", "low", "high"))
    return f"{median} ({low} to {high})"


def write_results(
    name: str, document: dict[str, Any], lines: Sequence[str], keep: bool = True
) -> None:
    """Print the table and, unless it is of a quick try, write results/<name>.json and .md."""
    machine = document["machine"]
    parts = [machine["processor"], f"{machine['cores']} cores", machine.get("gpu")]
    head = [f"# {name}", "", ", ".join(part for part in parts if part), ""]
    text = "\n".join([*head, *lines]) + "\n"
    print(text)
    if not keep:
        print("a quick try: nothing is written")
        return
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{name}.json").write_text(as_json(document), encoding="utf-8")
    (FOLDER / f"{name}.md").write_text(text, encoding="utf-8")


def as_json(document: Mapping[str, Any]) -> str:
    """Indented, but lists of plain values on one line."""
    text = json.dumps(document, indent=1)
    flat = re.sub(r"\[\s+([^\[\]{}]+?)\s+\]", lambda found: f"[{' '.join(found[1].split())}]", text)
    return flat + "\n"
