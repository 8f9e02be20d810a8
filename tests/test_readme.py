"""The README quotes what a benchmark wrote, and names files and settings that exist."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = ROOT / "benchmarks" / "results"


def read(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def test_the_speed_up_is_the_benchmarks() -> None:
    document = read("naive_vs_coralx")
    faster = document["speedup_wall_clock"]
    quoted = [f"{faster[name]:.1f}x" for name in ("median", "low", "high")]
    quoted += [f"{document['speedup_steps']['median']:.1f}x"]
    quoted += [f"{document['speedup_over_mixed_naive']['median']:.1f}x"]
    quoted += [f"{line['seconds']:.0f} s" for line in document["ablation"]]
    for row in document["runs"]:
        quoted += [f"{row['naive']['seconds']:,.0f} s", f"{row['coralx']['seconds']:.0f} s"]
        quoted += [f"{row['coralx']['steps']:,}"]
    assert [figure for figure in quoted if figure not in TEXT] == []


def test_the_quality_is_the_benchmarks() -> None:
    document = read("naive_vs_coralx")
    ratio, difference = document["hypervolume_ratio"], document["auroc_difference"]
    scaled = document["hypervolume_ratio_calibrated"]
    shares = [figures[name] for figures in (ratio, scaled) for name in ("median", "low", "high")]
    quoted = [f"{100 * share:.0f}%" for share in shares]
    quoted += [f"{difference[name]:+.3f}" for name in ("median", "low", "high")]
    for row in document["runs"]:
        sides = row["quality"]
        full = sides.get("naive") or sides["packed"]
        quoted += [f"{side['auroc_best']:.3f}" for side in (sides["coralx"], full)]
    assert [figure for figure in quoted if figure not in TEXT] == []


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#]+)\)", TEXT))
def test_links_lead_somewhere(target: str) -> None:
    assert (ROOT / target).exists()


@pytest.mark.parametrize("path", re.findall(r"\b(configs/\w+\.yaml|examples/\w+\.py)", TEXT))
def test_files_named_exist(path: str) -> None:
    assert (ROOT / path).is_file()
