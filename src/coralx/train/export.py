"""A trained genome as a PEFT adapter, calibrated, with what `predict` needs to know of its run."""

from __future__ import annotations

from pathlib import Path

import torch

from coralx.config import Config
from coralx.errors import StoreError
from coralx.records import TrainingResult
from coralx.train.adapters import Weights
from coralx.train.backbone import Backbone
from coralx.train.checkpoint import export_adapter, load_checkpoint
from coralx.train.scaling import Scaling
from coralx.train.threshold import served_threshold


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
        StoreError: it has no decision threshold, or the folder cannot be written.
    """
    if result.checkpoint is None:
        raise ValueError(f"{result.genome.id} left no checkpoint")
    if "threshold" not in result.details:
        raise StoreError(
            f"{result.genome.id} went no further than {result.stage}, where no decision threshold "
            "is measured; export a genome that reached a later stage"
        )
    known, scaling = load_checkpoint(checkpoints, result.checkpoint), Scaling.of(result.details)
    facts: dict[str, object] = {
        "base_model": config.base_model,
        "dtype": config.training.dtype,
        "vision_tower": config.vision_tower if images else None,
        "image_tokens": config.image_tokens,
        "max_tokens": config.data.max_tokens,
        "text_column": config.data.text_column,
        "image_column": config.data.image_column if images else None,
        "threshold": served_threshold(result.details),
        "stage": result.stage,
    }
    weights = Weights(known.weights.lora, scaling.fold(known.weights.extra))
    export_adapter(folder, backbone, result.genome, known.lora_cfg, weights, facts)


def load_backbone(config: Config) -> Backbone:
    """The base model alone, in main memory."""
    cpu = torch.device("cpu")
    return Backbone(config.base_model, cpu, torch.float32, config.trust_remote_code)
