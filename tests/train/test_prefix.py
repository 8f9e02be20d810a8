"""The kept prefix is what the frozen blocks give, whatever is beside a row in its batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from coralx.train import prefix
from coralx.train.backbone import Backbone
from coralx.train.prefix import Batch, EncodedRows
from coralx.train.rows import Rows
from coralx.train.vision import VisionTower


@pytest.fixture(scope="module")
def encode(
    backbone: Backbone, mixed_rows: Rows, tower: VisionTower
) -> Callable[[bool], EncodedRows]:
    made = {keep: EncodedRows(mixed_rows, backbone, tower, 20, keep) for keep in (True, False)}
    return made.__getitem__


def _assert_same(one: Batch, two: Batch, depth: int) -> None:
    assert torch.equal(one.mask, two.mask)
    assert (one.at(depth)[one.mask] - two.at(depth)[two.mask]).abs().max() < 1e-5


@pytest.mark.parametrize("depth", [6, 5, 4, 3, 2, 1, 0])
def test_kept_and_computed_anew_are_equal(
    depth: int, encode: Callable[[bool], EncodedRows]
) -> None:
    """Deep ones first, then shallow ones, so that nothing is built on what lies below alone."""
    chosen = [3, 0, 12, 7]
    _assert_same(encode(True).batch(chosen), encode(False).batch(chosen), depth)


def test_a_prefix_built_on_a_kept_one_is_equal(backbone: Backbone, text_rows: Rows) -> None:
    stepwise, direct = (EncodedRows(text_rows, backbone, None, 20) for _ in range(2))
    for depth in (0, 1, 4):
        stepwise.prepare(depth)
    _assert_same(stepwise.batch([1, 5]), direct.batch([1, 5]), 6)


def test_depths_kept_on_the_way_are_those_computed_alone(
    backbone: Backbone, text_rows: Rows
) -> None:
    together = EncodedRows(text_rows, backbone, None, 20, depths=(2, 4, 5))
    together.prepare(5)
    for depth in (2, 4, 5):
        alone = EncodedRows(text_rows, backbone, None, 20)
        _assert_same(together.batch([0, 5, 3]), alone.batch([0, 5, 3]), depth)


def test_few_rows_of_long_texts_are_computed_at_once(
    backbone: Backbone, text_rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What attention takes grows with rows x tokens, in a DeBERTa with tokens once more."""
    seen: list[int] = []
    run = Backbone.run

    def note(own: Backbone, hidden: torch.Tensor, *rest: object) -> torch.Tensor:
        seen.append(hidden.shape[0] * hidden.shape[1])
        return run(own, hidden, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Backbone, "run", note)
    monkeypatch.setattr(prefix, "PREFIX_TOKENS", 100)
    long = replace(text_rows, texts=("how do i make bread now " * 8,) * len(text_rows))
    for rows, least in ((long, 64), (text_rows.take([0, 1]), 1)):
        seen.clear()
        EncodedRows(rows, backbone, None, 48).prepare(1)
        assert least < max(seen) <= 100
    assert len(seen) == 1


def test_each_depth_is_one_block_further(
    encode: Callable[[bool], EncodedRows], backbone: Backbone
) -> None:
    for depth in range(3):
        batch = encode(True).batch([0, 1])
        with torch.no_grad():
            further = backbone.run(batch.at(depth), batch.mask, depth)
        deeper = batch.at(depth + 1)
        assert (further - deeper)[batch.mask].abs().max() < 1e-5
        assert (batch.at(depth) - deeper)[batch.mask].abs().max() > 0.1


@pytest.mark.parametrize("keep", [True, False])
def test_a_row_alone_equals_it_in_a_padded_batch(
    keep: bool, encode: Callable[[bool], EncodedRows]
) -> None:
    encoded = encode(keep)
    shortest = min(range(16), key=encoded.lengths.__getitem__)
    longest = max(range(16), key=encoded.lengths.__getitem__)
    assert encoded.lengths[shortest] < encoded.lengths[longest]
    alone = encoded.batch([shortest])
    padded = encoded.batch([longest, shortest])
    tokens = encoded.lengths[shortest]
    assert padded.mask[1].sum() == tokens == alone.mask.sum()
    assert (padded.at(4)[1, :tokens] - alone.at(4)[0]).abs().max() < 1e-5


@pytest.mark.parametrize("kind", ["llama", "mistral"])
def test_decoders_keep_the_same_prefix(
    kind: str, tiny_model: Callable[[str], Backbone], tiny_rows: Rows
) -> None:
    kept, anew = (EncodedRows(tiny_rows, tiny_model(kind), None, 16, k) for k in (True, False))
    for depth in range(4):
        _assert_same(kept.batch([0, 1, 2, 3]), anew.batch([0, 1, 2, 3]), depth)
        assert kept.batch([0, 1, 2, 3]).at(depth).isfinite().all()


def test_pictures_come_with_their_own_rows(
    encode: Callable[[bool], EncodedRows], mixed_rows: Rows, tower: VisionTower
) -> None:
    chosen = [i for i, image in enumerate(mixed_rows.images) if image is not None][:2]
    without = next(i for i, image in enumerate(mixed_rows.images) if image is None)
    batch = encode(True).batch([chosen[1], without, chosen[0]])
    assert batch.images is not None
    assert batch.has_image is not None
    assert batch.has_image.tolist() == [True, False, True]
    expected = tower.features([mixed_rows.images[i] for i in chosen])  # type: ignore[misc]
    assert (batch.images[[2, 0]] - expected).abs().max() < 1e-4
    assert (expected[0] - expected[1]).abs().max() > 0.5
    assert expected.mean(-1).abs().max() < 1e-4
    assert expected.var(-1).sub(1).abs().max() < 0.01


def test_batches_without_pictures_have_none(
    encode: Callable[[bool], EncodedRows], mixed_rows: Rows
) -> None:
    without = [i for i, image in enumerate(mixed_rows.images) if image is None]
    every = list(range(16))
    for batch in (encode(True).batch(without), encode(True).batch(every, images=False)):
        assert batch.images is None
        assert batch.has_image is None


def test_sorted_batches_hold_every_row_once_by_length(
    encode: Callable[[bool], EncodedRows],
) -> None:
    encoded = encode(True)
    cut = encoded.sorted_batches(5)
    assert [len(rows) for rows in cut] == [5, 5, 5, 1]
    order = [i for rows in cut for i in rows]
    assert sorted(order) == list(range(16))
    assert [encoded.lengths[i] for i in order] == sorted(encoded.lengths)
    some = encoded.sorted_batches(2, [9, 4, 2])
    assert sorted(i for rows in some for i in rows) == [2, 4, 9]


def test_no_rows_are_no_batches(backbone: Backbone, text_rows: Rows) -> None:
    encoded = EncodedRows(text_rows.take([]), backbone, None, 20)
    assert len(encoded) == 0
    assert encoded.sorted_batches(4) == []
    encoded.prepare(3)


def test_widths_on_a_gpu_are_few_and_within_the_limit(
    backbone: Backbone, text_rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = EncodedRows(text_rows, backbone, None, 20)
    monkeypatch.setattr(backbone, "device", torch.device("cuda"))
    assert [encoded._width(size) for size in (1, 8, 9, 17, 20)] == [8, 8, 16, 20, 20]


def test_the_first_picture_is_one_like_the_others(
    encode: Callable[[bool], EncodedRows], mixed_rows: Rows
) -> None:
    """Alone in a batch, where no other picture speaks for it."""
    encoded = encode(True)
    for row in [i for i, image in enumerate(mixed_rows.images) if image is not None]:
        batch = encoded.batch([row])
        assert batch.images is not None
        slots, length = batch.images.shape[1], encoded.lengths[row]
        assert encoded.count([row], batch) == (length + slots, length + slots)
    batch = encoded.batch(range(16))
    computed = 16 * (max(encoded.lengths) + slots)
    assert encoded.count(range(16), batch) == (sum(encoded.lengths) + 8 * slots, computed)
