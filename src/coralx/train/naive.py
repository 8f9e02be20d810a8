"""The baseline: one PEFT adapter after another, each trained in full, as people do it by hand.

The Hugging Face idiom: `get_peft_model` on the base model, shuffled batches padded to their
longest row, AdamW, linear warm-up and decay, gradients clipped to norm 1, every layer computed
in every step. Pictures go the LLaVA way: through a linear projector in front of the word
embeddings. It is spared the vision tower, whose features it gets from the workbench's cache, so
what it is slower by is never the pictures' pixels.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraConfig, TaskType, get_peft_model
from torch import Tensor, nn
from torch.nn import functional
from transformers import get_linear_schedule_with_warmup

from coralx.records import Genome, Start
from coralx.steps import whole_steps
from coralx.train.evaluate import EvaluationSet
from coralx.train.families import Family, Roberta
from coralx.train.objectives import Floats, macro_auroc
from coralx.train.prefix import Batch, EncodedRows
from coralx.train.pretrained import load_classifier
from coralx.train.seeds import hash_name
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
    """Base + PEFT adapter + projector: token ids (B, T) and their batch -> logits (B,)."""

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
            modules_to_save=list(backbone.family.saved),
        )
        self.peft: Any = get_peft_model(base, config)
        base.config.use_cache = False
        self._family: Family = type(backbone.family)(base)
        self._head = backbone.family.head["head"]
        width = bench.tower.width if bench.tower else None
        self.projector = nn.Linear(width, backbone.hidden) if width else None

    def forward(self, ids: Tensor, batch: Batch) -> Tensor:
        embedding = self.peft.get_input_embeddings()(ids)
        mask = batch.mask
        positions = torch.arange(ids.shape[1], device=ids.device)[None]
        slots = 0
        if batch.has_image is not None and self.projector is not None:
            tokens = self.projector(batch.images)
            slots = tokens.shape[1]
            seen = batch.has_image[:, None].expand(-1, slots)
            # Behind the text, so that encoders still pool their first token; before it, so that
            # the last token of decoders sees them, or what is near, whatever the padding.
            turn = -1 if self._family.pictures_first else 1
            embedding = torch.cat([embedding, tokens][::turn], dim=1)
            mask = torch.cat([mask, seen][::turn], dim=1)
            # All at position 0, as in packs: one behind the padding would differ by batch.
            positions = torch.cat([positions, positions.new_zeros(1, slots)][::turn], dim=1)
        if isinstance(self._family, Roberta):
            positions = positions + self._family.base.embeddings.padding_idx + 1
        given = {"inputs_embeds": embedding, "attention_mask": mask, "position_ids": positions}
        if self._family.pictures_first:
            return self._score(given, slots)
        return self.peft(**given).logits.squeeze(-1)  # type: ignore[no-any-return]

    def _score(self, given: dict[str, Tensor], slots: int) -> Tensor:
        """Logits where image tokens come first: transformers would pool one of them, or look for a
        decoder's last token at the end of the padding."""
        pooled = self._family.pool(self._family.read(**given), given["attention_mask"], slots)
        head = self._family.classifier.get_submodule(self._head)
        return head(pooled).squeeze(-1)  # type: ignore[no-any-return]


class NaiveRun:
    """One genome in training: up to a number of epochs, measured, and on from there.

    The schedule is laid out for `epochs` whatever the stops on the way, and measuring draws no
    random numbers, so training in parts gives what training in one go gives.

    Args:
        mixed: under `torch.autocast` in bfloat16, instead of PEFT's default float32.
    """

    def __init__(
        self, bench: Workbench, genome: Genome, epochs: float, mixed: bool = False
    ) -> None:
        torch.manual_seed((bench.seed + hash_name(genome.id)) % 2**31)
        self.steps = self.tokens = self.computed_tokens = 0
        self._bench, self._genome, self._mixed = bench, genome, mixed
        self._model = NaiveModel(bench, genome).to(bench.device)
        self._trainable = [p for p in self._model.parameters() if p.requires_grad]
        self._optimizer = torch.optim.AdamW(
            self._trainable, lr=genome.learning_rate, weight_decay=genome.weight_decay
        )
        warmup = round(genome.warmup * bench.steps_per_epoch)
        self._schedule = get_linear_schedule_with_warmup(
            self._optimizer, warmup, self._count(epochs)
        )
        self._batches = self._deal()

    def train_to(
        self, epochs: float, observe: Callable[[int, int], None] = lambda _a, _b: None
    ) -> None:
        """Train until the genome has had `epochs` epochs; `observe` is told (step, steps)."""
        steps = self._count(epochs)
        self._model.train()
        while self.steps < steps:
            self._step(next(self._batches))
            observe(self.steps, steps)

    def measure(self, rows: EvaluationSet) -> dict[str, float]:
        """All objectives on `rows`."""
        every = range(len(rows.encoded))
        scores = self._score(rows.encoded, every, True)
        alone = None
        if rows.has_image.any():
            pictured = np.flatnonzero(rows.has_image).tolist()
            alone = scores[: len(rows.rows)].copy()
            alone[pictured] = self._score(rows.encoded, pictured, False)[pictured]
        objectives, _ = rows.measure(scores, alone)
        plain = {name: float(values[0]) for name, values in objectives.items()}
        return {**plain, "memory": self._served_bytes()}

    def skill(self, rows: EvaluationSet) -> float:
        """P1 alone, for which neither attacked nor foreign rows are scored."""
        found = rows.scored(self._score(rows.encoded, range(len(rows.rows)), True))
        one = np.ones((1, len(found.labels)))
        return float(macro_auroc(found.scores, found.labels, one, found.tasks)[0])

    @property
    def trained(self) -> dict[str, Tensor]:
        """What was trained, by its name in the model: all that tells it from the base."""
        named = self._model.named_parameters()
        return {name: p.detach() for name, p in named if p.requires_grad}

    def take_over(self, trained: Mapping[str, Tensor]) -> None:
        """Have what was trained of the same genome, to measure it; the optimiser starts afresh."""
        self._model.load_state_dict(dict(trained), strict=False)

    def _count(self, epochs: float) -> int:
        return whole_steps(epochs * self._bench.steps_per_epoch)

    def _deal(self) -> Iterator[NDArray[np.int64]]:
        """Batches without end: all rows in a new order each epoch."""
        rng = np.random.default_rng([self._bench.seed, 7])
        size = self._bench.config.training.batch_size
        while True:
            order = rng.permutation(len(self._bench.rows))
            for first in range(0, len(order), size):
                yield order[first : first + size]

    def _step(self, chosen: NDArray[np.int64]) -> None:
        rows, truth = self._bench.rows, self._bench.labels[chosen]
        ids, batch = rows.token_ids(chosen), rows.batch(chosen)
        with self._precision():
            logits = self._model(ids, batch)
        loss = functional.binary_cross_entropy_with_logits(logits.float(), truth)
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._trainable, 1.0)
        self._optimizer.step()
        self._schedule.step()
        self.steps += 1
        useful, computed = rows.count(chosen, batch)
        self.tokens += useful
        self.computed_tokens += computed

    def _precision(self) -> torch.autocast:
        return torch.autocast(self._bench.device.type, torch.bfloat16, enabled=self._mixed)

    def _served_bytes(self) -> float:
        """P4, measured as for a genome of the search: weights' values do not change it."""
        member = self._bench.member(self._genome, Start())
        return float(self._bench.served_bytes(member))

    @torch.no_grad()
    def _score(self, rows: EncodedRows, wanted: Sequence[int], images: bool) -> Floats:
        self._model.eval()
        out, size = np.zeros(len(rows)), self._bench.config.training.evaluation_batch
        alike = rows.find_alike(images)[wanted]
        for chosen in rows.sorted_batches(size, np.unique(alike).tolist()):
            with self._precision():
                logits = self._model(rows.token_ids(chosen), rows.batch(chosen, images))
            out[chosen] = torch.sigmoid(logits.double()).cpu().numpy()
        out[wanted] = out[alike]
        return out


class NaiveTrainer:
    """Trains genomes one by one for `epochs` full epochs on the bench's rows."""

    def __init__(self, bench: Workbench, epochs: float) -> None:
        self._bench, self._epochs = bench, epochs
        self._trained: dict[str, dict[str, Tensor]] = {}  # a whole model each would not fit

    def train(
        self, genome: Genome, observe: Callable[[int, int], None] = lambda _a, _b: None
    ) -> NaiveResult:
        """Train, then measure on validation rows with the same objectives; loading the base is
        not charged, as CoralX is not charged for its own."""
        run = NaiveRun(self._bench, genome, self._epochs)
        began = time.perf_counter()
        run.train_to(self._epochs, observe)
        trained = time.perf_counter()
        validation = run.measure(self._bench.validation(100))
        measured = time.perf_counter()
        self._trained[genome.id] = run.trained
        return NaiveResult(
            genome=genome.id,
            validation=validation,
            steps=run.steps,
            tokens=run.tokens,
            computed_tokens=run.computed_tokens,
            train_seconds=trained - began,
            eval_seconds=measured - trained,
        )

    def test(self, genome: Genome) -> dict[str, float]:
        """Final figures, on the test rows, of a genome trained before."""
        run = NaiveRun(self._bench, genome, self._epochs)
        run.take_over(self._trained[genome.id])
        return run.measure(self._bench.test())
