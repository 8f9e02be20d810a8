"""One genome's weights on disk: its own checkpoints, and adapters in PEFT format.

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
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from coralx.adapter_files import SIDECAR, find_changed, read_facts, seal_adapter
from coralx.durable import make_folder, sync_folder
from coralx.errors import GO_ON, CheckpointError, ModelError, StoreError, remedy
from coralx.interrupts import unbroken
from coralx.models import resolve_model
from coralx.records import Genome, LoRAConfig, jsonable
from coralx.train.adapters import Weights
from coralx.train.backbone import Backbone
from coralx.train.digest import fingerprint
from coralx.train.resize import Moments

ADAPTER = "adapter_model.safetensors"  # as PEFT names it, and its settings
SETTINGS = "adapter_config.json"
PROJECTOR = "projector.safetensors"
WRITING = ".writing"  # the suffix of a file that is not whole yet
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
        tensors.update({f"{prefix}/{key}": value for key, value in _flatten(part).items()})
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
        _save(checkpoint_path(folder, name), tensors, facts)
    return name


def checkpoint_path(folder: Path, name: str) -> Path:
    """Where a checkpoint of that id lies."""
    return folder / f"{name}.safetensors"


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
        with safe_open(path, framework="pt") as file:
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


def put_in_place(folder: Path, name: str, lost: str) -> None:
    """Let a checkpoint stand in for one that was lost, under its id.

    Raises:
        CheckpointError: it cannot be read.
        StoreError: the folder cannot be written.
    """
    save_checkpoint(folder, load_checkpoint(folder, name), stands_for=lost)


def _restore(tensors: dict[str, Tensor], facts: dict[str, str]) -> Checkpoint:
    weights, first, second = (_unflatten(tensors, part) for part in ("weights", "first", "second"))
    return Checkpoint(
        genome=facts["genome"],
        stage=facts["stage"],
        lora_cfg=LoRAConfig.model_validate_json(facts["lora_cfg"]),
        weights=weights,
        moments=Moments(first, second, int(facts["step"])),
    )


def export_adapter(
    folder: Path,
    backbone: Backbone,
    genome: Genome,
    lora_cfg: LoRAConfig,
    weights: Weights,
    facts: dict[str, object],
) -> None:
    """Write an adapter that stock peft loads on the base model with one logit
    (`AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)`; with
    `ignore_mismatched_sizes=True` if the base is a classifier of several labels itself, and with
    `dtype` if it is stored in another format than it was trained on). PEFT's settings name that
    base by its folder or hub id. Equal adapters are equal files.

    Beside PEFT's two files lie what PEFT has no place for: `coralx.json` (genome, base model,
    vision tower, threshold) and, with images, the projector. `coralx.json` comes last, once the
    others are on disk, and cannot be changed unseen: see `adapter_files`.

    Raises:
        StoreError: the folder cannot be written.
    """
    try:
        _export(folder, backbone, genome, lora_cfg, weights, facts)
    except OSError as error:
        raise StoreError(_unwritable(folder, error)) from None


def _export(
    folder: Path,
    backbone: Backbone,
    genome: Genome,
    lora_cfg: LoRAConfig,
    weights: Weights,
    facts: dict[str, object],
) -> None:
    from peft import LoraConfig, TaskType

    make_folder(folder)
    (folder / SIDECAR).unlink(missing_ok=True)  # of an adapter that this one takes the place of
    targets = sorted(backbone.full_path(target) for target in weights.lora)
    settings = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        base_model_name_or_path=_find_base(backbone),
        r=lora_cfg.r,
        lora_alpha=lora_cfg.alpha,
        lora_dropout=lora_cfg.dropout,
        use_rslora=lora_cfg.use_rslora,
        target_modules=targets,
        modules_to_save=[backbone.head_name],
        inference_mode=True,
    )
    settings.target_modules = targets  # PEFT made a set of them, in another order each process
    settings.save_pretrained(str(folder))
    tensors = {}
    for target, (a, b) in weights.lora.items():
        path = f"base_model.model.{backbone.full_path(target)}"
        tensors[f"{path}.lora_A.weight"], tensors[f"{path}.lora_B.weight"] = a, b
    for name, value in weights.extra.items():
        part, _, kind = name.partition(".")
        if part == "head":
            tensors[f"base_model.model.{backbone.head_name}.{kind}"] = value
    _save(folder / ADAPTER, tensors, {"format": "pt"})
    files = [SETTINGS, ADAPTER]
    projector = {k: v for k, v in weights.extra.items() if k.startswith("projector.")}
    if projector:
        _save(folder / PROJECTOR, projector, {"format": "pt"})
        files.append(PROJECTOR)
    sidecar = {"genome": jsonable(genome), "lora_cfg": jsonable(lora_cfg), **facts}
    seal_adapter(folder, files, sidecar)


def _find_base(backbone: Backbone) -> str:
    """The base model by a name that stock transformers knows: its folder, or its hub id."""
    found = resolve_model(backbone.name)
    return str(Path(found).absolute()) if Path(found).is_dir() else found


def read_sidecar(folder: Path) -> dict[str, Any]:
    """What `export_adapter` wrote beside the PEFT files.

    Raises:
        ModelError: the folder is no adapter that CoralX exported, or what it says was changed.
    """
    try:
        return read_facts(folder)
    except OSError:
        raise ModelError(
            f"{folder}: not an adapter exported by CoralX (no readable {SIDECAR}); "
            "`coralx export RUN GENOME DIR` writes one"
        ) from None
    except ValueError:
        raise ModelError(
            f"{folder}: its {SIDECAR} is damaged or was changed (what it says must have the "
            "SHA-256 that stands in it); export the genome again"
        ) from None


def check_weights(folder: Path) -> None:
    """Pass if the weights of an exported adapter are those that its sidecar was written for; its
    PEFT settings may be changed, as where the base has another place.

    Raises:
        ModelError: they are not.
    """
    for name in find_changed(folder, read_sidecar(folder)):
        if name in (ADAPTER, PROJECTOR):
            raise ModelError(
                f"{folder}: {name} is not as it was exported (its SHA-256 is not the one in "
                f"{SIDECAR}); export the genome again"
            )


def import_adapter(folder: Path, backbone: Backbone) -> Weights:
    """Read back what `export_adapter` wrote.

    Raises:
        ModelError: files are missing, damaged, of another base model, or hold NaN or infinity.
    """
    try:
        tensors = load_file(folder / ADAPTER)
        extra = load_file(folder / PROJECTOR) if (folder / PROJECTOR).exists() else {}
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{folder}: the adapter cannot be read: {error}") from None
    lora = {}
    for index in range(backbone.depth):
        for path in backbone.linears[index]:
            target = f"{index}.{path}"
            stem = f"base_model.model.{backbone.full_path(target)}"
            if f"{stem}.lora_A.weight" in tensors:
                a, b = tensors[f"{stem}.lora_A.weight"], tensors[f"{stem}.lora_B.weight"]
                lora[target] = (a, b)
    head = f"base_model.model.{backbone.head_name}."
    extra |= {f"head.{k.removeprefix(head)}": v for k, v in tensors.items() if k.startswith(head)}
    weights = Weights(lora, extra)
    if not _fits(weights, backbone):
        raise ModelError(f"{folder}: its adapter does not fit the base model {backbone.name}")
    if not all_finite(weights):
        raise ModelError(f"{folder}: its adapter holds NaN or infinity; export the genome again")
    return weights


def _fits(weights: Weights, backbone: Backbone) -> bool:
    """Whether the shapes are those of adapters of one rank and of a head for one logit."""
    ranks = {rank for a, b in weights.lora.values() for rank in (a.shape[0], b.shape[-1])}
    head = weights.extra.get("head.weight")
    return (
        len(ranks) == 1
        and head is not None
        and head.shape == (1, backbone.hidden)
        and all(
            (b.shape[0], a.shape[-1]) == backbone.linear(target).base.weight.shape
            for target, (a, b) in weights.lora.items()
        )
    )


def _parts(checkpoint: Checkpoint) -> list[tuple[str, Weights]]:
    moments = checkpoint.moments
    return [("weights", checkpoint.weights), ("first", moments.first), ("second", moments.second)]


def _flatten(weights: Weights) -> dict[str, Tensor]:
    tensors = {f"extra/{name}": value for name, value in weights.extra.items()}
    for target, (a, b) in weights.lora.items():
        tensors[f"lora/{target}/A"], tensors[f"lora/{target}/B"] = a, b
    return tensors


def _unflatten(tensors: dict[str, Tensor], prefix: str) -> Weights:
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


def _save(path: Path, tensors: dict[str, Tensor], facts: dict[str, str]) -> None:
    aside = path.with_suffix(WRITING)
    try:
        make_folder(path.parent)
        ready = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
        save_file(ready, aside, metadata=facts)
        _share(aside)
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        aside.replace(path)
        sync_folder(path.parent)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise StoreError(_unwritable(path, error)) from None


def _share(path: Path) -> None:
    """Let others do with a file what the umask lets them; safetensors keeps it to its owner."""
    mask = os.umask(0o077)  # it can only be asked for by setting it
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def _unwritable(path: Path, error: Exception) -> str:
    return f"{path}: cannot be written: {error}; {remedy(error)}: {GO_ON}"


def largest_difference(one: Weights, other: Weights) -> float:
    """Between two values at the same place; infinite where shapes or names differ."""
    before, after = _flatten(one), _flatten(other)
    if {k: v.shape for k, v in before.items()} != {k: v.shape for k, v in after.items()}:
        return float("inf")
    return max(float((before[k].double() - after[k].double()).abs().max()) for k in before)


def all_finite(weights: Weights) -> bool:
    tensors: list[Tensor] = [t for pair in weights.lora.values() for t in pair]
    tensors += list(weights.extra.values())
    return all(bool(torch.isfinite(t).all()) for t in tensors)
