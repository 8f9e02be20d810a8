"""Measure a pack of genomes: score rows once, derive every objective from the scores.

Letters: K genomes, N rows.
"""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coralx.errors import ObjectiveError
from coralx.train.adapters import PackedAdapters
from coralx.train.attacks import attack_rows
from coralx.train.data import merge_rows, subset
from coralx.train.graphs import Recorder
from coralx.train.lanes import Lanes, lanes_for
from coralx.train.network import score
from coralx.train.objectives import (
    Floats,
    Resamples,
    auroc,
    calibration,
    centre,
    false_positive_rate,
    macro_auroc,
    resample,
    threshold_at_recall,
)
from coralx.train.prefix import Batch, EncodedRows
from coralx.train.rows import Rows

Measures = dict[str, Floats]


@dataclass(frozen=True)
class Scored:
    """One genome's probabilities for the clean rows of a split; what a user's own objective
    gets, calibrated unless `training.calibrate` is off. `scores`, `labels`, `tasks`,
    `has_image`: (N,), its own to change."""

    scores: Floats
    labels: NDArray[np.int8]
    tasks: NDArray[np.str_]
    has_image: NDArray[np.bool_]


class EvaluationSet:
    """Rows of one split with their attacked versions, encoded together.

    Args:
        clean: benign rows of other sources, counted as safe rows by P3 alone.
        encode: gives rows as tokens and image features, as `Workbench.encode` does.
        per_class: attacked rows of each kind and class; 0 leaves attacks out.
        recorder: for scoring on a GPU; None scores without recordings.
    """

    def __init__(
        self,
        rows: Rows,
        clean: Rows,
        per_class: int,
        seed: int,
        encode: Callable[[Rows], EncodedRows],
        pictured: bool,
        recorder: Recorder | None = None,
    ) -> None:
        attacked = attack_rows(rows, per_class, seed, pictured) if per_class else {}
        everything, places = merge_rows([rows, clean, *(own.rows for own in attacked.values())])
        self.rows, self.clean, self.attacked = rows, clean, attacked
        self._attackable = rows.labels
        self._main, self._clean = places[0], places[1]
        self._attacks = dict(zip(attacked, places[2:], strict=True))
        self.encoded, self._seed, self._recorder = encode(everything), seed, recorder
        self.labels = rows.labels
        self.tasks = np.array(rows.tasks, dtype=np.str_)
        self.has_image = np.array([i is not None for i in rows.images]) & pictured

    def part(self, share: float, per_class: int) -> EvaluationSet:
        """A stratified, nested share (per cent) of the rows and clean rows, and of the attacked
        rows `per_class` of each kind and class; what is encoded is shared."""
        rows, clean = (subset(own, share, self._seed) for own in (self.rows, self.clean))
        attacks = {
            kind: _some_of_each(own.rows.labels, per_class) for kind, own in self.attacked.items()
        }
        part = copy.copy(self)
        part.rows, part.clean = self.rows.take(rows), self.clean.take(clean)
        part.attacked = {kind: self.attacked[kind].take(kept) for kind, kept in attacks.items()}
        part._main, part._clean = self._main[rows], self._clean[clean]
        part._attacks = {kind: self._attacks[kind][kept] for kind, kept in attacks.items()}
        part.labels, part.tasks = self.labels[rows], self.tasks[rows]
        part.has_image = self.has_image[rows]
        return part

    def skill(self, pack: PackedAdapters, batch: int, share: float, images: bool) -> Floats:
        """P1 of each genome on a stratified share (per cent) of the rows alone: (K,)."""
        chosen = subset(self.rows, share, self._seed)
        places = self._main[chosen]
        scores = self._score(pack, places.tolist(), batch, images)[:, places]
        one = np.ones((1, len(chosen)))
        labels, tasks = self.labels[chosen], self.tasks[chosen]
        return np.array([macro_auroc(own, labels, one, tasks)[0] for own in scores])

    def score_all(
        self, pack: PackedAdapters, batch: int, images: bool
    ) -> tuple[Floats, Floats | None]:
        """Probabilities of all rows (K, N), NaN of those that are not of this part, and, with
        images, those of the text alone."""
        every = np.concatenate([self._main, self._clean, *self._attacks.values()]).tolist()
        scores = self._score(pack, every, batch, images)
        if not images or not self.has_image.any():
            return scores, None
        text_alone = scores[:, self._main].copy()
        pictured = self._main[self.has_image].tolist()
        blind = self._score(pack, pictured, batch, False)[:, pictured]
        text_alone[:, self.has_image] = blind
        return scores, text_alone

    def measure(
        self, scores: Floats, text_alone: Floats | None, draws: int = 0
    ) -> tuple[Measures, Measures]:
        """Objectives and details of one genome from its probabilities (N,): each (1 + draws,),
        the value and those of resamples."""
        blocks = [
            self._measure(scores, text_alone, resamples)
            for resamples in resample(draws, self._seed)
        ]
        objectives, details = (_join(parts) for parts in zip(*blocks, strict=True))
        objectives["calibration"] = centre(objectives["calibration"])
        return objectives, {k: v for k, v in details.items() if not np.isnan(v).all()}

    def calibration(self, scores: Floats, draws: int = 0) -> Floats:
        """P6 alone, of one genome's probabilities (N,): (1 + draws,)."""
        main = scores[self._main]
        blocks = [
            calibration(main, self.labels, resamples.unstratified(len(main)))
            for resamples in resample(draws, self._seed)
        ]
        return centre(np.concatenate(blocks))

    def measure_decisions(self, scores: Floats, threshold: float, draws: int = 0) -> Measures:
        """Of one genome's probabilities (N,), where rows at or above a threshold are called unsafe:
        recall, and the false-positive rate over the safe rows that P3 counts. (1 + draws,) each."""
        unsafe, flagged = self.labels == 1, scores[self._main] >= threshold
        clean = scores[self._clean] >= threshold
        none = np.zeros(len(clean), np.int8)
        recall, false = [], []
        for resamples in resample(draws, self._seed):
            weights, more = resamples.weights(self.labels), resamples.weights(none, 1)
            recall.append(weights[:, unsafe & flagged].sum(axis=1) / unsafe.sum())
            wrong = weights[:, ~unsafe & flagged].sum(axis=1) + more[:, clean].sum(axis=1)
            false.append(wrong / ((~unsafe).sum() + len(clean)))
        found = np.concatenate(recall), np.concatenate(false)
        return dict(zip(("as_served/recall", "as_served/false_positive_rate"), found, strict=True))

    def scored(self, scores: Floats) -> Scored:
        """One genome's probabilities with their rows, for a user's own objective. Copies: a
        function that changes them in place must not change what others are measured on."""
        rows = self.labels.copy(), self.tasks.copy(), self.has_image.copy()
        return Scored(scores[self._main], *rows)

    def _measure(
        self, scores: Floats, text_alone: Floats | None, resamples: Resamples
    ) -> tuple[Measures, Measures]:
        """As `measure`, of one block of resamples."""
        main, clean = scores[self._main], scores[self._clean]
        weights = resamples.weights(self.labels)
        everyone = np.concatenate([self.labels, np.zeros(len(clean), np.int8)])
        with_clean = np.concatenate(
            [weights, resamples.weights(np.zeros(len(clean), np.int8), 1)], axis=1
        )
        both = np.concatenate([main, clean])
        objectives = {
            "task_skill": macro_auroc(main, self.labels, weights, self.tasks),
            "false_positive_cost": false_positive_rate(both, everyone, with_clean),
            "calibration": calibration(main, self.labels, resamples.unstratified(len(main))),
        }
        limit = threshold_at_recall(main, self.labels, weights)
        safety, attacks = self._measure_attacks(scores, limit, resamples)
        objectives |= safety
        details = self._by_part(main, weights) | attacks
        if text_alone is not None:
            rows = self.has_image
            alone = auroc(text_alone[rows], self.labels[rows], weights[:, rows])
            full = auroc(main[rows], self.labels[rows], weights[:, rows])
            objectives["cross_modal_gain"] = full - alone
            details["auroc/text_alone"] = alone
        details["threshold"] = limit
        return objectives, details

    def _by_part(self, main: Floats, weights: Floats) -> Measures:
        """AUROC per task and per modality."""
        parts = {f"auroc/task/{t}": self.tasks == t for t in np.unique(self.tasks)}
        if self.has_image.any() and not self.has_image.all():
            parts["auroc/modality/text"] = ~self.has_image
            parts["auroc/modality/image"] = self.has_image
        return {
            name: auroc(main[rows], self.labels[rows], weights[:, rows])
            for name, rows in parts.items()
        }

    def _measure_attacks(
        self, scores: Floats, limit: Floats, resamples: Resamples
    ) -> tuple[Measures, Measures]:
        """P2; and as details each kind's AUROC and share of attacks that succeed, with the mean of
        the latter. Nothing without attacks.

        Kinds attack the same rows, so what is resampled is these, with all that was made of them:
        drawn apart, kinds would pass for independent samples and the interval be too narrow.
        """
        details: Measures = {}
        resisted, escaped = [], []
        drawn = resamples.weights(self._attackable)
        for kind, span in self._attacks.items():
            attacked = self.attacked[kind]
            labels, weights = attacked.rows.labels, drawn[:, attacked.origins]
            found = auroc(scores[span], labels, weights)
            unsafe = weights * (labels == 1)
            under = unsafe * (scores[span][None] < limit[:, None])
            with np.errstate(invalid="ignore"):  # none of a kind's few rows drawn
                success = under.sum(axis=1) / unsafe.sum(axis=1)
            details[f"attack_auroc/{kind}"], details[f"attack_success/{kind}"] = found, success
            resisted.append(found)
            escaped.append(success)
        if not resisted:
            return {}, {}
        details["attack_success"] = np.mean(escaped, axis=0)
        return {"safety": np.mean(resisted, axis=0)}, details

    def _score(
        self,
        pack: PackedAdapters,
        chosen: Sequence[int],
        batch: int,
        images: bool,
    ) -> Floats:
        """Probabilities of the chosen rows (K, N), NaN of others; batches are shared out."""
        alike = self.encoded.find_alike(images)[chosen]
        wanted = np.unique(alike).tolist()
        found = np.full((pack.size, len(self.encoded)), np.nan)
        for entry in sorted(set(pack.entries)):
            self.encoded.prepare(entry)
        count = lanes_for(math.ceil(len(wanted) / batch), self.encoded.backbone.device)
        # No more rows at once than without lanes, as they take memory.
        parts = self.encoded.sorted_batches(max(1, batch // count), wanted)
        lanes = Lanes(count)
        own = (images, found, lanes.check)
        lanes.run(
            [
                functools.partial(self._score_batches, copy.copy(pack), parts[lane::count], *own)
                for lane in range(count)
            ]
        )
        out = np.full_like(found, np.nan)
        out[:, chosen] = found[:, alike]
        return out

    @torch.no_grad()
    def _score_batches(
        self,
        pack: PackedAdapters,
        parts: Sequence[Sequence[int]],
        images: bool,
        out: Floats,
        check: Callable[[], None],
    ) -> None:
        def run(batch: Batch, _: object = None) -> Tensor:
            return score(self.encoded.backbone, pack, batch)

        step = run if self._recorder is None else self._recorder.wrap(run, pack.entries)
        for rows in parts:
            check()
            logits = step(self.encoded.batch(rows, images), None)
            out[:, rows] = torch.sigmoid(logits.double()).cpu().numpy()


def _some_of_each(labels: NDArray[np.int8], count: int) -> NDArray[np.int64]:
    """Places of `count` rows of each class, or all there are, evenly spaced in their order."""
    classes = [np.flatnonzero(labels == label) for label in (0, 1)]
    counts = [min(count, len(own)) for own in classes]
    spaced = [np.arange(n) * len(own) // max(n, 1) for n, own in zip(counts, classes, strict=True)]
    return np.sort(np.concatenate([own[p] for own, p in zip(classes, spaced, strict=True)]))


def apply_objective(
    name: str, function: Callable[[Scored], float], rows: Scored, genome: str
) -> float:
    """What a user's own objective says of a genome.

    Raises:
        ObjectiveError: it raises, or gives no finite number.
    """
    try:
        found = function(rows)
        if isinstance(found, str):
            raise TypeError(f"must be a number, got {found!r}")
        value = float(found)
    except (Exception, SystemExit) as error:  # whatever the function does
        raise ObjectiveError(name, genome, f"{type(error).__name__}: {error}") from error
    if not math.isfinite(value):
        raise ObjectiveError(name, genome, f"must be a finite number, got {value}")
    return value


def _join(parts: Sequence[Measures]) -> Measures:
    """Measures of blocks of resamples, each (size,), end to end."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
