"""Where benchmark results go, and what they say of the machine."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parent / "results"
PACKAGES = ("coralx", "torch", "transformers", "peft", "numpy")


def describe_machine() -> dict[str, Any]:
    """Processor, cores and versions: what a figure depends on."""
    model = ""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
        model = next((line.split(":")[1].strip() for line in lines if "model name" in line), "")
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {
        "processor": model or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": versions,
    }


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest."""
    return {
        "median": float(np.median(values)),
        "low": float(np.min(values)),
        "high": float(np.max(values)),
    }


def write_results(name: str, document: dict[str, Any], lines: Sequence[str]) -> None:
    """Write results/<name>.json and .md and print the table."""
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    machine = document["machine"]
    head = [f"# {name}", "", f"{machine['processor']}, {machine['cores']} cores", ""]
    text = "\n".join([*head, *lines]) + "\n"
    (FOLDER / f"{name}.md").write_text(text, encoding="utf-8")
    print(text)
