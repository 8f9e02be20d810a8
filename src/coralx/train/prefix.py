"""The frozen prefix: what lies below the lowest adapted block gives the same output for every
genome, stage and generation, so it is computed once per row and kept.

Letters: B rows, T tokens, D features, S image tokens, V vision features.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from coralx.train.backbone import Backbone
from coralx.train.digest import digest
from coralx.train.prefix_store import PrefixStore
from coralx.train.rows import Rows
from coralx.train.transfer import send
from coralx.train.vision import VisionTower

# At once, at most: attention of a DeBERTa holds several values for each pair of tokens.
PREFIX_BATCH, PREFIX_TOKENS = 32, 4096
GPU_WIDTHS = 8  # batches on a GPU have room for a multiple of so many tokens
Indices = Sequence[int] | NDArray[np.int64]


@dataclass(frozen=True)
class Batch:
    """B rows, ready to enter any block.

    mask (B, T); images (B, S, V) and has_image (B,) are None for batches without any picture.
    `at(depth)` gives what enters block `depth`: (B, T, D).
    """

    mask: Tensor
    images: Tensor | None
    has_image: Tensor | None
    at: Callable[[int], Tensor]


class EncodedRows:
    """Rows as tokens and image features, with the frozen blocks' outputs kept by depth.

    Args:
        keep: False computes the prefix anew for each batch: for rows that are met once, or where
            `training.prefix_cache` is off.
        depths: blocks where genomes may enter, kept together when one of them is computed.
        store: where outputs are kept.
    """

    def __init__(
        self,
        rows: Rows,
        backbone: Backbone,
        tower: VisionTower | None,
        max_tokens: int,
        keep: bool = True,
        depths: Sequence[int] = (),
        store: PrefixStore | None = None,
    ) -> None:
        self.rows = rows
        self._max_tokens = max_tokens
        self._store = store or PrefixStore()
        self._depths = tuple(depths)
        self.backbone, self._keep = backbone, keep
        # `cut` counts the texts that are longer than `max_tokens`, `unknown` those without a token
        # that the model has learnt anything of.
        ids, self.cut = backbone.tokenize(rows.texts, max_tokens) if len(rows) else ([], 0)
        self.unknown = sum(map(backbone.blank_ids.issuperset, ids))
        self.lengths = [len(row) for row in ids]
        self._ids = torch.tensor([0, *(i for row in ids for i in row)], device=backbone.device)
        # Row i's tokens start at offsets[i]; place 0 is the padding.
        self._offsets = 1 + np.concatenate([[0], np.cumsum(self.lengths)])[:-1].astype(np.int64)
        self._images = _encode_images(rows, tower)
        self._alike: dict[bool, NDArray[np.int64]] = {}
        # What enters a block, by its depth: (1 + all tokens, D), place 0 being the padding's.
        self._kept: dict[int, Tensor] = {}

    def __len__(self) -> int:
        return len(self.rows)

    def keys(self, pictured: bool) -> list[tuple[bytes, bytes | None]]:
        """Of each row, what it is to the model: tokens and picture, if that is looked at."""
        flat = self._ids.cpu().numpy()
        spans = zip(self._offsets.tolist(), self.lengths, strict=True)
        ids = [flat[start : start + length].tobytes() for start, length in spans]
        images = self.rows.images if pictured else (None,) * len(self)
        return list(zip(ids, images, strict=True))

    def find_alike(self, pictured: bool) -> NDArray[np.int64]:
        """Of each row the first one that is the same to the model, itself mostly: (N,).

        Alike rows are scored once. In batches of other widths their scores would differ in the last
        digits, and the order of a file would decide what is a tie.
        """
        if pictured not in self._alike:
            first: dict[tuple[bytes, bytes | None], int] = {}
            found = [first.setdefault(key, i) for i, key in enumerate(self.keys(pictured))]
            self._alike[pictured] = np.array(found, dtype=np.int64)
        return self._alike[pictured]

    def batch(self, indices: Indices, images: bool = True) -> Batch:
        """The rows of `indices`; `images` False leaves the pictures out."""
        places, mask = self._places(indices)

        def enter(depth: int) -> Tensor:
            if self._keep:
                self.prepare(depth)
                return self._enter(depth, places)
            return self._compute(self._enter(None, places), mask, 0, depth)

        found = self.image_features(indices) if images else None
        features, has_image = found if found is not None else (None, None)
        return Batch(mask, features, has_image, enter)

    def token_ids(self, indices: Indices) -> Tensor:
        """Padded token ids (B, T)."""
        return self._ids[self._places(indices)[0]]

    def image_features(self, indices: Indices) -> tuple[Tensor, Tensor] | None:
        """Features (B, S, V) and who has a picture (B,); None if nobody has."""
        if self._images is None:
            return None
        features, device = self._images[0], self.backbone.device
        found = torch.from_numpy(self._images[1][list(indices)])
        if not bool((found >= 0).any()):
            return None
        return features[send(found.clamp(min=0), device)], send(found >= 0, device)

    def count(self, indices: Indices, batch: Batch) -> tuple[int, int]:
        """Useful and computed tokens, of texts and pictures, of the batch that was made of these
        rows; the device is not asked for them."""
        useful, computed = sum(self.lengths[i] for i in indices), batch.mask.numel()
        if self._images is not None and batch.images is not None:
            slots = batch.images.shape[1]
            useful += slots * int((self._images[1][list(indices)] >= 0).sum())
            computed += slots * len(batch.mask)
        return useful, computed

    def sorted_batches(self, size: int, chosen: Sequence[int] | None = None) -> list[list[int]]:
        """The rows in batches of about equal length, for evaluation."""
        rows = range(len(self)) if chosen is None else chosen
        order = sorted(rows, key=lambda i: (self.lengths[i], i))
        return [order[i : i + size] for i in range(0, len(order), size)]

    @torch.no_grad()
    def prepare(self, depth: int) -> None:
        """Compute what enters block `depth` now, if it is to be kept, and keep it, as all that
        enters other depths in use on the way there."""
        if not self._keep or depth in self._kept:
            return
        below = max((d for d in self._kept if d < depth), default=None)
        stops = sorted({depth, *(d for d in self._depths if (below or 0) < d < depth)})
        if self._reopen(stops):
            self.prepare(depth)
            return
        keys = {stop: self._key(stop) for stop in stops}
        try:
            made = {stop: self._store.make(keys[stop], *self._form) for stop in stops}
            self._fill(made, below)
            for key in keys.values():
                self._store.keep(key)
        except BaseException:
            for key in keys.values():
                self._store.drop(key)
            raise
        self._kept.update(made)

    def _places(self, indices: Indices) -> tuple[Tensor, Tensor]:
        """Where each row's tokens lie in the flat store, padded with place 0, and the mask."""
        lengths = np.array([self.lengths[i] for i in indices])
        ticks = np.arange(self._width(int(lengths.max())))[None]
        mask = ticks < lengths[:, None]
        places = np.where(mask, self._offsets[list(indices)][:, None] + ticks, 0)
        device = self.backbone.device
        return send(places, device), send(mask, device)

    def _width(self, longest: int) -> int:
        """Tokens that a batch has room for. A GPU has better use for few shapes than for few
        tokens: see `coralx.train.graphs`."""
        if self.backbone.device.type == "cpu":
            return longest
        return max(longest, min(-(-longest // GPU_WIDTHS) * GPU_WIDTHS, self._max_tokens))

    @torch.no_grad()
    def _compute(self, hidden: Tensor, mask: Tensor, start: int, stop: int) -> Tensor:
        for index in range(start, stop):
            hidden = self.backbone.run(hidden, mask, index)
        return hidden

    def _fill(self, made: Mapping[int, Tensor], below: int | None) -> None:
        """Compute the outputs at some depths, in order, from those kept at `below`."""
        size = max(1, min(PREFIX_BATCH, PREFIX_TOKENS // max(self.lengths, default=1)))
        for indices in self.sorted_batches(size):
            places, mask = self._places(indices)
            hidden = self._enter(below, places)
            for start, stop in itertools.pairwise([below or 0, *made]):
                hidden = self._compute(hidden, mask, start, stop)
                home = made[stop].device
                made[stop][places[mask].to(home)] = hidden[mask].to(home)

    @property
    def _form(self) -> tuple[tuple[int, int], torch.dtype, torch.device]:
        """Size, type and device of what is kept at one depth."""
        size = (len(self._ids), self.backbone.hidden)
        return size, self.backbone.dtype, self._ids.device

    def _reopen(self, depths: Sequence[int]) -> bool:
        """Take what an earlier process left in files; whether there was any."""
        found = {depth: self._store.find(self._key(depth), *self._form[:2]) for depth in depths}
        known = {depth: tensor for depth, tensor in found.items() if tensor is not None}
        self._kept.update(known)
        return bool(known)

    def _enter(self, depth: int | None, places: Tensor) -> Tensor:
        """Kept outputs at the entry of a block, or the embeddings: (B, T, D)."""
        if depth is None:
            return self.backbone.embed(self._ids[places])
        kept = self._kept[depth]  # a mapped file is not on the device
        return kept[places.to(kept.device)].to(places.device)

    def _key(self, depth: int) -> str:
        """Names what the outputs depend on; without files nobody asks."""
        if not self._store.has_files:
            return str(depth)
        tokens = self._ids.cpu().numpy().tobytes()
        lengths = np.array(self.lengths, dtype=np.int64).tobytes()
        formats = str(self.backbone.dtype), str(self.backbone.products.dtype)
        made_on = self.backbone.device.type
        facts = (self.backbone.digest, *formats, made_on, torch.__version__, str(depth))
        return digest([*facts, tokens, lengths])


def _encode_images(
    rows: Rows, tower: VisionTower | None
) -> tuple[Tensor, NDArray[np.int64]] | None:
    """(features of the images (n, S, V), index of each row's image or -1 (rows,))."""
    if tower is None or not any(rows.images):
        return None
    images = [data for data in rows.images if data is not None]
    present = np.array([data is not None for data in rows.images])
    return tower.features(images), np.where(present, present.cumsum() - 1, -1)
