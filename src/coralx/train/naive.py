"""The baseline: one PEFT adapter after another, each trained in full, as people do it by hand.

The Hugging Face idiom: `get_peft_model` on the base model, shuffled batches padded to their
longest row, AdamW, linear warm-up and decay, gradients clipped to norm 1, every layer computed
in every step. Pictures go the LLaVA way: through a linear projector in front of the word
embeddings. It is spared the vision tower, whose features it gets from the workbench's cache, so
what it is slower by is never the pictures' pixels.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, TaskType, get_peft_model
from torch import Tensor, nn
from torch.nn import functional
from transformers import get_linear_schedule_with_warmup

from coralx.records import Genome, Start
from coralx.train.adapters import hash_name
from coralx.train.backbone import load_classifier
from coralx.train.evaluate import EvaluationSet
from coralx.train.objectives import Floats
from coralx.train.prefix import EncodedRows
from coralx.train.workbench import Workbench


@dataclass(frozen=True)
class NaiveResult:
    """What full training of one genome gave on validation rows, and cost."""

    genome: str
    validation: dict[str, float]
    steps: int
    tokens: int
    computed_tokens: int
    train_seconds: float
    eval_seconds: float


class NaiveModel(nn.Module):
    """Base + PEFT adapter + projector: token ids and image features -> logits (B,)."""

    def __init__(self, bench: Workbench, genome: Genome) -> None:
        super().__init__()
        backbone, lora = bench.backbone, genome.lora_cfg
        base: Any = load_classifier(backbone.path, backbone.trust_remote_code)
        targets = backbone.find_targets(lora.target_modules, lora.layers)
        config = LoraConfig(
            task_type=TaskType.SEQ_CLS,
            r=lora.r,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            use_rslora=lora.use_rslora,
            target_modules=[backbone.full_path(target) for target in targets],
            modules_to_save=[backbone.head_name],
        )
        self.peft: Any = get_peft_model(base, config)
        width = bench.tower.width if bench.tower else None
        self.projector = nn.Linear(width, backbone.hidden) if width else None

    def forward(self, ids: Tensor, mask: Tensor, images: Tensor | None, shown: Tensor) -> Tensor:
        embedding = self.peft.get_input_embeddings()(ids)
        if images is not None and self.projector is not None:
            tokens = self.projector(images)
            # Behind the text, so that encoders still pool their first token.
            embedding = torch.cat([embedding, tokens], dim=1)
            slots = shown[:, None].expand(-1, tokens.shape[1]).to(mask.dtype)
            mask = torch.cat([mask, slots], dim=1)
        out = self.peft(inputs_embeds=embedding, attention_mask=mask)
        return out.logits.squeeze(-1)  # type: ignore[no-any-return]


class NaiveTrainer:
    """Trains genomes one by one for `epochs` full epochs on the bench's rows."""

    def __init__(self, bench: Workbench, epochs: float) -> None:
        self._bench, self._epochs = bench, epochs
        self._models: dict[str, NaiveModel] = {}

    def train(
        self, genome: Genome, observe: Callable[[int, int], None] = lambda _a, _b: None
    ) -> NaiveResult:
        """Train, then measure on validation rows with the same objectives."""
        bench = self._bench
        began = time.perf_counter()
        torch.manual_seed((bench.seed + hash_name(genome.id)) % 2**31)
        model = NaiveModel(bench, genome).to(bench.device)
        steps, tokens, computed = self._fit(model, genome, observe)
        trained = time.perf_counter()
        validation = self._measure(model, bench.validation(100), genome)
        measured = time.perf_counter()
        self._models[genome.id] = model
        return NaiveResult(
            genome=genome.id,
            validation=validation,
            steps=steps,
            tokens=tokens,
            computed_tokens=computed,
            train_seconds=trained - began,
            eval_seconds=measured - trained,
        )

    def test(self, genome: Genome) -> dict[str, float]:
        """Final figures, on the test rows, of a genome trained before."""
        return self._measure(self._models[genome.id], self._bench.test(), genome)

    def _fit(
        self, model: NaiveModel, genome: Genome, observe: Callable[[int, int], None]
    ) -> tuple[int, int, int]:
        rows, labels = self._bench.rows, self._bench.labels
        size = self._bench.config.training.batch_size
        steps = math.ceil(self._epochs * self._bench.steps_per_epoch)
        trainable = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            trainable, lr=genome.learning_rate, weight_decay=genome.weight_decay
        )
        warmup = round(genome.warmup * self._bench.steps_per_epoch)
        schedule = get_linear_schedule_with_warmup(optimizer, warmup, steps)
        model.train()
        done = tokens = computed = 0
        rng = np.random.default_rng([self._bench.seed, 7])
        while done < steps:
            order = rng.permutation(len(rows))
            for first in range(0, len(order), size):
                if done == steps:
                    break
                chosen = order[first : first + size]
                batch = gather(rows, chosen.tolist())
                loss = functional.binary_cross_entropy_with_logits(model(*batch), labels[chosen])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(trainable, 1.0)
                optimizer.step()
                schedule.step()
                done += 1
                tokens += int(batch[1].sum())
                computed += batch[1].numel()
                observe(done, steps)
        return done, tokens, computed

    def _measure(self, model: NaiveModel, rows: EvaluationSet, genome: Genome) -> dict[str, float]:
        every = range(len(rows.encoded))
        scores = self._score(model, rows.encoded, every, True)
        alone = None
        if rows.has_image.any():
            pictured = np.flatnonzero(rows.has_image).tolist()
            alone = scores[: len(rows.rows)].copy()
            alone[pictured] = self._score(model, rows.encoded, pictured, False)[pictured]
        objectives, _ = rows.measure(scores, alone)
        plain = {name: float(values[0]) for name, values in objectives.items()}
        return {**plain, "memory": self._served_bytes(genome)}

    def _served_bytes(self, genome: Genome) -> float:
        """P4, measured as for a genome of the search: weights' values do not change it."""
        member = self._bench.member(genome, Start())
        return float(self._bench.served_bytes(member, self._bench.pack([member])))

    @torch.no_grad()
    def _score(
        self, model: NaiveModel, rows: EncodedRows, wanted: Sequence[int], images: bool
    ) -> Floats:
        model.eval()
        out = np.zeros(len(rows))
        for chosen in rows.sorted_batches(self._bench.config.training.evaluation_batch, wanted):
            ids, mask, features, shown = gather(rows, chosen)
            logits = model(ids, mask, features if images else None, shown)
            out[chosen] = torch.sigmoid(logits.double()).cpu().numpy()
        return out


def gather(rows: EncodedRows, chosen: list[int]) -> tuple[Tensor, Tensor, Tensor | None, Tensor]:
    """Token ids (B, T), mask (B, T), image features (B, S, V) or None, who has one (B,)."""
    ids, mask = rows.token_ids(chosen)
    found = rows.image_features(chosen)
    if found is None:
        return ids, mask, None, torch.zeros(len(chosen), dtype=torch.bool, device=ids.device)
    return ids, mask, *found
