"""Pictures of rows: opened with care, upright, on white, and kept small; without torch."""

from __future__ import annotations

import contextlib
import io
import warnings

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from coralx.errors import DataError

# Refuse decompression bombs before they are decoded.
MAX_PIXELS = 40_000_000
# Not all that PIL can open: EPS would run Ghostscript, and rare readers are where the holes are.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
# Pixels of a kept picture's longer side, several times what a tower looks at. Pictures stay in
# memory while a run lasts, and photos as they are would be gigabytes.
MAX_SIDE = 512
QUALITY = 95  # of their JPEG


def keep_small(data: bytes) -> bytes:
    """Image bytes as they are or, of a picture of more than MAX_SIDE pixels a side, those of a JPEG
    of so many.

    Raises:
        DataError: as `decode_image`.
    """
    picture = decode_image(data, MAX_SIDE)
    if max(picture.size) <= MAX_SIDE:
        return data
    buffer = io.BytesIO()
    picture.thumbnail((MAX_SIDE, MAX_SIDE))
    picture.save(buffer, "JPEG", quality=QUALITY, subsampling=0)
    return buffer.getvalue()


def decode_image(data: bytes, side: int | None = None) -> Image.Image:
    """RGB picture of image bytes, turned as its EXIF says; transparency is laid on white.

    Args:
        side: pixels that each side will be scaled down to. A JPEG of many more is decoded at a
            half, a quarter or an eighth of its size, twice as many at least, which takes a part of
            the time (as Pillow's `thumbnail` does).

    Raises:
        DataError: not an image of FORMATS, damaged, above MAX_PIXELS, or of values without a known
            white.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what PIL doubts is either fine or refused here
            picture: Image.Image = Image.open(io.BytesIO(data), formats=FORMATS)
            if picture.width * picture.height > MAX_PIXELS:
                raise DataError(
                    f"image of {picture.width} x {picture.height} pixels; at most {MAX_PIXELS:,}; "
                    "scale it down"
                )
            if side is not None:
                picture.draft(None, (2 * side, 2 * side))
            picture.load()
            with contextlib.suppress(Exception):  # damaged EXIF is no damaged picture
                ImageOps.exif_transpose(picture, in_place=True)
            return _on_white(_in_eight_bits(picture))
    except DataError:
        raise
    except Image.DecompressionBombError:
        raise DataError(f"image of more than {MAX_PIXELS:,} pixels; scale it down") from None
    except UnidentifiedImageError:
        raise DataError(f"unreadable image: no picture of {', '.join(FORMATS)}") from None
    except Exception as error:  # PIL raises many kinds on damaged files; all mean: unreadable
        raise DataError(f"unreadable image: {error or type(error).__name__}") from None


def _on_white(picture: Image.Image) -> Image.Image:
    """RGB, without what the file says beside its pixels."""
    if picture.mode in ("RGB", "L") and "transparency" not in picture.info:
        opaque = picture.convert("RGB")
        opaque.info = {}
        return opaque
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB")


def _in_eight_bits(picture: Image.Image) -> Image.Image:
    """PIL would cut greys of more bits off at 255, so that nearly all of them were white."""
    if picture.mode.startswith("I;16"):
        return Image.fromarray((np.asarray(picture) >> 8).astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise DataError(
            f"image of mode {picture.mode} (greys of 32 bits or fractions), of which nothing says "
            "how much is white; save it with 8 bits a channel"
        )
    return picture
