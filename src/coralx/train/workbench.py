"""Everything a process needs to train and measure: the base, the rows, what was cached of them.

Loaded once; knows nothing of evolution.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from coralx.config import PREFIX_FOLDER, Config
from coralx.errors import ModelError
from coralx.models import adapted_heights, read_shape
from coralx.records import Genome, LoRAConfig, ModelShape, Start
from coralx.settings.genes import Choice
from coralx.settings.sections import TrainingSettings
from coralx.steps import count_batches
from coralx.train.adapters import PackedAdapters, Weights, new_weights
from coralx.train.backbone import Backbone
from coralx.train.checkpoint import load_checkpoint
from coralx.train.evaluate import EvaluationSet
from coralx.train.frozen import FORMATS, choose_products
from coralx.train.graphs import Recorder
from coralx.train.member import Member, build_pack, empty_moments
from coralx.train.memory import ServedMemory
from coralx.train.merge import SHARES, Parent, merge
from coralx.train.pack_run import Ground
from coralx.train.prefix import EncodedRows
from coralx.train.prefix_store import PrefixStore
from coralx.train.reading import compare_reading
from coralx.train.resize import grow, grow_moments, transplant
from coralx.train.rows import Rows
from coralx.train.seeds import hash_name
from coralx.train.splits import LEAST_SHARE, Splits, count_for_stages, load_splits
from coralx.train.vision import VisionTower

LEAST_ATTACKS = 8  # attacked rows of a kind and class in early stages
TEST_ATTACKS = 4  # times as many attacked rows for final figures as for selection


class Workbench:
    """The frozen base, the vision tower and the rows of one run, in one process.

    Args:
        say: told what is being loaded, in a few words.
        prefix: folder for frozen outputs that do not fit in memory; beside `checkpoints` if None.

    Raises:
        ModelError, DataError: what the configuration names cannot be used.
    """

    def __init__(
        self,
        config: Config,
        checkpoints: Path,
        say: Callable[[str], None] = lambda _: None,
        prefix: Path | None = None,
    ) -> None:
        self.config, self.checkpoints = config, checkpoints
        self.seed = config.evolution.seed
        self.device = choose_device(config.training.device)
        dtype = FORMATS[config.training.dtype]
        say(f"reading rows ({config.data.train or 'built-in data set'})")
        self.splits: Splits = load_splits(config.data, self.seed, say)
        say(f"loading base model {config.base_model}")
        trusted = config.trust_remote_code
        products = choose_products(config.training.frozen_products, dtype, self.device)
        self.backbone = Backbone(config.base_model, self.device, dtype, trusted, products)
        self._check_targets()
        recorded = config.training.cuda_graphs and self.device.type == "cuda"
        self.recorder = Recorder(self.device) if recorded else None
        self.tower = self._load_tower(say)
        self._warn_of_unmeasured(say)
        budget = config.training.prefix_memory_gb * 1e9
        self.prefix = prefix or checkpoints.parent / PREFIX_FOLDER
        self._store = PrefixStore(self.prefix, budget)
        self.rows = self._encode(say)
        self.labels = torch.tensor(self.splits.train.labels, device=self.device).float()
        size = config.training.batch_size
        self.steps_per_epoch = count_batches(len(self.splits.train), size)
        self._validation: EvaluationSet | None = None
        self._parts: dict[float, EvaluationSet] = {}
        self._test: EvaluationSet | None = None
        self._served: ServedMemory | None = None

    @property
    def shape(self) -> ModelShape | None:
        """The sizes that decide how many genomes fit in a pack."""
        value_bytes = 4 if self.backbone.dtype == torch.float32 else 2
        shape = read_shape(self.backbone.path, value_bytes)
        return replace(shape, vision=self.tower.width) if shape and self.tower else shape

    @property
    def ground(self) -> Ground:
        """What stages are trained on."""
        settings = self.config.training
        return Ground(self.backbone, self.rows, self.labels, settings, self.seed, self.recorder)

    @property
    def has_images(self) -> bool:
        return self.tower is not None

    @property
    def depths(self) -> list[int]:
        """The blocks where genomes of the search space enter."""
        heights = adapted_heights(self.config.space, self.backbone.depth)
        return sorted(self.backbone.entry(height) for height in heights)

    def check_objectives(self) -> None:
        """Pass if training can begin: of these rows one objective at least can be measured.

        Raises:
            ConfigError: none can.
        """
        self.config.check_measured(self.splits.measures_pictures)

    def member(self, genome: Genome, start: Start) -> Member:
        """A genome ready to train from where its job says."""
        if start.kind == "continue" and start.checkpoint:
            known = load_checkpoint(self.checkpoints, start.checkpoint)
            lora, weights, moments = known.lora_cfg, known.weights, known.moments
            lora = lora.model_copy(update={"dropout": genome.lora_cfg.dropout})  # by the hook
            if start.grow_to and start.grow_to > lora.r:
                grown = lora.model_copy(update={"r": start.grow_to})
                fresh = self._fresh(genome, grown)
                weights = grow(weights, lora.scale, grown.scale, fresh)
                moments = grow_moments(moments, grown.r, lora.scale, grown.scale)
                lora = grown
        else:
            rank = start.grow_to or genome.lora_cfg.r
            lora = genome.lora_cfg.model_copy(update={"r": rank})
            weights = self._fresh(genome, lora)
            if start.kind == "inherit" and start.checkpoint:
                parent = load_checkpoint(self.checkpoints, start.checkpoint)
                weights = transplant(parent.weights, parent.lora_cfg.scale, lora.scale, weights)
            elif start.kind == "merge":
                weights = self._merge(genome, start, weights)
            moments = empty_moments(weights)
        return Member(genome, lora, weights, moments)

    def pack(self, members: Sequence[Member]) -> PackedAdapters:
        """A pack of the members as they are."""
        return build_pack(members, self.seed, self.device)

    def validation(self, share: float) -> EvaluationSet:
        """Rows for selection: a nested share (per cent, LEAST_SHARE at least), with attacks."""
        share = max(LEAST_SHARE, share)
        if self._validation is None:
            rows, clean = self.splits.validation, self.splits.clean_validation
            self._validation = self._evaluation_set(rows, clean, self.config.training.attack_rows)
        if share >= 100:
            return self._validation
        if share not in self._parts:
            attacks = math.ceil(self.config.training.attack_rows * share / 100)
            self._parts[share] = self._validation.part(share, max(LEAST_ATTACKS, attacks))
        return self._parts[share]

    @property
    def stage_classes(self) -> dict[str, dict[str, int]]:
        """Of each stage that chooses by a share of the validation rows, the unsafe and the safe
        ones among these."""
        return count_for_stages(self.config, self.splits.validation)

    def test(self) -> EvaluationSet:
        """Rows for final figures alone."""
        if self._test is None:
            attacks = TEST_ATTACKS * self.config.training.attack_rows
            self._test = self._evaluation_set(self.splits.test, self.splits.clean_test, attacks)
        return self._test

    def reading(self) -> dict[str, Any]:
        """`max_tokens`, and what `compare_reading` says of the rows."""
        most = self.config.data.max_tokens
        measured = {
            name: EncodedRows(rows, self.backbone, None, most)
            for name, rows in self.splits.measured.items()
        }
        return {"max_tokens": most, **compare_reading(self.rows, measured, self.has_images)}

    def served_bytes(self, member: Member) -> int:
        """P4 of the member."""
        if self._served is None:
            rows, batch = self.splits.validation, self.config.training.evaluation_batch
            images = [image for image in rows.images if image][:batch]
            encoded = self.encode(rows.take(self._find_widest(rows, batch)))
            self._served = ServedMemory(self.backbone, self.tower, encoded, images)
        return self._served.measure(member.weights, self.pack([member]))

    def _find_widest(self, rows: Rows, count: int) -> list[int]:
        """Places of the `count` rows of most tokens, one with a picture among them if any row has
        one: a single picture makes room for image tokens in all rows of its batch."""
        ids, _ = self.backbone.tokenize(rows.texts, self.config.data.max_tokens)
        slots = self.tower.tokens if self.tower else 0
        widths = [
            len(own) + slots * (image is not None)
            for own, image in zip(ids, rows.images, strict=True)
        ]
        order = sorted(range(len(rows)), key=lambda i: -widths[i])
        pictured = [i for i in order if slots and rows.images[i] is not None]
        widest = order[:count]
        if count > 1 and pictured and pictured[0] not in widest:
            widest[-1] = pictured[0]
        return widest

    def _fresh(self, genome: Genome, lora: LoRAConfig) -> Weights:
        """New weights from the genome's own random stream, the longer for a higher rank."""
        return new_weights(
            self.backbone.find_targets(lora.target_modules, lora.layers),
            lora.r,
            self.backbone.linear,
            self.backbone.hidden,
            self.tower.width if self.tower else None,
            self._stream(genome.id),
            self.backbone.given,
        )

    def _merge(self, genome: Genome, start: Start, fresh: Weights) -> Weights:
        """The parents' weights made one as `evolution.crossover_weights` says."""
        settings = self.config.evolution
        known = [load_checkpoint(self.checkpoints, name) for name in start.sources]
        shares = SHARES[settings.merge_shares]
        parents = [
            Parent(parent.weights, parent.lora_cfg.scale, share)
            for parent, share in zip(known, shares, strict=True)
        ]
        scale, chance = genome.lora_cfg.scale, self._stream(f"{genome.id}/merge")
        method, density = settings.crossover_weights, settings.merge_density
        return merge(parents, scale, fresh, method, density, chance)

    def _stream(self, name: str) -> torch.Generator:
        """Random numbers that depend on the run's seed and the name alone."""
        return torch.Generator().manual_seed((self.seed + hash_name(name)) % 2**63)

    def _check_targets(self) -> None:
        """Every target that a genome may draw is there: told now, not in the middle of a run."""
        gene = self.config.space.get("target_modules")
        for value in gene.values if isinstance(gene, Choice) else ():
            if isinstance(value, tuple):
                self.backbone.find_targets(value, "all")

    def _load_tower(self, say: Callable[[str], None]) -> VisionTower | None:
        """The tower, if the rows have pictures and the configuration wants them read."""
        name = self.config.choose_tower(any(self.splits.train.images))
        if name is None:
            column = self.config.data.image_column
            if self.config.vision_tower is not None and column is not None:
                say(
                    f"no training row has a picture in column {column!r} (data.image_column): rows "
                    "are read as text alone"
                )
            return None
        say(f"loading vision tower {name}")
        return VisionTower(name, self.config.image_tokens, self.device)

    def _warn_of_unmeasured(self, say: Callable[[str], None]) -> None:
        pictured = self.splits.measures_pictures
        for text in self.config.unmeasured(pictured, self.tower is not None):
            say(f"warning: {text}")

    def _encode(self, say: Callable[[str], None]) -> EncodedRows:
        count = sum(image is not None for image in self.splits.train.images)
        say(f"encoding {len(self.splits.train)} training rows, {count} with a picture")
        return self.encode(self.splits.train)

    def encode(self, rows: Rows) -> EncodedRows:
        """Rows as tokens and image features, ready for any depth."""
        settings = self.config.training
        return EncodedRows(
            rows,
            self.backbone,
            self.tower,
            self.config.data.max_tokens,
            settings.prefix_cache,
            self.depths,
            self._store,
        )

    def _evaluation_set(self, rows: Rows, clean: Rows, attacks: int) -> EvaluationSet:
        parts = rows, clean, attacks
        return EvaluationSet(*parts, self.seed, self.encode, self.has_images, self.recorder)


def count_threads(settings: TrainingSettings) -> int | None:
    """Those asked for, or this worker's share of the cores; None for those that torch has."""
    if settings.threads is None and settings.workers > 1:
        return max(1, (os.cpu_count() or 1) // settings.workers)
    return settings.threads


def choose_device(
    name: str,
    setting: str = "training.device",
    fix: str = "resume where there is one, or begin a new run with auto",
) -> torch.device:
    """auto is CUDA where there is one, else the CPU.

    Args:
        setting: where the name was given, for errors.
        fix: what to do if CUDA was asked for and there is none.

    Raises:
        ModelError: CUDA was asked for and there is none.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ModelError(f"{setting}: cuda asked for, but torch sees no CUDA device; {fix}")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and available) else "cpu")
