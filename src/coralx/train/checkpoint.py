"""One genome's weights on disk, as training leaves and takes them.

Safetensors only, written aside and renamed, so that a file is whole or absent. A checkpoint is
named by what is in it: its id ends in the fingerprint of its weights, which is checked on every
load, so weights that are damaged, or another genome's, or of another run, are never used.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from coralx.checkpoint_files import WRITING, checkpoint_path
from coralx.durable import make_folder, put_in_place
from coralx.errors import GO_ON, CheckpointError, StoreError, remedy
from coralx.interrupts import unbroken
from coralx.records import LoRAConfig, jsonable
from coralx.train.adapters import Weights, flatten
from coralx.train.digest import fingerprint
from coralx.train.resize import Moments

SHOWN = 16  # hex digits of the fingerprint in an id


@dataclass(frozen=True)
class Checkpoint:
    """A genome after a stage: the adapter as trained, its weights and AdamW's moments."""

    genome: str
    stage: str
    lora_cfg: LoRAConfig
    weights: Weights
    moments: Moments


def save_checkpoint(folder: Path, checkpoint: Checkpoint, stands_for: str | None = None) -> str:
    """Write it to `<folder>/<id>.safetensors` and give its id, `<genome>/<stage>-<fingerprint>`.

    Args:
        stands_for: the id of a checkpoint that was lost and could not be trained again bit for
            bit; this one is written in its place and loads under its name.

    Raises:
        StoreError: the folder cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    for prefix, part in _parts(checkpoint):
        tensors.update({f"{prefix}/{key}": value for key, value in flatten(part).items()})
    facts = {
        "genome": checkpoint.genome,
        "stage": checkpoint.stage,
        "step": str(checkpoint.moments.step),
        "lora_cfg": json.dumps(jsonable(checkpoint.lora_cfg)),
    }
    mark = fingerprint(tensors, facts)
    name = stands_for or f"{checkpoint.genome}/{checkpoint.stage}-{mark[:SHOWN]}"
    facts |= {"sha256": mark} | ({"stands_for": stands_for} if stands_for else {})
    with unbroken():
        save_tensors(checkpoint_path(folder, name), tensors, facts)
    return name


def load_checkpoint(folder: Path, name: str) -> Checkpoint:
    """Read a checkpoint by its id and verify that it is what the id says.

    Raises:
        CheckpointError: it is missing, damaged, or holds other weights.
        StoreError: a folder has its place, which nothing here removes.
    """
    path = checkpoint_path(folder, name)
    if path.is_dir():
        raise StoreError(
            f"{path}: must be a checkpoint, and is a folder; move it away and resume, which trains "
            "the checkpoint again"
        )
    try:
        # A Ctrl-C that came inside safetensors would be an error of it, as of a damaged file.
        with unbroken(), safe_open(path, framework="pt") as file:
            facts = dict(file.metadata())
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        stated, stands_for = facts.pop("sha256"), facts.pop("stands_for", None)
    except FileNotFoundError:
        raise CheckpointError(name, f"{path} is missing") from None
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(name, f"{path} is damaged: {error}") from None
    found = fingerprint(tensors, facts)
    if found != stated:
        raise CheckpointError(name, f"{path} is damaged: its weights are not those written")
    checkpoint = _restore(tensors, facts)
    if (stands_for or f"{checkpoint.genome}/{checkpoint.stage}-{found[:SHOWN]}") != name:
        raise CheckpointError(name, f"{path} holds other weights than its name says")
    return checkpoint


def is_stand_in(folder: Path, name: str) -> bool:
    """Whether a checkpoint that can be loaded holds other weights than those recorded by its id: a
    repair came to other bits."""
    with unbroken(), safe_open(checkpoint_path(folder, name), framework="pt") as file:
        return "stands_for" in file.metadata()


def _restore(tensors: dict[str, Tensor], facts: dict[str, str]) -> Checkpoint:
    weights, first, second = (_unflatten(tensors, part) for part in ("weights", "first", "second"))
    return Checkpoint(
        genome=facts["genome"],
        stage=facts["stage"],
        lora_cfg=LoRAConfig.model_validate_json(facts["lora_cfg"]),
        weights=weights,
        moments=Moments(first, second, int(facts["step"])),
    )


def _parts(checkpoint: Checkpoint) -> list[tuple[str, Weights]]:
    moments = checkpoint.moments
    return [("weights", checkpoint.weights), ("first", moments.first), ("second", moments.second)]


def _unflatten(tensors: dict[str, Tensor], prefix: str) -> Weights:
    """The inverse of `flatten`, of the tensors whose names begin so."""
    lora: dict[str, tuple[Tensor, Tensor]] = {}
    extra: dict[str, Tensor] = {}
    for key, value in tensors.items():
        part, kind, *rest = key.split("/")
        if part != prefix:
            continue
        if kind == "extra":
            extra[rest[0]] = value
        elif rest[1] == "A":
            lora[rest[0]] = (value, tensors[f"{prefix}/lora/{rest[0]}/B"])
    return Weights(lora, extra)


def save_tensors(path: Path, tensors: dict[str, Tensor], facts: dict[str, str]) -> None:
    """Write a file of tensors with what its header states.

    Raises:
        StoreError: the folder cannot be written.
    """
    aside = path.with_suffix(WRITING)
    try:
        make_folder(path.parent)
        ready = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
        save_file(ready, aside, metadata=facts)
        _share(aside)
        put_in_place(aside, path)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise StoreError(say_unwritable(path, error)) from None


def _share(path: Path) -> None:
    """Let others do with a file what the umask lets them; safetensors keeps it to its owner."""
    mask = os.umask(0o077)  # it can only be asked for by setting it
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def say_unwritable(path: Path, error: Exception) -> str:
    """What is told where weights cannot be written."""
    return f"{path}: cannot be written: {error}; {remedy(error)}: {GO_ON}"
