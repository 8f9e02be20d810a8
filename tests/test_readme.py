"""The README quotes what a benchmark wrote, and names files and settings that exist."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = ROOT / "benchmarks" / "results"


def test_the_speed_up_is_the_benchmarks() -> None:
    document = json.loads((RESULTS / "naive_vs_coralx.json").read_text(encoding="utf-8"))
    row = document["runs"][0]
    quoted = [
        f"{document['speedup_wall_clock']['median']:.1f}x",
        f"{document['speedup_steps']['median']:.1f}x",
        f"{row['naive']['seconds']:.0f} s",
        f"{row['coralx']['seconds']:.0f} s",
        f"{row['naive']['test_auroc_best']:.3f}",
        f"{row['coralx']['test_auroc_best']:.3f}",
        f"{100 * document['hypervolume_ratio']['median']:.0f}%",
    ]
    assert [figure for figure in quoted if figure not in TEXT] == []


@pytest.mark.parametrize("target", re.findall(r"\]\(([^)#]+)\)", TEXT))
def test_links_lead_somewhere(target: str) -> None:
    assert (ROOT / target).exists()


@pytest.mark.parametrize("path", re.findall(r"\b(configs/\w+\.yaml|examples/\w+\.py)", TEXT))
def test_files_named_exist(path: str) -> None:
    assert (ROOT / path).is_file()
