"""Attacks on rows for P2, each applied to unsafe rows and to safe rows in the same way.

Text: jailbreak wrappings and past tense (templates of published attacks, see the data card),
leetspeak, spacing, homoglyphs. Pictures: recolouring, rotation, clutter, overlay. All are fixed
by a seed, so every genome meets the same attacked rows.
"""

from __future__ import annotations

import functools
import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from coralx.rows.pictures import decode_image
from coralx.train.rows import Rows

LEET = str.maketrans("aeiostAEIOST", "431057431057")
# Latin letters -> the Cyrillic ones that look like them, written by code point.
HOMOGLYPHS = str.maketrans(
    "aceiopsxyACEHKMOPTX",
    "\u0430\u0441\u0435\u0456\u043e\u0440\u0455\u0445\u0443"
    "\u0410\u0421\u0415\u041d\u041a\u041c\u041e\u0420\u0422\u0425",
)
SWAPPED_SHARE = 0.5  # of letters swapped by homoglyphs


def wrap_jailbreak(text: str, rng: np.random.Generator) -> str:
    """The text inside a published jailbreak wrapping."""
    template = str(rng.choice([item["template"] for item in _material()["jailbreak"]]))
    return template.replace("{prompt}", text)


def shift_to_past(text: str, rng: np.random.Generator) -> str:
    """The request as a question about the past (Andriushchenko & Flammarion 2024,
    arXiv:2407.11969)."""
    template = str(rng.choice(_material()["past_tense"]["templates"]))
    return template.replace("{goal}", _strip_frame(text))


def write_leetspeak(text: str, rng: np.random.Generator) -> str:
    """Vowels and s, t as digits."""
    return text.translate(LEET)


def space_out(text: str, rng: np.random.Generator) -> str:
    """A space between the letters of about every third long word, and of one at least."""
    words = text.split()
    long = [i for i, word in enumerate(words) if len(word) > 3] or list(range(len(words)))
    chosen = {i for i in long if rng.random() < 1 / 3} or {int(rng.choice(long))}
    return " ".join(" ".join(w) if i in chosen else w for i, w in enumerate(words))


def swap_homoglyphs(text: str, rng: np.random.Generator) -> str:
    """About half the letters that have a look-alike in Cyrillic replaced by it."""
    return "".join(c.translate(HOMOGLYPHS) if rng.random() < SWAPPED_SHARE else c for c in text)


def recolour(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Hue turned by a third of the circle or more."""
    hue, saturation, value = picture.convert("HSV").split()
    turn = int(rng.integers(85, 171))
    turned = hue.point([(i + turn) % 256 for i in range(256)])
    return Image.merge("HSV", (turned, saturation, value)).convert("RGB")


def rotate(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Turned by 60 to 300 degrees on white."""
    return picture.rotate(float(rng.uniform(60, 300)), fillcolor="white")


def clutter(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Twelve small coloured shapes at random places."""
    crowded = picture.copy()
    draw = ImageDraw.Draw(crowded)
    side = min(crowded.size)
    for _ in range(12):
        size = int(side * rng.uniform(0.05, 0.15))
        x, y = (int(rng.integers(0, extent - size)) for extent in crowded.size)
        colour = tuple(int(c) for c in rng.integers(0, 256, 3))
        shape = draw.ellipse if rng.random() < 0.5 else draw.rectangle
        shape((x, y, x + size, y + size), fill=colour)
    return crowded


def overlay(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A harmless object (a ball) over a corner, a third of the width."""
    covered = picture.copy()
    side = covered.width // 3
    x = int(rng.integers(0, 2)) * (covered.width - side)
    y = int(rng.integers(0, 2)) * (covered.height - side)
    draw = ImageDraw.Draw(covered)
    draw.ellipse((x, y, x + side, y + side), fill="tomato", outline="white", width=3)
    draw.arc((x + side // 4, y, x + side, y + side), 90, 270, fill="white", width=3)
    return covered


class Attack(NamedTuple):
    """A kind of attack.

    Args:
        salt: of its random stream, its own for good, so that a further kind changes no other's.
        on: rows without a picture (all when every row has one), all rows, or those with one.
        edit: changes a text or, of `picture`, a picture.
    """

    salt: int
    on: Literal["text", "any", "picture"]
    edit: Callable[[Any, np.random.Generator], Any]


ATTACKS = {
    "jailbreak": Attack(0, "text", wrap_jailbreak),
    "past_tense": Attack(1, "text", shift_to_past),
    "leetspeak": Attack(2, "any", write_leetspeak),
    "spacing": Attack(3, "any", space_out),
    "homoglyph": Attack(4, "any", swap_homoglyphs),
    "recolour": Attack(5, "picture", recolour),
    "rotation": Attack(6, "picture", rotate),
    "clutter": Attack(7, "picture", clutter),
    "overlay": Attack(8, "picture", overlay),
}


@dataclass(frozen=True, eq=False)
class Attacked:
    """Rows after an attack, and the place that each had among the rows before it: (N,)."""

    rows: Rows
    origins: NDArray[np.int64]

    def take(self, places: NDArray[np.int64]) -> Attacked:
        return Attacked(self.rows.take(places), self.origins[places])


def attack_rows(rows: Rows, per_class: int, seed: int, images: bool = True) -> dict[str, Attacked]:
    """Attacked rows by kind: at most `per_class` unsafe and as many safe ones of each.

    Wrappings go on rows without a picture (on all when every row has one), spellings on all,
    picture attacks on rows with a picture. Kinds that lack one of the classes are left out.
    """
    every = range(len(rows))
    plain = [i for i in every if rows.images[i] is None]
    pictured = [i for i in every if rows.images[i] is not None]
    places = {"text": plain or every, "any": every, "picture": pictured if images else []}
    attacked = {}
    for kind, attack in ATTACKS.items():
        rng = np.random.default_rng([seed, attack.salt])
        chosen = _choose(rows, places[attack.on], per_class, rng)
        if chosen:
            attacked[kind] = Attacked(_apply(attack, rows.take(chosen), rng), np.array(chosen))
    return attacked


def _choose(
    rows: Rows, candidates: Sequence[int], per_class: int, rng: np.random.Generator
) -> list[int]:
    """As many rows of each class; empty if a class is missing."""
    chosen: list[int] = []
    by_class = [[i for i in candidates if rows.labels[i] == label] for label in (0, 1)]
    count = min(per_class, *(len(members) for members in by_class))
    for members in by_class:
        chosen.extend(rng.permutation(members)[:count].tolist())
    return sorted(chosen)


def _apply(attack: Attack, rows: Rows, rng: np.random.Generator) -> Rows:
    if attack.on == "picture":
        images = tuple(None if i is None else _edit(i, attack, rng) for i in rows.images)
        return replace(rows, images=images)
    return replace(rows, texts=tuple(attack.edit(text, rng) for text in rows.texts))


def _edit(data: bytes, attack: Attack, rng: np.random.Generator) -> bytes:
    buffer, picture = io.BytesIO(), decode_image(data)
    attack.edit(picture, rng).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


@functools.cache
def _material() -> dict[str, Any]:
    source = resources.files("coralx") / "assets" / "attack_templates.json"
    return json.loads(source.read_text(encoding="utf-8"))  # type: ignore[no-any-return]


@functools.cache
def _frames() -> list[re.Pattern[str]]:
    """Patterns of the frames around a bare goal, the longest first."""
    frames = sorted(_material()["strip_frames"], key=len, reverse=True)
    parts = [re.escape(f.rstrip(".?!")).replace(r"\{goal\}", "(.+?)") for f in frames]
    return [re.compile(f"^{part}[.?!]*$", re.IGNORECASE) for part in parts]


def _strip_frame(text: str) -> str:
    """The bare goal of a request: "How do I bake bread?" -> "bake bread"."""
    for frame in _frames():
        if match := frame.match(text.strip()):
            goal = match.group(1)
            return goal[0].lower() + goal[1:]
    return text.strip().rstrip(".?!")
