"""Build the ``hazard_picture`` rows: a request about a pictured object, in four cells."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random

from emoji_pictures import VENDORS, draw_picture, load_emoji
from hazard_policy import Wording, decide_label, list_objects, read_wordings
from PIL import Image
from row_table import Row

# (risky request, hazardous object): the last cell is small, since every row in it would make
# "risky text" and "hazard shown" each a better guess of the label on its own.
CELLS = {(True, True): 0.40, (True, False): 0.27, (False, True): 0.27, (False, False): 0.06}
ROWS = {"train": 1100, "validation": 300, "test": 400}


def build_picture_rows(cache: Path, rng: Random) -> dict[str, list[Row]]:
    """Return the rows of train, validation and test."""
    return {split: _build_split(split, cache, rng) for split in ROWS}


def _build_split(split: str, cache: Path, rng: Random) -> list[Row]:
    emoji = load_emoji(split, list_objects(split), cache)
    pairs: set[tuple[str, str]] = set()
    rows: list[Row] = []
    for (risky, hazard), share in CELLS.items():
        for wording, name in _draw_cell(split, risky, hazard, round(ROWS[split] * share), rng):
            if (wording.text, name) in pairs:
                raise ValueError(f"{wording.text!r} met {name} twice")
            pairs.add((wording.text, name))
            rows.append(_make_row(split, wording, name, emoji[name], hazard, rng))
    return rows


def _draw_cell(
    split: str, risky: bool, hazard: bool, count: int, rng: Random
) -> list[tuple[Wording, str]]:
    """Return ``count`` distinct (wording, object) pairs that use wordings and objects evenly."""
    wordings = [wording for wording in read_wordings(split) if wording.risky == risky]
    names = [name for name, is_hazard in list_objects(split).items() if is_hazard == hazard]
    rng.shuffle(wordings)
    drawn: list[tuple[Wording, str]] = []
    shown: Counter[str] = Counter()
    met: set[tuple[str, str]] = set()
    for index in range(count):
        wording = wordings[index % len(wordings)]
        name = _pick_object(wording.text, names, shown, met, rng)
        shown[name] += 1
        met.add((wording.text, name))
        drawn.append((wording, name))
    return drawn


def _pick_object(
    text: str, names: Sequence[str], shown: Counter[str], met: set[tuple[str, str]], rng: Random
) -> str:
    free = [name for name in names if (text, name) not in met]
    return min(free, key=lambda name: (shown[name], rng.random()))


def _make_row(
    split: str, wording: Wording, name: str, emoji: Image.Image, hazard: bool, rng: Random
) -> Row:
    source = VENDORS[split][2]
    label = decide_label(wording.risky, hazard)
    picture = draw_picture(emoji, rng)
    return Row(wording.text, label, "hazard_picture", picture, source, f"{wording.pair}/{name}")
