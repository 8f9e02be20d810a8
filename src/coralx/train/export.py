"""A trained genome as a PEFT adapter, calibrated, with what `predict` needs to know of its run:
written, checked and read back."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from coralx.adapter_files import (
    ADAPTER,
    FILES,
    OTHERS,
    PROJECTOR,
    SETTINGS,
    SIDECAR,
    find_changed,
    read_facts,
    seal_adapter,
)
from coralx.checkpoint_files import WRITING
from coralx.config import Config
from coralx.durable import make_folder, sync_folder
from coralx.errors import ModelError, StoreError
from coralx.interrupts import unbroken
from coralx.models import make_absolute, resolve_model
from coralx.records import Genome, LoRAConfig, TrainingResult, jsonable
from coralx.train.adapters import Weights, all_finite, flatten
from coralx.train.backbone import Backbone
from coralx.train.checkpoint import load_checkpoint, save_tensors, say_unwritable
from coralx.train.scaling import Scaling
from coralx.train.threshold import SERVED

if TYPE_CHECKING:
    from peft import LoraConfig


def export_result(
    config: Config,
    backbone: Backbone,
    checkpoints: Path,
    result: TrainingResult,
    images: bool,
    folder: Path,
) -> None:
    """Write the adapter of a result.

    Args:
        images: whether the run's rows have pictures.

    Raises:
        CheckpointError: its weights are missing or damaged.
        StoreError: it has no weights, or no decision threshold for rows as they are; or the folder
            cannot be written.
    """
    if result.checkpoint is None:
        reason = result.stopped.reason if result.stopped else "it was not trained"
        raise StoreError(
            f"{result.genome.id} left no weights in {result.stage}: {reason}; export the result of "
            "a stage that it passed"
        )
    if config.hyperband.is_proxy(result.stage_index, images):
        raise StoreError(
            f"{result.genome.id} passed no stage after {result.stage}, where rows are scored by "
            "their text alone (hyperband.cross_modal_proxy), so no decision threshold for their "
            "pictures is measured; export a genome that passed a later stage"
        )
    if SERVED not in result.details:
        raise StoreError(
            f"{result.genome.id} passed no stage after {result.stage}, where no decision threshold "
            "is measured; export a genome that passed a later stage"
        )
    known, scaling = load_checkpoint(checkpoints, result.checkpoint), Scaling.of(result.details)
    facts: dict[str, object] = {
        "base_model": config.base_model,
        "dtype": config.training.dtype,
        "vision_tower": config.vision_tower if images else None,
        "image_tokens": config.image_tokens,
        "max_tokens": config.data.max_tokens,
        "text_column": config.data.text_column,
        "image_column": config.data.image_column,
        "threshold": result.details[SERVED],
        "stage": result.stage,
    }
    weights = Weights(known.weights.lora, scaling.fold(known.weights.extra))
    export_adapter(folder, backbone, result.genome, known.lora_cfg, weights, facts)


def load_backbone(config: Config) -> Backbone:
    """The base model alone, in main memory."""
    cpu = torch.device("cpu")
    return Backbone(config.base_model, cpu, torch.float32, config.trust_remote_code)


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

    Beside PEFT's two files lie what PEFT has no place for: `coralx.json` (genome, base model
    with a digest of its files, vision tower, threshold) and, with images, the projector.
    `coralx.json` comes last, once the others are on disk, and cannot be changed unseen: see
    `adapter_files`.

    Raises:
        StoreError: the folder cannot be written, or holds something else than an adapter.
    """
    _check_target(folder)
    settings = _peft_settings(backbone, lora_cfg, weights)
    files = {ADAPTER: _peft_tensors(backbone, weights)}
    projector = {k: v for k, v in weights.extra.items() if k.startswith("projector.")}
    if projector:
        files[PROJECTOR] = projector
    sidecar = {
        "genome": jsonable(genome),
        "lora_cfg": jsonable(lora_cfg),
        "base_digest": backbone.digest,
        **facts,
    }
    # A part of an adapter would be in the way of the same command.
    with unbroken(), _all_or_none(folder, [SETTINGS, *files, SIDECAR]) as place:
        make_folder(place)
        for name in (SIDECAR, SETTINGS, PROJECTOR):  # of one that this takes the place of, or links
            (place / name).unlink(missing_ok=True)
        settings.save_pretrained(str(place))
        for name, tensors in files.items():
            save_tensors(place / name, tensors, {"format": "pt"})
        seal_adapter(place, [SETTINGS, *files], sidecar)


def _check_target(folder: Path) -> None:
    """Pass if nothing lies there but an adapter and what an earlier writer left half done: into a
    base model beside it, transformers would load the adapter from then on.

    Raises:
        StoreError: something does.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise StoreError(
            f"{folder}: is no folder, so no adapter is written there; name another folder"
        )
    for name in sorted(path.name for path in folder.iterdir()):
        if name not in {SIDECAR, *OTHERS} and name[0] != "." and not name.endswith(WRITING):
            raise StoreError(
                f"{folder}: holds {name}, which is no file of an adapter, so none is written "
                "there; move it away, or name a new folder, or one that holds an adapter alone"
            )


@contextlib.contextmanager
def _all_or_none(folder: Path, names: Iterable[str]) -> Iterator[Path]:
    """Where to write these files: of a new folder, beside it, where a process that is killed leaves
    them for the next to remove. If not all can be written, they are removed, and the folder if they
    were all it held.

    Raises:
        StoreError: they cannot.
    """
    place = folder if folder.exists() else folder.with_name(f".{folder.name}{WRITING}")
    try:
        if place != folder:
            shutil.rmtree(place, ignore_errors=True)
        yield place
        if place != folder:
            place.rename(folder)
            sync_folder(folder.parent)
    except (OSError, StoreError) as error:
        with contextlib.suppress(OSError):
            for name in names:
                (place / name).unlink(missing_ok=True)
            place.rmdir()
        if isinstance(error, StoreError):
            raise
        raise StoreError(say_unwritable(folder, error)) from None


def _peft_settings(backbone: Backbone, lora_cfg: LoRAConfig, weights: Weights) -> LoraConfig:
    from peft import LoraConfig, TaskType

    targets = sorted(backbone.full_path(target) for target in weights.lora)
    settings = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        base_model_name_or_path=_find_base(backbone),
        r=lora_cfg.r,
        lora_alpha=lora_cfg.alpha,
        lora_dropout=lora_cfg.dropout,
        use_rslora=lora_cfg.use_rslora,
        target_modules=targets,
        modules_to_save=list(backbone.family.saved),
        inference_mode=True,
    )
    settings.target_modules = targets  # PEFT made a set of them, in another order each process
    return settings


def _peft_tensors(backbone: Backbone, weights: Weights) -> dict[str, Tensor]:
    """The adapter and the classification layer, named as PEFT names them."""
    tensors = {}
    for target, (a, b) in weights.lora.items():
        path = f"base_model.model.{backbone.full_path(target)}"
        tensors[f"{path}.lora_A.weight"], tensors[f"{path}.lora_B.weight"] = a, b
    for name, value in weights.extra.items():
        part, _, kind = name.partition(".")
        if layer := backbone.family.head.get(part):
            tensors[f"base_model.model.{layer}.{kind}"] = value
    return tensors


def _find_base(backbone: Backbone) -> str:
    """The base model by a name that stock transformers knows: its folder, or its hub id."""
    found = resolve_model(backbone.name)
    return str(make_absolute(Path(found))) if Path(found).is_dir() else found


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
    facts = read_sidecar(folder)
    try:
        changed = find_changed(folder, facts)
    except OSError as error:
        raise ModelError(f"{folder}: the adapter cannot be read: {error}") from None
    for name in (ADAPTER, PROJECTOR):
        if name in changed or (name not in facts[FILES] and (folder / name).exists()):
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
        with unbroken():  # a Ctrl-C inside safetensors would be an error of it
            tensors = load_file(folder / ADAPTER)
            extra = load_file(folder / PROJECTOR) if (folder / PROJECTOR).exists() else {}
    except (OSError, SafetensorError) as error:
        raise ModelError(f"{folder}: the adapter cannot be read: {error}") from None
    lora = {}
    for target in backbone.find_targets(("all-linear",), "all"):
        stem = f"base_model.model.{backbone.full_path(target)}"
        a, b = (tensors.get(f"{stem}.lora_{side}.weight") for side in "AB")
        if a is not None and b is not None:
            lora[target] = (a, b)
    for part, path in backbone.family.head.items():
        stem = f"base_model.model.{path}."
        found = {k.removeprefix(stem): v for k, v in tensors.items() if k.startswith(stem)}
        extra |= {f"{part}.{name}": value for name, value in found.items()}
    weights = Weights(lora, extra)
    if not _fits(weights, backbone):
        raise ModelError(f"{folder}: its adapter does not fit the base model {backbone.name}")
    if not all_finite(weights):
        raise ModelError(f"{folder}: its adapter holds NaN or infinity; export the genome again")
    return weights


def _fits(weights: Weights, backbone: Backbone) -> bool:
    """Whether these are adapters of one rank and a head for one logit, in numbers that can be
    scored with."""
    if any(value.dim() != 2 for pair in weights.lora.values() for value in pair):
        return False
    kinds = {value.dtype for value in flatten(weights).values()}
    if not all(kind.is_floating_point and kind.itemsize > 1 for kind in kinds):
        return False
    ranks = {rank for a, b in weights.lora.values() for rank in (a.shape[0], b.shape[-1])}
    shapes = {name: value.shape for name, value in weights.extra.items()}
    head = {name: value.shape for name, value in backbone.given.items()}
    head["head.weight"] = torch.Size((1, backbone.hidden))
    return (
        len(ranks) == 1
        and all(shapes.get(name) == shape for name, shape in head.items())
        and all(
            (b.shape[0], a.shape[-1]) == backbone.linear(target).base.weight.shape
            for target, (a, b) in weights.lora.items()
        )
    )
