"""Draw an emoji on a 128x128 canvas with a varied background, place, size and angle."""

import io
import json
from collections.abc import Iterable
from pathlib import Path
from random import Random

from PIL import Image
from pinned_packages import NOTO, TWEMOJI, Package, fetch, read_npm_files

SIZE = 128
VENDORS: dict[str, tuple[Package, str, str]] = {
    "train": (NOTO, "google", "noto-emoji"),
    "validation": (NOTO, "google", "noto-emoji"),
    "test": (TWEMOJI, "twitter", "twemoji"),
}


def load_emoji(split: str, names: Iterable[str], cache: Path) -> dict[str, Image.Image]:
    """Return the vendor's own 64 px drawing of every named emoji; raise if it has none."""
    package, vendor, _ = VENDORS[split]
    archive = fetch(package, cache)
    entries = json.loads(read_npm_files(archive, {"emoji.json"})["emoji.json"])
    known = {entry["short_name"]: entry for entry in entries if entry[f"has_img_{vendor}"]}
    paths = {name: f"img/{vendor}/64/{known[name]['image']}" for name in names}
    files = read_npm_files(archive, set(paths.values()))
    return {name: _open(files[path]) for name, path in paths.items()}


def _open(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGBA")


def draw_picture(emoji: Image.Image, rng: Random) -> bytes:
    """Return one rendering as WebP; every choice comes from ``rng``, none from the object."""
    canvas = _draw_background(rng)
    side = rng.randint(60, 96)
    figure = emoji.resize((side, side), Image.Resampling.LANCZOS)
    if rng.random() < 0.5:
        figure = figure.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    figure = figure.rotate(rng.uniform(-18, 18), Image.Resampling.BICUBIC, expand=True)
    place = (rng.randint(0, SIZE - figure.width), rng.randint(0, SIZE - figure.height))
    canvas.paste(figure, place, figure)
    buffer = io.BytesIO()
    canvas.save(buffer, "WEBP", quality=88, method=4)
    return buffer.getvalue()


def _draw_background(rng: Random) -> Image.Image:
    """Return a soft gradient between two random colours."""
    top, bottom = _pick_colour(rng), _pick_colour(rng)
    ramp = Image.linear_gradient("L").resize((SIZE, SIZE))
    ramp = ramp.rotate(rng.choice((0, 90, 180, 270)))
    solid = [Image.new("RGB", (SIZE, SIZE), colour) for colour in (top, bottom)]
    return Image.composite(solid[0], solid[1], ramp)


def _pick_colour(rng: Random) -> tuple[int, int, int]:
    return (rng.randint(70, 255), rng.randint(70, 255), rng.randint(70, 255))
