"""Pictures decoded with care, and kept small."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

from coralx.errors import DataError
from coralx.rows import pictures
from coralx.rows.pictures import decode_image, keep_small


def _save(picture: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=kind)
    return buffer.getvalue()


def test_colours_survive_and_transparency_is_white() -> None:
    picture = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    picture.putpixel((1, 0), (0, 0, 0, 0))
    decoded = decode_image(_save(picture))
    assert decoded.mode == "RGB"
    assert [decoded.getpixel((x, 0)) for x in (0, 1)] == [(255, 0, 0), (255, 255, 255)]


@pytest.mark.parametrize(
    ("mode", "kind"), [("L", "PNG"), ("P", "GIF"), ("CMYK", "JPEG"), ("1", "PNG"), ("LA", "PNG")]
)
def test_every_mode_becomes_rgb(mode: str, kind: str) -> None:
    decoded = decode_image(_save(Image.new(mode, (5, 3)), kind))
    assert (decoded.mode, decoded.size) == ("RGB", (5, 3))


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_opaque_pictures_are_what_laying_them_on_white_gives(mode: str) -> None:
    picture = Image.effect_noise((30, 20), 90).convert(mode)
    white = Image.new("RGBA", picture.size, "white")
    expected = Image.alpha_composite(white, picture.convert("RGBA")).convert("RGB")
    assert np.array_equal(decode_image(_save(picture)), expected)


def test_a_colour_that_is_declared_transparent_is_white() -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (2, 1), "black").save(buffer, format="PNG", transparency=(0, 0, 0))
    assert decode_image(buffer.getvalue()).getpixel((0, 0)) == (255, 255, 255)


def _with_exif(picture: Image.Image, exif: bytes) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", exif=exif)
    return buffer.getvalue()


def test_a_photo_is_turned_as_its_camera_was() -> None:
    upright = Image.new("RGB", (32, 16), "black")
    upright.paste("white", (0, 0, 16, 16))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # to be turned clockwise by a quarter
    lying = upright.transpose(Image.Transpose.ROTATE_90)
    decoded = decode_image(_with_exif(lying, exif.tobytes()))
    assert decoded.size == (32, 16)
    assert abs(np.asarray(decoded).astype(int) - np.asarray(upright)).mean() < 3
    assert not decoded.getexif()  # else an attack would save it, and it be turned again
    assert not decoded.info


def test_damaged_exif_is_no_damaged_picture() -> None:
    """Of an orientation and a tag of another type than its own, which Pillow cannot pack again."""
    entries = b"\x01\x09\0\x02\0\0\0\x06\0\0\0\x26" + b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0"
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x02" + entries + b"\0\0\0\0hello\0"
    data = _with_exif(Image.new("RGB", (32, 16)), exif)
    with pytest.raises(struct.error):
        ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert decode_image(data).mode == "RGB"


def test_a_large_photo_is_decoded_small_and_looks_the_same() -> None:
    smooth = Image.effect_noise((12, 9), 90).resize((1600, 1200), Image.Resampling.BICUBIC)
    data = _save(smooth.convert("RGB"), "JPEG")
    assert decode_image(data).size == (1600, 1200)
    assert decode_image(data, 128).size == (400, 300)  # a quarter: at an eighth it had 150 rows
    assert decode_image(data, 700).size == (1600, 1200)
    small, whole = (
        np.asarray(picture.resize((128, 128), Image.Resampling.BILINEAR)).astype(int)
        for picture in (decode_image(data, 128), decode_image(data))
    )
    assert abs(small - whole).mean() < 1  # of 255
    with pytest.raises(DataError, match="unreadable image"):
        decode_image(data[: len(data) // 2], 128)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_greys_of_sixteen_bits_are_those_of_eight(kind: str) -> None:
    ramp = np.tile(np.linspace(0, 2**16 - 1, 64).astype(np.uint16), (64, 1))
    data = _save(Image.fromarray(ramp), kind)
    found = decode_image(data)
    assert np.array_equal(found, decode_image(_save(Image.fromarray((ramp >> 8).astype(np.uint8)))))
    with pytest.raises(DataError, match="unreadable image"):
        decode_image(data[: len(data) // 2])


@pytest.mark.parametrize("grey", [np.int32(255), np.float32(0.5)])
def test_greys_without_a_known_white_are_refused(grey: np.generic) -> None:
    data = _save(Image.fromarray(np.full((4, 4), grey)), "TIFF")
    with pytest.raises(DataError, match=r"image of mode [IF] .*; save it with 8 bits a channel"):
        decode_image(data)


def test_large_pictures_are_kept_small() -> None:
    """As they are, photos of a few thousand rows would be gigabytes."""
    photo = Image.effect_noise((16, 8), 90).resize((4000, 2000), Image.Resampling.BICUBIC)
    for kind in ("JPEG", "PNG"):
        kept = keep_small(data := _save(photo.convert("RGB"), kind))
        assert decode_image(kept).size == (512, 256)
        assert len(kept) < len(data) / 10
        one, other = (
            np.asarray(decode_image(d).resize((128, 64), Image.Resampling.BILINEAR)).astype(int)
            for d in (kept, data)
        )
        assert abs(one - other).mean() < 1  # of 255
        assert keep_small(kept) == kept
    assert decode_image(keep_small(_save(photo.resize((900, 3))))).size == (512, 2)
    data = _save(photo.resize((512, 40)))
    assert keep_small(data) == data


@pytest.mark.parametrize("data", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"GIF89a"])
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(DataError, match="unreadable image"):
        decode_image(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_picture_cut_off_is_refused(kind: str) -> None:
    data = _save(Image.effect_noise((40, 40), 90), kind)
    with pytest.raises(DataError, match="unreadable image"):
        decode_image(data[: len(data) // 2])


def test_a_picture_too_large_is_refused_before_it_is_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pictures, "MAX_PIXELS", 99)
    with pytest.raises(DataError, match="10 x 10 pixels; at most 99"):
        decode_image(_save(Image.new("L", (10, 10))))
    assert decode_image(_save(Image.new("L", (9, 11)))).size == (9, 11)
