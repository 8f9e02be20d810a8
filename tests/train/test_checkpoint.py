"""Checkpoints: what was saved is loaded, and nothing else ever is."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError

from coralx.checkpoint_files import checkpoint_path
from coralx.errors import CheckpointError, StoreError
from coralx.interrupts import stoppable
from coralx.records import LoRAConfig
from coralx.train import checkpoint
from coralx.train.adapters import Weights, largest_difference
from coralx.train.checkpoint import (
    Checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from coralx.train.resize import Moments


def make(genome: str = "aa", stage: str = "S1.x", seed: int = 0) -> Checkpoint:
    chance = torch.Generator().manual_seed(seed)

    def weights() -> Weights:
        pair = (torch.randn(2, 8, generator=chance), torch.randn(6, 2, generator=chance))
        return Weights({"0.query": pair}, {"head.weight": torch.randn(1, 8, generator=chance)})

    return Checkpoint(genome, stage, LoRAConfig(r=2), weights(), Moments(weights(), weights(), 7))


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    saved = make()
    name = save_checkpoint(tmp_path, saved)
    loaded = load_checkpoint(tmp_path, name)
    assert name.startswith("aa/S1.x-")
    assert (loaded.genome, loaded.stage, loaded.lora_cfg) == ("aa", "S1.x", LoRAConfig(r=2))
    assert loaded.moments.step == 7
    for one, other in (
        (loaded.weights, saved.weights),
        (loaded.moments.first, saved.moments.first),
        (loaded.moments.second, saved.moments.second),
    ):
        assert largest_difference(one, other) == 0
    assert not list(tmp_path.rglob("*.writing"))


def test_equal_weights_have_equal_names_and_others_have_others(tmp_path: Path) -> None:
    name = save_checkpoint(tmp_path, make())
    assert save_checkpoint(tmp_path / "again", make()) == name
    stepped = make()
    stepped = replace(stepped, moments=replace(stepped.moments, step=8))
    others = [make(seed=1), make(genome="bb"), replace(make(), lora_cfg=LoRAConfig(r=2, alpha=3))]
    names = {save_checkpoint(tmp_path, other) for other in [*others, stepped]}
    assert len(names | {name}) == 5


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_anywhere_is_noticed(place: float, bit: int, tmp_path: Path) -> None:
    name = save_checkpoint(tmp_path, make())
    path = checkpoint_path(tmp_path, name)
    data = bytearray(path.read_bytes())
    data[int(place * len(data))] ^= 1 << bit
    path.write_bytes(bytes(data))
    try:
        loaded = load_checkpoint(tmp_path, name)
    except CheckpointError:
        return
    # A flip may change what means nothing (blanks of the header), never what is loaded.
    assert largest_difference(loaded.weights, make().weights) == 0
    assert largest_difference(loaded.moments.second, make().moments.second) == 0


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_file_cut_short_is_damaged(share: float, tmp_path: Path) -> None:
    name = save_checkpoint(tmp_path, make())
    path = checkpoint_path(tmp_path, name)
    os.truncate(path, int(share * path.stat().st_size))
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(tmp_path, name)


def test_a_signal_while_a_file_is_read_stops_and_damages_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Raised inside safetensors, KeyboardInterrupt comes out as an error of it."""
    name = save_checkpoint(tmp_path, make())
    usual = checkpoint.safe_open

    def interrupted(*given: Any, **more: Any) -> Any:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt as error:
            raise SafetensorError("could not determine the shape") from error
        return usual(*given, **more)

    monkeypatch.setattr(checkpoint, "safe_open", interrupted)
    with pytest.raises(KeyboardInterrupt), stoppable():
        load_checkpoint(tmp_path, name)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"aa/S0-0{16}: .*aa/S0-0{16}.safetensors is missing"):
        load_checkpoint(tmp_path, "aa/S0-0000000000000000")


def test_a_folder_in_the_place_of_a_file_is_named_and_left(tmp_path: Path) -> None:
    name = save_checkpoint(tmp_path, make())
    path = checkpoint_path(tmp_path, name)
    path.unlink()
    path.mkdir()
    (path / "mine").touch()
    with pytest.raises(StoreError, match=r"must be a checkpoint, and is a folder; move it away"):
        load_checkpoint(tmp_path, name)
    with pytest.raises(StoreError, match=r"cannot be written.*move away what is in its place"):
        save_checkpoint(tmp_path, make())
    assert [child.name for child in path.iterdir()] == ["mine"]
    assert not list(tmp_path.rglob("*.writing"))


@pytest.mark.parametrize(
    "other", [make(genome="bb"), make(stage="S2"), make(seed=1)], ids=["genome", "stage", "weights"]
)
def test_other_weights_under_a_name_are_never_used(other: Checkpoint, tmp_path: Path) -> None:
    """The named failure of today's PBT tools: exploit loads another trial's weights."""
    name, wrong = save_checkpoint(tmp_path, make()), save_checkpoint(tmp_path, other)
    shutil.copy(checkpoint_path(tmp_path, wrong), checkpoint_path(tmp_path, name))
    with pytest.raises(CheckpointError, match="other weights than its name says"):
        load_checkpoint(tmp_path, name)


def test_a_stand_in_loads_under_the_lost_name_alone(tmp_path: Path) -> None:
    lost, again = save_checkpoint(tmp_path, make()), save_checkpoint(tmp_path, make(seed=1))
    checkpoint_path(tmp_path, lost).unlink()
    save_checkpoint(tmp_path, load_checkpoint(tmp_path, again), stands_for=lost)
    loaded = load_checkpoint(tmp_path, lost)
    assert largest_difference(loaded.weights, make(seed=1).weights) == 0
    elsewhere = checkpoint_path(tmp_path, "aa/S1.x-0000000000000000")
    shutil.copy(checkpoint_path(tmp_path, lost), elsewhere)
    with pytest.raises(CheckpointError, match="other weights"):
        load_checkpoint(tmp_path, "aa/S1.x-0000000000000000")


def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "aa").write_text("in the way", encoding="utf-8")
    with pytest.raises(StoreError, match=r"cannot be written.*a run goes on with.*begins anew"):
        save_checkpoint(tmp_path, make())


def test_a_failed_write_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = save_checkpoint(tmp_path, make())

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StoreError, match="No space left"):
        save_checkpoint(tmp_path, make())
    monkeypatch.undo()
    load_checkpoint(tmp_path, name)
    assert len(list(tmp_path.rglob("*.*"))) == 1


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_what_is_written_may_be_read_by_whom_the_umask_lets(
    mask: int, mode: int, tmp_path: Path
) -> None:
    before = os.umask(mask)
    try:
        name = save_checkpoint(tmp_path, make())
    finally:
        os.umask(before)
    assert checkpoint_path(tmp_path, name).stat().st_mode & 0o777 == mode


def test_difference_of_unlike_weights_is_infinite(tmp_path: Path) -> None:
    grown = make().weights
    wider: Callable[[Weights], Weights] = lambda w: Weights(  # noqa: E731
        {"0.query": (torch.zeros(4, 8), torch.zeros(6, 4))}, w.extra
    )
    assert largest_difference(grown, wider(grown)) == float("inf")


def test_a_checkpoint_is_on_disk_before_it_has_its_name_and_the_name_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its record follows: a power cut must not leave a name in the journal and no weights."""
    done: list[tuple[str, int]] = []
    sync, replace = os.fsync, Path.replace

    def note_sync(file: int) -> None:
        done.append(("sync", os.fstat(file).st_ino))
        sync(file)

    def note_name(path: Path, target: Path) -> Path:
        done.append(("name", path.stat().st_ino))
        return replace(path, target)

    (tmp_path / "aa").mkdir()
    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(Path, "replace", note_name)
    path = checkpoint_path(tmp_path, save_checkpoint(tmp_path, make()))
    file, folder = path.stat().st_ino, path.parent.stat().st_ino
    assert done == [("sync", file), ("name", file), ("sync", folder)]
