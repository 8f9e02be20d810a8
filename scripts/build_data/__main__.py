"""Build every shipped file, or print the audit of the shipped files with ``--audit``."""

import argparse
import tempfile
from pathlib import Path
from random import Random

from attack_material import write_attack_templates
from audit import audit_files
from data_card import write_card
from harmful_requests import build_harmful_rows
from hazard_pictures import build_picture_rows
from row_table import Row, write_rows
from text_sources import read_truthfulqa

ASSETS = Path(__file__).resolve().parents[2] / "src" / "coralx" / "assets"
SEED = 20240229
HOLDOUT_ROWS = 300


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--audit", action="store_true", help="only print the audit figures")
    parser.add_argument("--out", type=Path, default=ASSETS, help="folder of the shipped files")
    parser.add_argument("--cache", type=Path, help="folder that keeps the downloaded archives")
    options = parser.parse_args()
    if options.audit:
        print(audit_files(options.out))
        return
    with tempfile.TemporaryDirectory() as folder:
        build(options.out, options.cache or Path(folder), SEED)
    card = options.out / "DATA_CARD.md"
    if card.exists():
        write_card(card, audit_files(options.out))


def build(out: Path, cache: Path, seed: int) -> None:
    """Write all files into ``out``; the same seed gives the same rows."""
    out.mkdir(parents=True, exist_ok=True)
    cache.mkdir(parents=True, exist_ok=True)
    texts = build_harmful_rows(cache, seed_random(seed, "harmful_request"))
    pictures = build_picture_rows(cache, seed_random(seed, "hazard_picture"))
    for split in texts:
        rows = texts[split] + pictures[split]
        seed_random(seed, split).shuffle(rows)
        write_rows(rows, out / f"{split}.parquet")
    write_rows(draw_holdout(cache, seed_random(seed, "holdout")), out / "clean_holdout.parquet")
    write_attack_templates(out / "attack_templates.json", cache)


def seed_random(seed: int, part: str) -> Random:
    """Return the source of all chance in one part, apart from those of the other parts."""
    return Random(f"{seed}-{part}")  # noqa: S311 - repeatable choices, no secrets


def draw_holdout(cache: Path, rng: Random) -> list[Row]:
    """Return benign questions from a source that no other file uses."""
    short = [question for question in read_truthfulqa(cache) if len(question.split()) <= 25]
    return [
        Row(text, 0, "harmful_request", None, "truthfulqa", f"truthfulqa-{index:03d}")
        for index, text in enumerate(rng.sample(short, HOLDOUT_ROWS))
    ]


if __name__ == "__main__":
    main()
