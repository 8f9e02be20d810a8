"""Each attack changes its rows, the same way every time and for both classes alike."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from coralx.train import attacks
from coralx.train.attacks import (
    ATTACKS,
    Attack,
    Attacked,
    attack_rows,
)
from coralx.train.rows import Rows
from coralx.train.splits import Splits

KINDS = list(ATTACKS)
WRAPPINGS, SPELLINGS, PICTURES = (
    [kind for kind, attack in ATTACKS.items() if attack.on == on]
    for on in ("text", "any", "picture")
)


@pytest.fixture(scope="module")
def rows(splits: Splits) -> Rows:
    """Every fifth row of the validation split."""
    return splits.validation.take(range(0, len(splits.validation), 5))


@pytest.fixture(scope="module")
def attacked(rows: Rows) -> dict[str, Rows]:
    return _rows_of(attack_rows(rows, 10, seed=3))


def _rows_of(attacked: dict[str, Attacked]) -> dict[str, Rows]:
    return {kind: own.rows for kind, own in attacked.items()}


def _rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def _pixels(data: bytes) -> NDArray[np.int16]:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), dtype=np.int16)


def _png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def test_every_kind_attacks_as_many_of_both_classes(attacked: dict[str, Rows]) -> None:
    assert list(attacked) == KINDS
    for part in attacked.values():
        assert np.bincount(part.labels).tolist() == [10, 10]


def test_counts_stop_at_the_smaller_class(rows: Rows) -> None:
    pictured = [image is not None for image in rows.images]
    smaller = min(np.bincount(rows.labels[pictured]))
    attacked = _rows_of(attack_rows(rows, 10_000, seed=3))
    assert np.bincount(attacked["rotation"].labels).tolist() == [smaller, smaller]
    assert len(attacked["leetspeak"]) == 2 * min(np.bincount(rows.labels))


def test_equal_seeds_give_equal_rows_and_others_do_not(
    rows: Rows, attacked: dict[str, Rows]
) -> None:
    again, other = (_rows_of(attack_rows(rows, 10, seed)) for seed in (3, 4))
    for kind, part in attacked.items():
        assert (again[kind].texts, again[kind].images) == (part.texts, part.images)
        assert (other[kind].texts, other[kind].images) != (part.texts, part.images)


def test_wrappings_go_on_rows_without_pictures_and_picture_attacks_on_those_with(
    attacked: dict[str, Rows],
) -> None:
    for kind in WRAPPINGS:
        assert not any(attacked[kind].images)
    for kind in PICTURES:
        assert all(attacked[kind].images)
    assert {image is None for image in attacked["leetspeak"].images} == {True, False}


def test_spellings_leave_pictures_and_picture_attacks_leave_texts(
    rows: Rows, attacked: dict[str, Rows]
) -> None:
    assert set(attacked["spacing"].images) <= set(rows.images)
    assert set(attacked["clutter"].texts) <= set(rows.texts)
    assert not set(attacked["spacing"].texts) & set(rows.texts)
    assert not set(attacked["clutter"].images) & set(rows.images)


def test_without_pictures_asked_for_none_are_attacked(rows: Rows) -> None:
    assert list(attack_rows(rows, 2, 0, images=False)) == [*WRAPPINGS, *SPELLINGS]


def test_wrappings_go_on_all_rows_where_every_row_has_a_picture(rows: Rows) -> None:
    pictured = rows.take([i for i, image in enumerate(rows.images) if image is not None])
    attacked = _rows_of(attack_rows(pictured, 3, 0))
    assert list(attacked) == KINDS
    assert all(attacked["jailbreak"].images)


def test_each_attacked_row_knows_the_row_it_was(rows: Rows) -> None:
    for kind, own in attack_rows(rows, 10, seed=3).items():
        before = rows.take(own.origins)
        assert (own.rows.labels == before.labels).all()
        kept = (before.texts, own.rows.texts), (before.images, own.rows.images)
        (one, other) = kept[0] if kind in PICTURES else kept[1]
        assert one == other
        assert len(set(own.origins.tolist())) == len(own.origins)


def test_rows_of_one_class_are_not_attacked(rows: Rows) -> None:
    assert attack_rows(rows.take(np.flatnonzero(rows.labels == 1)), 5, 0) == {}


@pytest.mark.parametrize("kind", [*WRAPPINGS, *SPELLINGS])
def test_text_attacks_change_every_shipped_text(kind: str, splits: Splits) -> None:
    edit, rng = ATTACKS[kind].edit, _rng()
    assert [text for text in splits.validation.texts if edit(text, rng) == text] == []


def test_leetspeak_by_hand() -> None:
    assert attacks.write_leetspeak("Toast is tasty, Bob", _rng()) == "70457 15 7457y, B0b"


def test_spacing_by_hand() -> None:
    assert attacks.space_out("a bc bread", _rng()) == "a bc b r e a d"  # the only long word
    assert attacks.space_out("ab", _rng()) == "a b"
    words = ["bread"] * 3000
    share = attacks.space_out(" ".join(words), _rng()).count("b r e a d") / 3000
    assert share == pytest.approx(1 / 3, abs=0.03)


def test_homoglyphs_by_hand() -> None:
    text = "bake cake " * 200
    swapped = attacks.swap_homoglyphs(text, _rng())
    assert len(swapped) == len(text)
    changed = [(old, new) for old, new in zip(text, swapped, strict=True) if old != new]
    assert set(changed) == {("a", "\u0430"), ("e", "\u0435"), ("c", "\u0441")}
    assert len(changed) / sum(text.count(c) for c in "aec") == pytest.approx(0.5, abs=0.06)


def test_jailbreaks_hold_the_text_and_more() -> None:
    wrapped = {attacks.wrap_jailbreak("BAKE {x} BREAD", _rng(seed)) for seed in range(20)}
    assert all("BAKE {x} BREAD" in text and len(text) > 50 for text in wrapped)
    assert not any("{prompt}" in text for text in wrapped)
    assert len(wrapped) > 3


@pytest.mark.parametrize(
    ("text", "goal"),
    [
        ("How do I bake bread?", "bake bread"),
        ("how do i Bake bread", "bake bread"),
        ("Bread is good!", "read is good"),
    ],
)
def test_past_tense_asks_for_the_bare_goal(text: str, goal: str) -> None:
    asked = {attacks.shift_to_past(text, _rng(seed)) for seed in range(10)}
    assert all(goal in question for question in asked)
    assert not any(
        "{goal}" in question or "!" in question or "How do I" in question for question in asked
    )
    assert len(asked) > 1


@pytest.mark.parametrize("kind", PICTURES)
def test_attacked_pictures_decode_to_the_same_size_and_differ(
    kind: str, rows: Rows, attacked: dict[str, Rows]
) -> None:
    originals = {_pixels(image).shape for image in rows.images if image is not None}
    for image in attacked[kind].images:
        assert image is not None
        assert _pixels(image).shape in originals


EDITS = [ATTACKS[kind].edit for kind in PICTURES]


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("size", [(60, 40), (200, 20), (20, 200), (1, 1), (3, 3)])
def test_picture_attacks_keep_the_size_of_any_picture(
    edit: Callable[..., Image.Image], size: tuple[int, int]
) -> None:
    picture = Image.effect_noise(size, 80).convert("RGB")
    for seed in range(3):
        edited = edit(picture.copy(), _rng(seed))
        assert (edited.size, edited.mode) == (size, "RGB")


@pytest.mark.parametrize("edit", EDITS)
def test_picture_attacks_change_pixels_and_leave_the_original(
    edit: Callable[..., Image.Image],
) -> None:
    picture = Image.linear_gradient("L").resize((60, 40)).convert("RGB")
    picture.paste((200, 30, 60), (10, 10, 30, 30))
    before = np.asarray(picture).copy()
    edited = np.asarray(edit(picture, _rng()), dtype=np.int16)
    assert np.array_equal(np.asarray(picture), before)
    assert (np.abs(edited - before).max(axis=2) > 8).mean() > 0.02


def test_recolouring_turns_the_hue_and_keeps_the_brightness() -> None:
    picture = Image.new("RGB", (4, 4), (200, 40, 40))
    hue, _, value = attacks.recolour(picture, _rng()).convert("HSV").getpixel((0, 0))  # type: ignore[misc]
    assert 84 <= hue <= 172
    assert value == 200


def test_an_overlay_hides_a_corner_and_no_more() -> None:
    picture = Image.new("RGB", (90, 90), "black")
    changed = np.asarray(attacks.overlay(picture, _rng())).any(axis=2)
    rows, columns = np.nonzero(changed)
    assert np.ptp(rows) <= 31
    assert np.ptp(columns) <= 31
    assert {min(rows.min(), 89 - rows.max()), min(columns.min(), 89 - columns.max())} <= {0, 1}
    assert 0.05 < changed.mean() < 0.12


def test_each_kind_draws_rows_of_its_own(rows: Rows) -> None:
    attacked = attack_rows(rows, 10, seed=3)
    for kinds in (WRAPPINGS, SPELLINGS, PICTURES):
        drawn = {tuple(attacked[kind].origins.tolist()) for kind in kinds}
        assert len(drawn) == len(kinds)


def test_a_further_kind_changes_the_rows_of_no_other(
    rows: Rows, attacked: dict[str, Rows], monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = Attack(max(attack.salt for attack in ATTACKS.values()) + 1, "any", lambda t, _: t + "!")
    monkeypatch.setattr(attacks, "ATTACKS", {"shout": fresh, **ATTACKS})
    again = _rows_of(attack_rows(rows, 10, seed=3))
    assert list(again) == ["shout", *KINDS]
    assert {kind: again[kind].fingerprint() for kind in KINDS} == {
        kind: part.fingerprint() for kind, part in attacked.items()
    }


def test_the_random_stream_of_each_kind_is_its_own_for_good() -> None:
    assert {kind: attack.salt for kind, attack in ATTACKS.items()} == {
        "jailbreak": 0,
        "past_tense": 1,
        "leetspeak": 2,
        "spacing": 3,
        "homoglyph": 4,
        "recolour": 5,
        "rotation": 6,
        "clutter": 7,
        "overlay": 8,
    }
